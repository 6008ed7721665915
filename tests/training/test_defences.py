"""The field's defences beyond logit penalties: adversaries, penalties that look at the model, weights, batch norm."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data import DataSet
from unmask.distributed import Workers
from unmask.errors import RecipeError
from unmask.losses import divergence
from unmask.models import build
from unmask.streams import Streams, derive_generator
from unmask.threat import L2, Linf
from unmask.training import (
    EnsembleAdversary,
    FreeAdversary,
    Objective,
    Optimizer,
    PgdAdversary,
    Training,
    Validation,
    VirtualAdversary,
    WeightAdversary,
    adversarial_training,
    clp,
    fast_adversarial_training,
    fit,
    free_adversarial_training,
    frobenius_lsq,
    mart,
    mixed_minibatch_pgd,
    paired_features,
    plain,
    trades,
    vat,
)
from unmask.training.augment import mixed
from unmask.training.batch_norm import TwoNorms, add_auxiliary, drop_auxiliary, refresh
from unmask.training.penalties import Batch, feature_pairing, gradient_alignment
from unmask.training.sharing import places

THREAT = Linf("0.1")
ADVERSARY = PgdAdversary(THREAT, steps=3, step_size=0.05)
TRADES = PgdAdversary(THREAT, steps=5, step_size=0.03, loss="divergence", start="gaussian")
SGD = Optimizer("sgd", 0.05)


def streams(count: int = 6) -> Streams:
    return Streams.derive(7, range(count), "attack")


class Linear(nn.Module):
    """A linear classifier of 16 pixels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


SMALL_X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
SMALL_Y = torch.tensor([0, 1, 0, 1, 0, 1])


class TestAdversaries:
    def test_the_divergence_is_climbed_without_looking_at_labels(self, network, images) -> None:
        x, y = images
        x_adv = TRADES(network, x, y, streams())
        assert THREAT.contains(x_adv, x).all()
        torch.testing.assert_close(TRADES(network, x, y.flip(0), streams()), x_adv)
        with torch.no_grad():
            near = divergence(network(x), network(x + 0.1 * (2 * streams().uniform(x.shape[1:]) - 1)))
            assert (divergence(network(x), network(x_adv)) > near).all()

    def test_bf16_finds_nearly_the_same_points_within_the_threat(self, network, images) -> None:
        x, y = images
        exact, half = (
            ADVERSARY(network, x, y, streams()),
            replace(ADVERSARY, precision="bfloat16")(network, x, y, streams()),
        )
        assert half.dtype == x.dtype
        assert THREAT.contains(half, x).all()
        with torch.no_grad():
            losses = [F.cross_entropy(network(found), y) for found in (x, exact, half)]
        assert losses[2] - losses[0] > 0.8 * (losses[1] - losses[0])

    def test_the_virtual_direction_is_the_one_of_largest_curvature(self) -> None:
        model = Linear().double()
        x = SMALL_X.double()
        x_adv = VirtualAdversary(0.5, xi=1e-4, iterations=50)(model, x, SMALL_Y, streams())
        with torch.no_grad():
            for image, moved in zip(x, x_adv, strict=True):
                p = model(image[None]).softmax(1)[0]
                hessian = model.weight.T @ (torch.diag(p) - torch.outer(p, p)) @ model.weight
                steepest = torch.linalg.eigh(hessian).eigenvectors[:, -1]
                direction = (moved - image).flatten()
                assert direction.norm() == pytest.approx(0.5)
                assert abs(float(direction @ steepest)) / 0.5 > 0.999

    def test_an_ensemble_attacks_each_image_on_one_of_its_models(self, network, images) -> None:
        x, y = images
        other = build("digits-cnn", generator=derive_generator("other"))
        ensemble = EnsembleAdversary(ADVERSARY, ("other",), (other,))
        x_adv = ensemble(network, x, y, streams())
        drawn = streams().child("source").integers(2)
        assert set(drawn.tolist()) == {0, 1}
        for source, model in enumerate((network, other)):
            rows = (drawn == source).nonzero().flatten()
            expected = ADVERSARY(model, x[rows], y[rows], streams().select(rows))
            torch.testing.assert_close(x_adv[rows], expected)

    def test_an_ensemble_without_its_models_says_so(self, network, images) -> None:
        with pytest.raises(RecipeError, match="surrogates mnist-plain are not loaded"):
            EnsembleAdversary(ADVERSARY, ("mnist-plain",))(network, *images, streams())

    def test_a_free_perturbation_takes_a_step_of_eps_along_the_gradient_of_the_training_pass(self, images) -> None:
        x, _ = images
        adversary, memory = FreeAdversary(THREAT, replays=2), {}
        leaf = adversary(nn.Identity(), x, torch.zeros(6), streams(), memory)
        assert torch.equal(leaf, x) and leaf.requires_grad
        slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        (leaf * slope).sum().backward()
        adversary.learn(x, leaf, memory)
        torch.testing.assert_close(memory["perturbation"], THREAT.project(x + 0.1 * slope.sign(), x) - x)
        again = adversary(nn.Identity(), x, torch.zeros(6), streams(), memory)
        torch.testing.assert_close(again.detach(), x + memory["perturbation"])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: replace(ADVERSARY, loss="divergance"), "no loss of the adversary.*Did you mean 'divergence'"),
            (lambda: replace(TRADES, aim="random"), "divergence with aim random"),
            (lambda: replace(TRADES, start="clean"), "no slope at the image itself"),
            (lambda: replace(ADVERSARY, precision="half"), "no precision of the adversary 'half'"),
            (lambda: VirtualAdversary(0.0), "lengths above 0"),
            (lambda: EnsembleAdversary(ADVERSARY, ()), "no surrogates"),
            (lambda: FreeAdversary(THREAT, 0), "replays each batch 0 times"),
            (lambda: WeightAdversary(0.0), "gamma 0.0"),
        ],
    )
    def test_settings_without_sense_are_refused(self, make, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            make()


class TestPenaltiesOfTheModel:
    def test_paired_features_are_what_the_last_linear_layer_is_given(self, small, images) -> None:
        x, y = images
        objective = Objective(
            (*mixed_minibatch_pgd(ADVERSARY).terms, feature_pairing(1.0)), replace(ADVERSARY, eval_mode=True)
        )
        inputs = objective.attack(small, x, y, streams)
        found = objective.measure(small, inputs)["feature_pairing"]
        both = torch.cat([x, inputs.x_adv])
        features = torch.relu(small.norm(small.conv(both))).mean((2, 3))
        torch.testing.assert_close(found, F.mse_loss(features[:6], features[6:]))

    def test_features_are_refused_where_there_is_no_linear_layer(self, images) -> None:
        model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
        with pytest.raises(RecipeError, match="no linear layer"):
            paired_features(ADVERSARY).losses(model, *images, streams)

    def test_aligned_gradients_cost_nothing_and_crossed_ones_two(self) -> None:
        model = Linear(classes=2)
        term = gradient_alignment(1.0, Linf(0.3))
        aligned = term.function(Batch(SMALL_X, SMALL_Y, model=model, streams=streams()))
        assert aligned.item() == pytest.approx(0, abs=1e-6)

        class Folded(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                """A ridge at 0.5: a step over it turns the gradient around."""
                height = -(x.flatten(1) - 0.5).abs().sum(1)
                return torch.stack([height, -height], 1)

        on_the_ridge = torch.full((6, 1, 4, 4), 0.5)
        value = term.function(Batch(on_the_ridge - 1e-3, SMALL_Y, model=Folded(), streams=streams()))
        assert 0.2 < value.item() < 2

    def test_the_gradient_of_gradient_alignment_reaches_the_weights_and_no_statistics(self, small, images) -> None:
        small.train()
        before = {name: buffer.clone() for name, buffer in small.named_buffers()}
        loss = gradient_alignment(1.0, THREAT).function(Batch(*images, model=small, streams=streams()))
        loss.backward()
        assert small.conv.weight.grad.abs().sum() > 0
        assert all(torch.equal(buffer, before[name]) for name, buffer in small.named_buffers())


class TestWeights:
    def test_kernels_move_by_gamma_times_their_norm_up_the_loss_and_come_back(self, small, images) -> None:
        x, y = images
        before = copy.deepcopy(small.state_dict())

        def loss() -> Tensor:
            return F.cross_entropy(small(x), y)

        here = loss().item()
        before = copy.deepcopy(small.state_dict())
        with WeightAdversary(0.02).perturbed(small, loss, lambda slopes: None):
            moved = (small.conv.weight - before["conv.weight"]).norm() / before["conv.weight"].norm()
            assert moved.item() == pytest.approx(0.02, rel=1e-4)
            assert torch.equal(small.norm.weight, before["norm.weight"])
            there = loss().item()
        assert there > here
        for name in ("conv.weight", "head.weight"):
            assert torch.equal(small.state_dict()[name], before[name])

    def test_swa_is_the_mean_of_the_weights_after_its_start(self, few: DataSet) -> None:
        model = Flat()
        seen: list[Tensor] = []
        training = Training(plain(), SGD, epochs=4, batch_size=40, swa=0.5)
        result = fit(model, few, training, seed=0, watch=lambda now: seen.append(model.weight.detach().clone()))
        torch.testing.assert_close(result.weight, torch.stack(seen[4:]).mean(0))

    def test_averaged_weights_get_statistics_of_their_own(self, few: DataSet) -> None:
        model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
        result = fit(model, few, Training(plain(), SGD, epochs=2, batch_size=40, swa=0.5), seed=0)
        expected = torch.stack([few.select(part).pixels().mean() for part in torch.arange(80).split(40)]).mean()
        torch.testing.assert_close(result[0].running_mean, expected.view(1))


class Flat(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)
        with torch.no_grad():
            self.weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)) / 8)
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class TestBatchNorm:
    def test_split_halves_are_each_normalised_by_themselves(self, small, images) -> None:
        x, y = images
        objective = replace(mixed_minibatch_pgd(ADVERSARY, 1.0), batch_norm="split")
        inputs = objective.attack(small, x, y, streams)
        small.seen.clear()
        small.train()
        objective.measure(small, inputs)
        assert [len(seen) for training, seen in small.seen if training] == [6, 6]

    @pytest.mark.parametrize(("policy", "half"), [("auxiliary_clean", 1), ("auxiliary_adversarial", 0)])
    def test_auxiliary_norms_keep_one_half_to_themselves(self, policy, half, small, images) -> None:
        x, y = images
        objective = replace(mixed_minibatch_pgd(replace(ADVERSARY)), batch_norm=policy)
        model = add_auxiliary(small).train()
        inputs = objective.attack(model, x, y, streams)
        objective.measure(model, inputs)
        mine = (x, inputs.x_adv)[half]
        mean = small.conv(mine).mean((0, 2, 3))
        norm = small.norm
        assert isinstance(norm, TwoNorms)
        torch.testing.assert_close(norm.main.running_mean, 0.1 * mean)
        assert not torch.allclose(norm.auxiliary.running_mean, norm.main.running_mean)
        names = set(drop_auxiliary(model).state_dict())
        assert names == {name for name in names if "auxiliary" not in name and "main" not in name}

    def test_a_training_leaves_no_auxiliary_norm_behind(self, few: DataSet) -> None:
        objective = replace(mixed_minibatch_pgd(ADVERSARY), batch_norm="auxiliary_clean")
        model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
        result = fit(model, few, Training(objective, SGD, epochs=1, batch_size=40, ema=0.5), seed=0)
        assert type(result[0]) is nn.BatchNorm2d

    def test_a_policy_with_one_half_is_refused(self) -> None:
        with pytest.raises(RecipeError, match="parts clean from adversarial images"):
            replace(adversarial_training(ADVERSARY), batch_norm="split")
        with pytest.raises(RecipeError, match="Did you mean 'joint'"):
            replace(mixed_minibatch_pgd(ADVERSARY), batch_norm="jiont")

    def test_refreshed_statistics_are_means_over_the_batches(self) -> None:
        norm = nn.BatchNorm2d(1)
        batches = [torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
        refresh(norm.eval(), batches)
        torch.testing.assert_close(norm.running_mean, torch.stack([b.mean() for b in batches]).mean().view(1))
        assert norm.momentum == 0.1 and not norm.training


class TestMixup:
    def test_images_are_mixed_in_pairs_and_keep_the_larger_share(self) -> None:
        x, y, blend = mixed(SMALL_X, SMALL_Y, 0.4, torch.Generator().manual_seed(3))
        order = torch.Generator().manual_seed(3)
        torch.randint(2**62, (), generator=order)
        partner = torch.randperm(6, generator=order)
        assert 0.5 <= blend.share <= 1 and torch.equal(y, SMALL_Y)
        torch.testing.assert_close(x, blend.share * SMALL_X + (1 - blend.share) * SMALL_X[partner])
        assert torch.equal(blend.partner, SMALL_Y[partner])


class TestValidation:
    def test_what_is_held_out_is_not_trained_on(self, few: DataSet) -> None:
        rest, held_out = Validation(images=20, by="clean").split(few, seed=3)
        assert len(rest) == 60 and len(held_out) == 20
        assert not set(rest.ids.tolist()) & set(held_out.ids.tolist())

    def test_the_best_epoch_is_the_result(self, few: DataSet) -> None:
        lines: list[dict] = []
        validation = Validation(images=40, by="robust", threat=THREAT, steps=2)
        training = Training(plain(), Optimizer("sgd", 2.0), epochs=5, batch_size=20, validation=validation)
        result = fit(Flat(), few, training, seed=0, log=lines.append)
        scores = [line["validation"]["robust"] for line in lines]
        _, held_out = validation.split(few, 0)
        assert validation.scores(result, held_out, 0, Workers())["robust"] == max(scores)
        assert len(set(scores)) > 1

    def test_patience_and_collapse_end_a_training(self) -> None:
        patient = Validation(by="clean", patience=2)
        assert not patient.is_over([0.5, 0.4]) and patient.is_over([0.5, 0.4, 0.5])
        sudden = Validation(by="clean", collapse=0.2)
        assert not sudden.is_over([0.1, 0.5, 0.31]) and sudden.is_over([0.1, 0.5, 0.29])

    def test_an_early_end_is_kept_on_resume(self, few: DataSet, tmp_path) -> None:
        validation = Validation(images=40, by="clean", patience=1)
        training = Training(plain(), Optimizer("sgd", 1e-9), epochs=9, batch_size=20, validation=validation)
        lines: list[dict] = []
        first = fit(Flat(), few, training, seed=0, run_dir=tmp_path, log=lines.append)
        again = fit(Flat(), few, training, seed=0, run_dir=tmp_path, log=lines.append)
        assert len(lines) == 2
        assert torch.equal(first.weight, again.weight)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"by": "robust"}, "no threat"),
            ({"by": "cleen"}, "Did you mean 'clean'"),
            ({"by": "clean", "images": 0}, "expected 1 or more"),
            ({"by": "clean", "collapse": 2.0}, "between 0 and 1"),
        ],
    )
    def test_settings_without_sense_are_refused(self, settings: dict, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            Validation(**settings)

    def test_more_images_than_there_are_cannot_be_held_out(self, few: DataSet) -> None:
        with pytest.raises(RecipeError, match="only 80"):
            Validation(images=80, by="clean").split(few, 0)


class TestSharing:
    @pytest.mark.parametrize("count", [1, 2, 7, 8, 33])
    @pytest.mark.parametrize("parts", [1, 2, 3])
    def test_every_image_is_in_one_part_beside_its_partner(self, count: int, parts: int) -> None:
        shares = [places(count, part, parts) for part in range(parts)]
        assert sorted(torch.cat(shares).tolist()) == [*range(count)]
        for share in shares:
            half = len(share) // 2
            assert all(b - a == count // 2 for a, b in zip(share[:half], share[half : 2 * half], strict=True))

    @pytest.mark.parametrize(
        "objective",
        [clp(0.5), mixed_minibatch_pgd(ADVERSARY, 1.0), trades(TRADES), fast_adversarial_training(THREAT)],
        ids=["CLP", "M-PGD + ALP", "TRADES", "Fast"],
    )
    def test_accumulated_passes_are_one_step(self, objective: Objective, few: DataSet) -> None:
        results = []
        for passes in (1, 3):
            training = Training(objective, SGD, epochs=2, batch_size=32, accumulate=passes, mixup=0.3)
            results.append(fit(Flat(), few, training, seed=0))
        torch.testing.assert_close(results[0].weight, results[1].weight, rtol=1e-4, atol=1e-5)

    def test_weights_perturbed_by_parts_of_a_batch_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="gradient of the whole batch"):
            Training(adversarial_training(ADVERSARY), accumulate=2, weight_adversary=WeightAdversary(0.01))

    def test_a_term_of_the_whole_batch_is_refused(self, few: DataSet) -> None:
        with pytest.raises(RecipeError, match="frobenius_logit_squeezing is no mean over images"):
            fit(Flat(), few, Training(frobenius_lsq(0.1), SGD, epochs=1, accumulate=2), seed=0)

    def test_a_last_batch_too_small_to_share_is_refused(self, few: DataSet) -> None:
        with pytest.raises(RecipeError, match="last batch of an epoch has 2 images"):
            fit(Flat(), few, Training(plain(), SGD, epochs=1, batch_size=39, accumulate=2), seed=0)


@pytest.mark.parametrize(
    "training",
    [
        Training(trades(TRADES), SGD, epochs=1),
        Training(mart(ADVERSARY), SGD, epochs=1),
        Training(vat(0.5), SGD, epochs=1),
        Training(free_adversarial_training(THREAT, 4), SGD, epochs=1),
        Training(fast_adversarial_training(THREAT, alignment=0.2), SGD, epochs=1),
        Training(paired_features(ADVERSARY), SGD, epochs=1),
        Training(adversarial_training(ADVERSARY), SGD, epochs=1, weight_adversary=WeightAdversary(0.01)),
        Training(adversarial_training(ADVERSARY), SGD, epochs=1, precision="bfloat16", mixup=1.0),
    ],
    ids=["TRADES", "MART", "VAT", "Free", "Fast + GradAlign", "features", "AWP", "bf16 + mixup"],
)
class TestEveryDefence:
    def test_it_lowers_its_own_loss(self, training: Training, few: DataSet) -> None:
        lines: list[dict] = []
        fit(Flat(), few, replace(training, epochs=12, batch_size=40), seed=0, log=lines.append)
        first, last = (
            sum(term.weight * line["losses"][term.name] for term in training.objective.terms)
            for line in (lines[0], lines[-1])
        )
        assert last < first

    def test_it_resumes_to_the_same_bits(self, training: Training, few: DataSet, tmp_path) -> None:
        class Interrupted(BaseException):
            pass

        def stop(now) -> None:
            if now.epoch == 1:
                raise Interrupted

        training = replace(training, epochs=3, batch_size=32)
        unbroken = fit(Flat(), few, training, seed=0)
        with pytest.raises(Interrupted):
            fit(Flat(), few, training, seed=0, run_dir=tmp_path, watch=stop)
        resumed = fit(Flat(), few, training, seed=0, run_dir=tmp_path)
        assert torch.equal(unbroken.weight, resumed.weight)

    def test_its_description_is_plain_and_tells_it_apart(self, training: Training) -> None:
        assert json.loads(json.dumps(training.describe()))["objective"] != plain().describe()


def test_an_l2_threat_trains_too(few: DataSet) -> None:
    assert fit(Flat(), few, Training(free_adversarial_training(L2(0.5), 2), SGD, epochs=1), seed=0) is not None
