"""The adaptive audit from end to end: neither batch size nor an interruption changes it, and its budget holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import unmask
from unmask.ledger import Run, queries

THREAT = unmask.Linf(0.15)


class Stopped(Exception):
    """The audit is cut off here."""


def run(network: Callable[[Tensor], Tensor], digits: unmask.DataSet, **options: object) -> Run:
    given = {"budget": 200, "diagnostics": False, "ids": digits.ids, **options}
    return unmask.audit(network, digits.pixels(), digits.labels, THREAT, **given).run  # type: ignore[arg-type]


def test_the_batch_size_changes_neither_statuses_nor_costs(network, digits):
    one, other = (run(network, digits.first(32), batch_size=size, budget=300) for size in (3, 256))
    assert queries.statuses(one).tolist() == queries.statuses(other).tolist()
    assert one.rounds == other.rounds
    # An image that breaks costs the step's backward pass only where another image of its batch still stands.
    assert [row[:8] for row in queries.attack_table(one)] == [row[:8] for row in queries.attack_table(other)]


@pytest.mark.parametrize("batches", [1, 9])
def test_an_audit_that_was_cut_off_ends_as_the_unbroken_one(network, digits, tmp_path: Path, batches):
    some = digits.first(12)
    told = []

    def stop(now: unmask.audit.AuditProgress) -> None:
        told.append(now)
        if len(told) == batches:
            raise Stopped

    with pytest.raises(Stopped):
        run(network, some, batch_size=5, run_dir=tmp_path, watch=stop)
    resumed = run(network, some, batch_size=5, run_dir=tmp_path)
    unbroken = run(network, some, batch_size=5)
    assert len(unbroken.rounds) > 6
    for name in set(unbroken.events) - {"seconds"}:
        column = unbroken.events[name]
        assert np.array_equal(resumed.events[name], column, equal_nan=column.dtype.kind == "f"), name
    for a, b in zip(resumed.adversarial(), unbroken.adversarial(), strict=True):
        assert np.array_equal(a, b)
    assert resumed.rounds == unbroken.rounds


@pytest.mark.parametrize("budget", [100, 250])
def test_no_more_evaluations_are_made_than_the_budget_holds(network, digits, budget):
    some, calls = digits.first(12), {"forwards": 0, "backwards": 0}

    def count_backward(gradient: Tensor) -> None:
        calls["backwards"] += len(gradient)

    def counted(images: Tensor) -> Tensor:
        calls["forwards"] += len(images)
        logits = network(images)
        if logits.requires_grad:
            logits.register_hook(count_backward)
        return logits

    spent = queries.cost(run(counted, some, budget=budget))
    # The first look at a model, its fingerprint and what its gradients reach are no part of the audit's cost.
    assert 0 <= calls["forwards"] - spent.forwards <= 2 * len(some) + 16
    assert 0 <= calls["backwards"] - spent.backwards <= 16
    assert 0.9 * budget * len(some) < spent.evaluations <= budget * len(some)


def test_the_record_of_a_finished_audit_says_what_its_rounds_were(network, digits, tmp_path: Path):
    told = []
    finished = run(network, digits.first(24), run_dir=tmp_path, watch=told.append)
    assert list(dict.fromkeys((now.round, now.attack, now.restart) for now in told)) == [
        (entry.round, entry.attack, entry.restart) for entry in finished.rounds
    ]
    assert unmask.ledger.load_run(tmp_path).rounds == finished.rounds
    assert set(queries.statuses(finished)) <= {"broken", "survived"}
    assert torch.equal(torch.from_numpy(finished.ids), digits.first(24).ids)
