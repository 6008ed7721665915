"""Audits of top-k accuracy, on a model of which it is known exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from unmask.attacks import fgsm, pgd
from unmask.attacks.start import clean
from unmask.attacks.targets import least_likely_target
from unmask.audit import Plan, PlannedAttack, verify
from unmask.audit.budgets import make_plan
from unmask.errors import AuditError, LedgerError
from unmask.ledger import load_run
from unmask.losses import answers, margin, predictions
from unmask.report.table import summary_rows

WIDTH, EPS = 5, 0.06
ASCENT = PlannedAttack("pgd", lambda task: task.attack(pgd, steps=10, start=clean()), settings={"steps": 10})
LEAST_LIKELY = PlannedAttack(
    "least-likely",
    lambda task: task.attack(pgd, steps=10, start=clean(), target=least_likely_target(task.model, task.x, task.y)),
)


def blocks(x: Tensor) -> Tensor:
    """Return as logit of each class the sum of its own row: one signed step closes the gap to every class at once."""
    return x.sum((1, 3))


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Images well inside the box, labels, and the exact Linf distance to where the label is third at best."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(80, 1, 4, WIDTH, generator=generator)
    y = blocks(x).argmax(1)
    y[:30] = torch.randint(4, (30,), generator=generator)
    return x, y, -margin(blocks(x), y, top=2) / (2 * WIDTH)


def run(scene: tuple[Tensor, Tensor, Tensor], **options: Any) -> unmask.AuditResult:
    x, y, _ = scene
    given = {"budget": [ASCENT], "claim": None, "diagnostics": False, "top": 2, **options}
    return unmask.audit(blocks, x, y, unmask.Linf(EPS), **given)


def test_the_top_2_accuracy_is_found_exactly(scene):
    _, y, distance = scene
    result = run(scene)
    assert result.clean_accuracy == pytest.approx((distance > 0).float().mean().item())
    assert result.robust_accuracy == pytest.approx((distance > EPS).float().mean().item())
    assert torch.equal(result.survived, distance > EPS)
    assert torch.equal(answers(blocks(result.x_adv), y, 2) == y, result.survived)
    one = run(scene, top=1)
    assert one.robust_accuracy < result.robust_accuracy < one.clean_accuracy < result.clean_accuracy


def test_what_is_shown_says_top_2(scene):
    result, one = run(scene), run(scene, top=1)
    assert result.headline.startswith("Top-2 accuracy: clean ") and one.headline.startswith("Clean ")
    assert [row.threat for row in summary_rows([result.run, one.run])] == ["Linf(0.06), top-2", "Linf(0.06)"]


def test_an_attack_that_knows_of_the_likeliest_class_alone_breaks_no_more_than_is_broken(scene):
    _, y, distance = scene
    naive = PlannedAttack(
        "naive", lambda task: pgd(task.model, task.x, task.y, threat=task.threat, generator=task.streams)
    )
    result = run(scene, budget=[naive])
    assert torch.equal(answers(blocks(result.x_adv), y, 2) == y, result.survived)
    assert not result.survived[distance <= 0].any() and result.survived[distance > EPS].all()
    assert torch.equal(run(scene, budget=[naive, ASCENT]).survived, distance > EPS)


def test_an_attack_that_cannot_be_told_is_named(scene):
    result = run(scene, budget=[PlannedAttack("fgsm", lambda task: task.attack(fgsm))])
    assert result.headline is None
    assert all("fgsm takes no `top`" in words for words in result.errors.values()) and result.errors


def test_a_targeted_attack_towards_the_least_likely_class(scene):
    x, y, distance = scene
    result = run(scene, budget=[LEAST_LIKELY])
    assert result.survived[distance > EPS].all()
    assert torch.equal(answers(blocks(result.x_adv), y, 2) == y, result.survived)
    # One class comes past the label, the others do not: what had the label first keeps it among two.
    first = predictions(blocks(x)) == y
    assert result.survived[first].all() and not run(scene, budget=[LEAST_LIKELY], top=1).survived[first].all()


def test_a_run_is_replayed_and_resumed_with_its_own_top_alone(scene, tmp_path):
    _, _, distance = scene
    result = run(scene, run_dir=tmp_path)
    replay = verify(load_run(tmp_path), blocks, batch_size=7)
    assert replay.breaks == (distance <= EPS).sum() == len(replay.confirmed) and not replay.refuted
    assert torch.equal(run(scene, run_dir=tmp_path).survived, result.survived)
    with pytest.raises(LedgerError, match="top is recorded as 2 and given as 1"):
        run(scene, run_dir=tmp_path, top=1)


def test_breaks_of_top_1_are_refuted_as_breaks_of_top_2(scene, tmp_path):
    run(scene, run_dir=tmp_path, top=1)
    recorded = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps({**recorded, "top": 2}))
    refuted = verify(load_run(tmp_path), blocks).refuted
    assert refuted and set(refuted.values()) == {"the model classifies the stored image correctly (top-2)"}


def test_a_record_from_before_is_one_of_top_1(scene, tmp_path):
    result = run(scene, run_dir=tmp_path, top=1)
    recorded = json.loads((tmp_path / "spec.json").read_text())
    assert recorded.pop("top") == 1
    (tmp_path / "spec.json").write_text(json.dumps(recorded))
    assert load_run(tmp_path).spec.top == 1
    assert torch.equal(run(scene, run_dir=tmp_path, top=1).survived, result.survived)


@pytest.mark.parametrize("top", [-1, 0, 4, 10])
def test_all_or_none_of_the_classes_are_refused(scene, top):
    with pytest.raises(AuditError, match=rf"top is {top}; expected 1 .* to 3: the model has 4 classes"):
        run(scene, top=top)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"budget": "quick"}, "budget"),
        ({"budget": 200}, "budget"),
        ({"budget": "autoattack-standard"}, "budget"),
        ({"budget": make_plan("quick", unmask.Linf(EPS), 4, None)}, "budget"),
        ({"claim": "pgd-40"}, "claim"),
        ({"diagnostics": True}, "diagnostics"),
        ({"budget": "quick", "diagnostics": True}, "budget and diagnostics"),
    ],
)
def test_what_looks_at_the_likeliest_class_alone_is_refused(scene, options, named):
    with pytest.raises(AuditError, match=f"; {named} would look at the likeliest class"):
        run(scene, **options)


def test_a_fixed_plan_is_taken(scene):
    plan = make_plan([ASCENT], unmask.Linf(EPS), 4, None)
    assert isinstance(plan, Plan)
    assert torch.equal(run(scene, budget=plan).survived, run(scene).survived)


@pytest.mark.parametrize("top", [1, 2])
def test_without_attacks_the_clean_accuracy_alone_is_measured(scene, tmp_path, top):
    x, y, _ = scene
    result = run(scene, budget=(), top=top, run_dir=tmp_path)
    right = answers(blocks(x), y, top) == y
    assert result.clean_accuracy == result.robust_accuracy == pytest.approx(right.float().mean().item())
    assert result.headline.endswith(" on 80 images: no attack was run") and ("Top-2" in result.headline) == (top == 2)
    assert result.verdict.label == "inconclusive" and result.backwards == 0
    replay = verify(load_run(tmp_path), blocks)
    assert replay.breaks == len(replay.confirmed) == (~right).sum()
