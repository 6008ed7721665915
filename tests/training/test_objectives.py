"""Objectives: which images go through the model and when, what the seeds' defences add up to, and refusals."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import RecipeError
from unmask.streams import Streams
from unmask.threat import Linf
from unmask.training import (
    Objective,
    PgdAdversary,
    adversarial_training,
    clp,
    frobenius_lsq,
    label_smoothing,
    lsq,
    mixed_minibatch_pgd,
    plain,
    plain_alp,
)
from unmask.training.penalties import (
    adversarial_logit_pairing,
    clean_logit_pairing,
    cross_entropy,
    logit_squeezing,
)

ADVERSARY = PgdAdversary(Linf("0.1"), steps=2, step_size=0.05)


def streams() -> Streams:
    return Streams.derive(0, range(6), "attack")


def no_streams() -> Streams:
    raise AssertionError("random streams were made though nothing is attacked")


def trained_on(small) -> list[Tensor]:
    """Return the image batches of all forwards in train mode."""
    return [images for training, images in small.seen if training]


class TestForwards:
    def test_without_an_adversary_there_is_one_forward_of_the_clean_images(self, small, images) -> None:
        clp().losses(small, *images, no_streams)
        assert len(small.seen) == 1
        torch.testing.assert_close(trained_on(small)[0], images[0], rtol=0, atol=0)

    @pytest.mark.parametrize(
        "objective",
        [mixed_minibatch_pgd(ADVERSARY), plain_alp(ADVERSARY), adversarial_training(ADVERSARY, pairing=1.0)],
        ids=["50% AT", "Plain + ALP", "100% AT + ALP"],
    )
    def test_clean_and_adversarial_images_share_one_train_mode_forward(self, objective, small, images) -> None:
        x, y = images
        objective.losses(small, x, y, streams)
        (both,) = trained_on(small)
        torch.testing.assert_close(both[:6], x, rtol=0, atol=0)
        x_adv = both[6:]
        assert x_adv.shape == x.shape
        assert 0 < (x_adv - x).abs().max() <= 0.1 + 1e-6
        assert small.norm.num_batches_tracked == 1

    def test_100_percent_adversarial_training_forwards_adversarial_images_only(self, small, images) -> None:
        x, y = images
        adversarial_training(ADVERSARY).losses(small, x, y, streams)
        (x_adv,) = trained_on(small)
        assert x_adv.shape == x.shape
        assert (x_adv - x).abs().flatten(1).amax(1).min() > 0
        assert len(small.seen) == 1 + ADVERSARY.steps

    def test_the_adversary_attacks_the_images_with_their_streams(self, small, images) -> None:
        expected = ADVERSARY(small, *images, streams())
        small.seen.clear()
        adversarial_training(ADVERSARY).losses(small, *images, streams)
        torch.testing.assert_close(trained_on(small)[0], expected, rtol=0, atol=0)

    def test_gradients_reach_the_weights_through_both_halves(self, network, images) -> None:
        objective = plain_alp(ADVERSARY)
        losses = objective.losses(network, *images, streams)
        objective.total(losses).backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


class TestValues:
    """Every defence by name equals its formula, computed here from the logits of the same images."""

    @pytest.fixture
    def halves(self, network, images) -> tuple[Tensor, Tensor, Tensor]:
        x, y = images
        x_adv = ADVERSARY(network, x, y, streams())
        with torch.no_grad():
            return network(x), network(x_adv), y

    def total(self, objective: Objective, network, images) -> float:
        return float(objective.total(objective.losses(network, *images, streams)).detach())

    def test_plain(self, network, images, halves) -> None:
        z, _, y = halves
        assert self.total(plain(), network, images) == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)

    def test_label_smoothing(self, network, images, halves) -> None:
        z, _, y = halves
        targets = 0.05 * F.one_hot(y, 10) + 0.95 / 10
        expected = -(targets * z.log_softmax(1)).sum(1).mean().item()
        assert self.total(label_smoothing(0.95), network, images) == pytest.approx(expected, rel=1e-5)

    def test_clean_logit_pairing(self, network, images, halves) -> None:
        z, _, y = halves
        expected = F.cross_entropy(z, y) + 0.5 * (z[:3] - z[3:]).square().mean()
        assert self.total(clp(0.5), network, images) == pytest.approx(expected.item(), rel=1e-5)

    def test_logit_squeezing(self, network, images, halves) -> None:
        z, _, y = halves
        expected = F.cross_entropy(z, y) + 0.5 * z.norm(dim=1).mean()
        assert self.total(lsq(0.5), network, images) == pytest.approx(expected.item(), rel=1e-5)

    def test_frobenius_squeezing_pairs_with_summed_cross_entropy(self, network, images, halves) -> None:
        z, _, y = halves
        expected = F.cross_entropy(z, y, reduction="sum") + 2 * z.norm()
        assert self.total(frobenius_lsq(2.0), network, images) == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("objective", "clean", "adversarial", "pairing"),
        [
            (plain_alp(ADVERSARY), 1, 0, 1),
            (plain_alp(ADVERSARY, 0.2), 1, 0, 0.2),
            (mixed_minibatch_pgd(ADVERSARY), 0.5, 0.5, 0),
            (mixed_minibatch_pgd(ADVERSARY, 1.0), 0.5, 0.5, 1),
            (adversarial_training(ADVERSARY, 0.5, pairing=1.0), 0.5, 0.5, 1),
            (adversarial_training(ADVERSARY, 0.25), 0.75, 0.25, 0),
            (adversarial_training(ADVERSARY), 0, 1, 0),
            (adversarial_training(ADVERSARY, pairing=1.0), 0, 1, 1),
        ],
    )
    def test_adversarial_defences(self, objective, clean, adversarial, pairing, network, images, halves) -> None:
        z, z_adv, y = halves
        expected = clean * F.cross_entropy(z, y) + adversarial * F.cross_entropy(z_adv, y)
        expected = expected + pairing * (z - z_adv).square().mean()
        assert self.total(objective, network, images) == pytest.approx(expected.item(), rel=1e-5)

    def test_terms_without_weight_are_not_computed(self, network, images) -> None:
        assert list(adversarial_training(ADVERSARY).losses(network, *images, streams)) == ["adversarial_cross_entropy"]
        assert list(mixed_minibatch_pgd(ADVERSARY, 1.0).losses(network, *images, streams)) == [
            "cross_entropy", "adversarial_cross_entropy", "adversarial_logit_pairing",
        ]  # fmt: skip

    def test_losses_are_unweighted_by_name(self, network, images) -> None:
        once, twice = (clp(weight).losses(network, *images, no_streams) for weight in (1.0, 2.0))
        assert once.keys() == {"cross_entropy", "clean_logit_pairing"}
        torch.testing.assert_close(once["clean_logit_pairing"], twice["clean_logit_pairing"])


class TestRefusals:
    def test_no_terms(self) -> None:
        with pytest.raises(RecipeError, match="has no terms"):
            Objective(())

    def test_two_terms_of_one_name(self) -> None:
        with pytest.raises(RecipeError, match=r"cross_entropy, cross_entropy.*its own name"):
            Objective((cross_entropy(0.5), cross_entropy(0.5, label_smoothing=0.1)))

    def test_squeezing_both_halves_is_two_terms(self, network, images) -> None:
        both = Objective((cross_entropy(), logit_squeezing(1.0), logit_squeezing(1.0, on="adversarial")), ADVERSARY)
        assert len(both.losses(network, *images, streams)) == 3

    def test_an_adversarial_term_without_an_adversary(self) -> None:
        terms = (cross_entropy(), adversarial_logit_pairing(1.0))
        with pytest.raises(RecipeError, match=r"adversarial_logit_pairing need.*give the objective an adversary"):
            Objective(terms)

    @pytest.mark.parametrize("terms", [(cross_entropy(),), (cross_entropy(), clean_logit_pairing(1.0))])
    def test_an_adversary_that_nothing_needs(self, terms) -> None:
        with pytest.raises(RecipeError, match="no term uses adversarial images"):
            Objective(terms, ADVERSARY)

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_a_share_outside_0_to_1(self, share: float) -> None:
        with pytest.raises(RecipeError, match=r"adversarial share is .* between 0 and 1"):
            adversarial_training(ADVERSARY, share)

    def test_a_negative_pairing_weight(self) -> None:
        with pytest.raises(RecipeError, match=r"pairing weight is -1\.0"):
            adversarial_training(ADVERSARY, pairing=-1.0)

    def test_a_share_of_0_without_pairing_needs_no_adversary(self) -> None:
        with pytest.raises(RecipeError, match="no term uses adversarial images"):
            adversarial_training(ADVERSARY, share=0)


def test_descriptions_are_plain_values_that_tell_objectives_apart() -> None:
    objectives = [
        plain(), label_smoothing(0.1), label_smoothing(0.1, "wrong_classes"), clp(0.5), clp(0.2), lsq(0.5),
        frobenius_lsq(0.5), plain_alp(ADVERSARY), mixed_minibatch_pgd(ADVERSARY), adversarial_training(ADVERSARY),
        adversarial_training(PgdAdversary(Linf("0.1"), steps=2, step_size=0.05, aim="least_likely")),
        adversarial_training(PgdAdversary(Linf("0.1"), steps=3, step_size=0.05)),
        adversarial_training(PgdAdversary(Linf("0.2"), steps=2, step_size=0.05)),
    ]  # fmt: skip
    described = {json.dumps(objective.describe(), sort_keys=True) for objective in objectives}
    assert len(described) == len(objectives)
