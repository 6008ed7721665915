"""Figures of attacks: who is ahead, and the file that keeps them."""

from __future__ import annotations

import pytest
import torch

import unmask
from unmask.attacks import pgd
from unmask.audit import PlannedAttack
from unmask.audit.bench import Benched, closest, figure_of, read_figures, standing, write_figures
from unmask.audit.foreign import foreign_attack
from unmask.errors import AuditError

BASE = {
    "model": "net",
    "model_fingerprint": "m",
    "data": "digits",
    "data_fingerprint": "d200",
    "threat": {"norm": "linf", "eps": "0.1"},
    "n": 200,
    "seed": 0,
    "clean_accuracy": 1.0,
    "seconds": 1.0,
    "version": "0",
    "hardware": {},
}


def figure(accuracy, evaluations, attack="mine:a", **changed):
    return Benched.model_validate(
        {**BASE, "attack": attack, "robust_accuracy": accuracy, "evaluations": evaluations, **changed}
    )


class TestStanding:
    @pytest.mark.parametrize(
        ("ours", "theirs", "expected"),
        [
            ((0.4, 10), (0.5, 20), (1, 1, 0, 1, 1, 0)),
            ((0.4, 30), (0.5, 20), (1, 1, 0, 0, 0, 0)),
            ((0.5, 10), (0.5, 20), (1, 0, 1, 1, 1, 0)),
            ((0.5, 20), (0.5, 20), (1, 0, 1, 0, 0, 0)),
            ((0.6, 10), (0.5, 20), (1, 0, 0, 1, 0, 0)),
            ((0.6, 20), (0.5, 20), (1, 0, 0, 0, 0, 1)),
        ],
    )
    def test_of_one_model(self, ours, theirs, expected):
        assert standing([(figure(*ours), figure(*theirs))]) == expected

    @pytest.mark.parametrize(
        "other",
        [
            None,
            figure(None, 9, errors=3),
            figure(0.5, 20, data_fingerprint="d100", n=100),
            figure(0.5, 20, model_fingerprint="another"),
            figure(0.5, 20, threat={"norm": "linf", "eps": "0.2"}),
        ],
    )
    def test_what_does_not_compare_is_left_out(self, other):
        pairs = [(figure(0.4, 10), figure(0.5, 20)), (figure(0.4, 10), other)]
        assert standing(pairs).of == 1

    def test_an_attack_that_raised_is_ahead_of_nobody(self):
        assert standing([(figure(None, 1, errors=1), figure(0.9, 2))]) == (0, 0, 0, 0, 0, 0)


class TestClosest:
    def test_the_same_images_come_first_and_then_a_near_number(self):
        known = [figure(0.5, 1, "standard", data_fingerprint=f"d{n}", n=n) for n in (1000, 100, 200)]
        assert closest(figure(0.4, 1), known, "standard").n == 200
        assert closest(figure(0.4, 1), known[:2], "standard").n == 100
        assert closest(figure(0.4, 1), known, "autoattack-standard") is None

    def test_settings_make_another_attack(self):
        known = [figure(0.5, 1, "pgd", settings={"steps": 20, "code": "abc"})]
        assert closest(figure(0.4, 1), known, "pgd") is None
        assert closest(figure(0.4, 1), known, "pgd steps=20") == known[0]


class TestFile:
    def test_comes_back_and_the_last_figure_of_a_case_stays(self, tmp_path):
        path = tmp_path / "deep" / "figures.json"
        old, new, other = figure(0.5, 9), figure(0.4, 8), figure(0.3, 7, "mine:b")
        write_figures(path, [old, other, new])
        assert read_figures(path) == [new, other]

    @pytest.mark.parametrize("text", ["{", "[{}]", '{"a": 1}', '[{"attack": "a", "n": -1}]'])
    def test_another_file_is_refused(self, tmp_path, text):
        path = tmp_path / "figures.json"
        path.write_text(text)
        with pytest.raises(AuditError, match="holds no figures"):
            read_figures(path)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(AuditError, match="--save-reference"):
            read_figures(tmp_path / "absent.json")


class TestFigureOf:
    def audited(self, attack):
        x = torch.rand((20, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        weights = torch.randn((64, 10), generator=torch.Generator().manual_seed(1))
        model = lambda x: x.flatten(1) @ weights  # noqa: E731
        y = model(x).argmax(1)
        return unmask.audit(model, x, y, unmask.Linf(0.05), budget=[attack], claim=None, diagnostics=False)

    def test_is_what_the_audit_says(self):
        result = self.audited(PlannedAttack("pgd", lambda task: task.attack(pgd), settings={"steps": 40}))
        found = figure_of(result.run, "command")
        assert found.title == "pgd steps=40" and found.command == "command"
        assert found.robust_accuracy == result.robust_accuracy < found.clean_accuracy == 1
        assert found.evaluations == (result.forwards + result.backwards) / 20

    @pytest.mark.parametrize("pixel", [float("nan"), float("inf"), 2.0, -0.01])
    def test_counts_what_came_back_outside(self, pixel):
        def fills(model, x, y, *, threat, generator):
            return torch.full_like(x, pixel)

        result = self.audited(foreign_attack("mine:fills", fills))
        found = figure_of(result.run)
        assert (found.outside, found.errors, found.robust_accuracy) == (20, 0, 1)

    def test_an_error_is_no_robustness(self):
        def raises(model, x, y, *, threat, generator):
            if (y == y.max()).any():
                raise ValueError("not this one")
            return x

        found = figure_of(self.audited(foreign_attack("mine:raises", raises)).run)
        assert found.errors > 0 and found.robust_accuracy is None
