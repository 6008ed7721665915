"""What an audit measures, on models whose true robustness is known."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.attacks.problem import AttackResult
from unmask.audit import PlannedAttack, Task
from unmask.audit.runner import AuditProgress
from unmask.contract import Model
from unmask.errors import AuditError, DataError, ModelError
from unmask.losses import predictions
from unmask.threat import ThreatModel


def quick(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, **options: object) -> unmask.AuditResult:
    return unmask.audit(model, x, y, threat, **{"budget": "quick", "diagnostics": False, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [0.01, 0.03, 0.06])
def test_a_linear_models_robust_accuracy_is_found_exactly(linear, eps):
    model, x, y, distance = linear
    result = quick(model, x, y, unmask.Linf(eps), budget="standard")
    assert result.clean_accuracy == pytest.approx((distance > 0).float().mean().item())
    assert result.robust_accuracy == pytest.approx((distance > eps).float().mean().item())
    assert torch.equal(result.survived, distance > eps)


def test_the_result_holds_what_the_public_face_promises(linear):
    model, x, y, _ = linear
    threat = unmask.Linf("8/255")
    calls = {"forwards": 0}

    def counted(images: Tensor) -> Tensor:
        calls["forwards"] += len(images)
        return model(images)

    result = unmask.audit(counted, x, y, threat, budget="quick", seed=0)
    assert 0 <= result.robust_accuracy <= result.claimed_accuracy <= result.clean_accuracy <= 1
    assert result.interval[0] <= result.robust_accuracy <= result.interval[1]
    assert result.survived.shape == (len(x),) and result.survived.dtype == torch.bool
    assert result.x_adv.shape == x.shape
    assert threat.contains(result.x_adv, x).all()
    assert torch.equal(predictions(model(result.x_adv)) == y, result.survived)
    assert isinstance(result.forwards, int) and isinstance(result.backwards, int)
    # The first look at a model, its fingerprint and what its gradients reach are not part of the attack's cost.
    assert 0 < calls["forwards"] - result.forwards <= len(x) + 32
    assert result.verdict.label in ("robust", "masked", "not robust", "inconclusive") and result.verdict.reasons
    assert {finding.check for finding in result.findings} >= {"claim_gap", "determinism", "gradients", "eps_curve"}
    assert result.headline and result.headline.startswith("Claimed")


def test_without_a_claim_there_is_no_claimed_figure(linear):
    model, x, y, _ = linear
    result = quick(model, x, y, unmask.Linf(0.03), claim=None)
    assert result.claimed_accuracy is None
    assert "Claimed" not in result.headline


def test_the_same_audit_twice_gives_the_same_events(network, digits):
    x, y = digits.pixels(), digits.labels
    runs = [quick(network, x, y, unmask.Linf(0.15), seed=4).run.events for _ in range(2)]
    for column in set(runs[0]) - {"seconds"}:
        assert (runs[0][column] == runs[1][column]).all() or column in ("loss", "margin")
        assert torch.equal(
            torch.nan_to_num(torch.tensor(runs[0][column])) if column in ("loss", "margin") else torch.tensor(0),
            torch.nan_to_num(torch.tensor(runs[1][column])) if column in ("loss", "margin") else torch.tensor(0),
        )


def test_another_batch_size_changes_no_draw_and_at_most_one_status_in_200(network):
    data = unmask.load_data("digits", "test")
    x, y = data.pixels(), data.labels
    seen: dict[int, dict[int, list[float]]] = {17: {}, 256: {}}

    def noting(name: int) -> PlannedAttack:
        def run(task: Task) -> AttackResult:
            draws = task.streams.child("peek").uniform((2,)).tolist()
            seen[name] |= dict(zip(task.streams.seeds, draws, strict=True))
            return unmask.attacks.cosine_pgd(
                task.model, task.x, task.y, threat=task.threat, steps=10, generator=task.streams
            )

        return PlannedAttack("noting", run)

    results = [
        quick(network, x, y, unmask.Linf(0.15), budget=[noting(size)], claim=None, batch_size=size)
        for size in (17, 256)
    ]
    assert seen[17] == seen[256] != {}
    differing = (results[0].survived != results[1].survived).sum().item()
    assert differing <= 0.005 * len(x)


def test_an_examples_fate_does_not_depend_on_which_others_are_audited(linear):
    model, x, y, _ = linear
    # The adaptive schedule learns from the other images; the attacks of a fixed plan do not.
    plan = [PlannedAttack("ascent", _ascent, restarts=2)]
    whole = quick(model, x, y, unmask.Linf(0.03), budget=plan)
    part = torch.arange(40, 80)
    alone = quick(model, x[part], y[part], unmask.Linf(0.03), budget=plan, ids=part)
    assert torch.equal(whole.survived[part], alone.survived)
    assert torch.allclose(whole.x_adv[part], alone.x_adv, atol=1e-6)


def _ascent(task: Task) -> AttackResult:
    return unmask.attacks.cosine_pgd(task.model, task.x, task.y, threat=task.threat, generator=task.streams)


def _claims(x_adv: Tensor, broken: Tensor, y: Tensor) -> AttackResult:
    zeros = torch.zeros(len(y), dtype=torch.int64)
    return AttackResult(x_adv, torch.ones(len(y)), broken, zeros, zeros, torch.zeros(1, len(y)))


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda x: x, id="an unchanged image"),
        pytest.param(lambda x: 1 - x, id="an image outside the ball"),
        pytest.param(lambda x: x - 2, id="an image outside the box"),
        pytest.param(lambda x: x * torch.nan, id="an image of NaN"),
    ],
)
def test_an_attack_that_lies_breaks_nothing(linear, forge):
    model, x, y, distance = linear
    liar = PlannedAttack("liar", lambda task: _claims(forge(task.x), torch.ones_like(task.y, dtype=torch.bool), task.y))
    result = quick(model, x, y, unmask.Linf(0.01), budget=[liar])
    assert torch.equal(result.survived, distance > 0)
    assert torch.isfinite(result.x_adv).all()


def test_images_on_which_the_model_fails_are_errors_and_forbid_a_headline(linear):
    model, x, y, _ = linear
    poisoned = x.clone()
    poisoned[50, 0, 0, 0] = 0.777

    def fragile(images: Tensor) -> Tensor:
        moved = (images.flatten(1)[:, 1:] - poisoned[50].flatten()[1:]).abs().amax(1)
        sick = (moved > 0) & (moved < 0.02)
        return model(images).masked_fill(sick[:, None], torch.nan)

    result = quick(fragile, poisoned, y, unmask.Linf(0.01))
    assert list(result.errors) == [50] and "NaN" in result.errors[50]
    assert result.headline is None
    assert result.verdict.label == "inconclusive"
    assert not result.survived[50]


def test_a_module_is_audited_in_eval_mode_and_given_back_as_it_was(digits):
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)).train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = quick(model, digits.pixels(), digits.labels, unmask.Linf(0.1))
    assert [module.training for module in model] == [False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert "train_mode" in {finding.check for finding in result.findings}


def test_a_running_upper_bound_is_told(linear):
    model, x, y, _ = linear
    told: list[AuditProgress] = []
    result = quick(model, x, y, unmask.Linf(0.03), watch=told.append, batch_size=50)
    bounds = [now.upper_bound for now in told]
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] == pytest.approx(result.robust_accuracy)
    assert {now.rounds for now in told} == {None}
    assert all(0 < now.done <= now.of for now in told)
    last = {now.round: now for now in told}
    assert all(now.done == now.of for now in last.values()) and last[0].of == len(x)
    assert [now.evaluations for now in told] == sorted(now.evaluations for now in told)


def test_a_fixed_plan_tells_how_many_rounds_it_has(linear):
    model, x, y, _ = linear
    told: list[AuditProgress] = []
    quick(model, x, y, unmask.Linf(0.01), budget=[PlannedAttack("ascent", _ascent, restarts=2)], watch=told.append)
    assert list(dict.fromkeys((now.round, now.rounds) for now in told)) == [(number, 4) for number in range(4)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a: a | {"model": lambda x: a["model"](x).softmax(1)}, ModelError, "probabilities"),
        (lambda a: a | {"model": lambda x: a["model"](x) * torch.nan}, ModelError, "NaN"),
        (lambda a: a | {"model": lambda x: a["model"](x)[:, 0]}, ModelError, "logits"),
        (lambda a: a | {"model": lambda x: a["model"](x)[:-1]}, ModelError, "logits"),
        (lambda a: a | {"model": lambda x: a["model"](x).argmax(1)}, ModelError, "logits"),
        (lambda a: a | {"model": nn.Linear(3, 4)}, AuditError, "cannot be run"),
        (lambda a: a | {"y": a["y"] + 2}, DataError, "Labels lie"),
        (lambda a: a | {"y": -1 - a["y"]}, DataError, "Labels lie"),
        (lambda a: a | {"y": a["y"].float()}, DataError, "int64"),
        (lambda a: a | {"y": a["y"][:-1]}, DataError, "one class number per image"),
        (lambda a: a | {"x": a["x"] * 255}, DataError, "divide by 255"),
        (lambda a: a | {"x": (a["x"] * 255).to(torch.uint8)}, DataError, "float() / 255"),
        (lambda a: a | {"x": a["x"] - 0.5}, DataError, "Normalize"),
        (lambda a: a | {"x": a["x"].clone().index_fill_(0, torch.tensor([0]), torch.nan)}, DataError, "NaN"),
        (lambda a: a | {"x": a["x"][:0], "y": a["y"][:0]}, DataError, "no images"),
        (lambda a: a | {"budget": "standart"}, AuditError, "standard"),
        (lambda a: a | {"claim": "pdg-40"}, AuditError, "pgd-40"),
        (lambda a: a | {"batch_size": 0}, AuditError, "batch size"),
        (lambda a: a | {"ids": torch.zeros(120, dtype=torch.int64)}, DataError, "different numbers"),
    ],
)
def test_unusable_input_is_refused_with_advice(linear, change, error, words):
    model, x, y, _ = linear
    arguments = change({"model": model, "x": x, "y": y, "threat": unmask.Linf(0.03), "budget": "quick"})
    with pytest.raises(error, match=re.escape(words)):
        unmask.audit(**arguments)


def test_two_attacks_of_one_name_are_refused(linear):
    model, x, y, _ = linear
    attack = PlannedAttack("twin", _ascent)
    with pytest.raises(AuditError, match="twin"):
        quick(model, x, y, unmask.Linf(0.03), budget=[attack, replace(attack, restarts=2)])
