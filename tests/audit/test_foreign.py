"""Attacks from outside: called alike, counted by the model, and unable to help themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import unmask
from unmask.attacks import AttackResult, pgd, square
from unmask.audit import Task
from unmask.audit.counting import Counting
from unmask.audit.foreign import foreign_attack, source_fingerprint, try_out
from unmask.errors import AuditError
from unmask.streams import Streams

THREAT = unmask.Linf(0.2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).requires_grad_(False).eval()


def batch(count=11):
    x = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return x, network()(x).argmax(1)


def task(model, count=11):
    x, y = batch(count)
    streams = Streams.derive(0, range(count), "test")
    return Task(model, x, y, THREAT, streams, 0, x, x.new_empty((count, 0, *x.shape[1:])))


def still(model, x, y, *, threat, generator):
    return x


def noisy(model, x, y, *, threat, generator):
    return (x + 0.1 * torch.rand(x.shape, generator=generator) + 0.1 * torch.rand(x.shape)).clamp(0, 1)


class TestCounting:
    @pytest.mark.parametrize("attack", [pgd, square])
    def test_agrees_with_what_our_attacks_say_of_themselves(self, attack):
        counted, work = Counting(network()), task(network())
        found = attack(counted, work.x, work.y, threat=THREAT, generator=work.streams)
        assert counted.forwards == int(found.forwards.sum()) > 0
        assert counted.backwards == int(found.backwards.sum())

    def test_counts_every_pass_of_a_plain_attack(self):
        def three_forwards_two_backwards(model, x, y, *, threat, generator):
            x = x.requires_grad_()
            model(x[:4]).sum().backward()
            model(x).max().backward()
            with torch.no_grad():
                model(x)
            return x

        found = foreign_attack("mine:three", three_forwards_two_backwards).run(task(network()))
        assert int(found.forwards.sum()) == 4 + 11 + 11 and int(found.backwards.sum()) == 4 + 11
        assert found.forwards.max() - found.forwards.min() <= 1

    @pytest.mark.parametrize("told", [0, 100])
    def test_an_attack_cannot_say_that_it_spent_less(self, told):
        def modest(model, x, y, *, threat, generator):
            model(x)
            count = torch.full((len(x),), told)
            return AttackResult(
                x, torch.zeros(len(x)), torch.zeros(len(x)).bool(), count, count, torch.zeros(1, len(x))
            )

        found = foreign_attack("mine:modest", modest).run(task(network()))
        assert int(found.forwards.sum()) == max(told, 1) * 11


class TestForeignAttack:
    def test_draws_depend_on_the_seed_alone(self):
        attack, work = foreign_attack("mine:noisy", noisy), task(network())
        torch.manual_seed(5)
        first, state = attack.run(work).x_adv, torch.random.get_rng_state()
        torch.manual_seed(6)
        assert torch.equal(first, attack.run(work).x_adv)
        torch.manual_seed(5)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_what_it_does_to_the_images_does_not_move_the_ball(self):
        def moves(model, x, y, *, threat, generator):
            y.zero_()
            return x.add_(1).clamp_(0, 1)

        x, y = batch()
        result = unmask.audit(
            network(), x, y, THREAT, budget=[foreign_attack("mine:moves", moves)], claim=None, diagnostics=False
        )
        assert result.robust_accuracy == result.clean_accuracy == 1

    def test_a_model_that_it_changed_is_given_back_and_told(self):
        model = network()
        before = {name: value.clone() for name, value in model.state_dict().items()}

        def trains(model, x, y, *, threat, generator):
            for parameter in model.parameters():
                parameter.data.zero_()
            return x

        with pytest.raises(AuditError, match="changed the model"):
            foreign_attack("mine:trains", trains).run(task(model))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_train_mode_does_not_outlive_it(self):
        model = network()

        def switches(model, x, y, *, threat, generator):
            model.train()
            return x

        foreign_attack("mine:switches", switches).run(task(model))
        assert not any(module.training for module in model.modules())

    def test_breaks_are_the_judges_and_have_no_step(self):
        def wrong(model, x, y, *, threat, generator):
            return pgd(model, x, y, threat=threat, generator=generator).x_adv

        x, y = batch()
        planned = foreign_attack("mine:wrong", wrong)
        result = unmask.audit(network(), x, y, THREAT, budget=[planned], claim=None, diagnostics=False)
        assert result.robust_accuracy < 1
        assert set(result.run.events["step"][result.run.events["attack"] == "mine:wrong"].tolist()) == {-1}

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (lambda x: x[:, 0], r"\(11, 8, 8\)"),
            (lambda x: (255 * x).byte(), "uint8"),
            (lambda x: None, "NoneType"),
            (lambda x: (x, x), "tuple"),
        ],
    )
    def test_an_answer_of_another_form_is_refused(self, answer, said):
        attack = foreign_attack("mine:odd", lambda model, x, y, *, threat, generator: answer(x))
        with pytest.raises(AuditError, match=said):
            attack.run(task(network()))

    @pytest.mark.parametrize(
        ("attack", "settings"), [(lambda model, x, y, eps: x, {}), (still, {"steps": 3}), (lambda x: x, {})]
    )
    def test_a_signature_that_does_not_fit_is_refused(self, attack, settings):
        with pytest.raises(AuditError, match=r"cannot be called as attack\(model, x, y"):
            foreign_attack("mine:odd", attack, settings)

    def test_trying_it_out_says_where_it_raised(self):
        def raises(model, x, y, *, threat, generator):
            raise ValueError("cannot")

        x, y = batch()
        with pytest.raises(AuditError, match=r"ValueError .*cannot \(test_foreign.py, line \d+\)"):
            try_out(foreign_attack("mine:raises", raises), network(), x, y, THREAT)


def test_another_name_or_module_has_another_fingerprint():
    assert source_fingerprint("mine:still", still) == source_fingerprint("mine:still", noisy)  # of the whole file
    assert source_fingerprint("mine:still", still) != source_fingerprint("mine:noisy", noisy)
    assert source_fingerprint("mine:pgd", pgd) != source_fingerprint("mine:pgd", still)
