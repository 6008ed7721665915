"""The record of an adaptive run: its rounds are those that were begun, in any order of attacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unmask.errors import LedgerError
from unmask.ledger import Ledger, ScheduleEntry, load_run
from unmask.ledger.queries import attack_table, claimed_accuracy, counts, headline, robust_accuracy

ADAPTIVE = ScheduleEntry(kind="adaptive", settings={"pilot": 3})
# Attack, restart and examples of each round; of the ten, each of some rounds breaks the first two it is given.
ROUNDS = [
    ("clean", 0, range(100, 110)),
    ("apgd", 0, range(100, 104)),
    ("pgd-40", 0, range(104, 110)),
    ("apgd", 0, range(106, 109)),
    ("pgd-40", 1, [102, 103, 108]),
]
BREAKING = (1, 2, 3)


def commit(ledger: Ledger, scenario, number: int, attack: str, restart: int, ids, broken=()) -> None:
    rows = []
    for example in ids:
        row = scenario.event(99, attack, restart, example)._replace(round=number)
        rows.append(row._replace(status="broken" if example in broken else "survived"))
    kept = [example for example in ids if example in broken]
    x_adv = np.array([scenario.image(number, example) for example in kept], np.float32).reshape(-1, 1, 2, 3)
    ledger.commit(rows, x_adv, kept, round=number, attack=attack, restart=restart, seconds=0.5)


@pytest.fixture
def ledger(tmp_path: Path, scenario):
    with scenario.open(tmp_path / "run", schedule=ADAPTIVE) as ledger:
        for number, (attack, restart, ids) in enumerate(ROUNDS):
            commit(ledger, scenario, number, attack, restart, list(ids), list(ids)[:2] if number in BREAKING else ())
        yield ledger


def told(run) -> list[tuple[int, str, int, str]]:
    return [(entry.round, entry.attack, entry.restart, entry.role) for entry in run.rounds]


def test_the_rounds_read_back_are_those_that_were_run(ledger, tmp_path, result):
    expected = [
        (0, "clean", 0, "clean"),
        (1, "apgd", 0, "search"),
        (2, "pgd-40", 0, "claim"),
        (3, "apgd", 0, "search"),
        (4, "pgd-40", 1, "claim"),
    ]
    assert told(ledger.run()) == told(load_run(tmp_path / "run")) == expected
    assert load_run(tmp_path / "run").spec.schedule == ADAPTIVE
    ledger.seal(result)
    assert told(load_run(tmp_path / "run")) == expected


def test_survivors_count_as_such_once_the_run_is_sealed(ledger, tmp_path, result):
    assert counts(load_run(tmp_path / "run")) == {"broken": 6, "survived": 0, "error": 0, "not_run": 4}
    with pytest.raises(LedgerError, match="4 of 10"):
        headline(load_run(tmp_path / "run"))
    assert counts(ledger.run(complete=True))["survived"] == 4
    ledger.seal(result)
    for run in (ledger.run(), load_run(tmp_path / "run")):
        assert counts(run) == {"broken": 6, "survived": 4, "error": 0, "not_run": 0}
        assert "40.0%" in headline(run)


def test_the_attack_table_adds_up_attacks_whose_rounds_alternate(ledger):
    run = ledger.run()
    rows = [(row.attack, row.restarts, row.attempted, row.broken, row.accuracy_after) for row in attack_table(run)]
    assert rows == [("clean", 1, 10, 0, 1.0), ("pgd-40", 2, 8, 2, 0.8), ("apgd", 1, 7, 4, pytest.approx(0.4))]
    assert robust_accuracy(run) == pytest.approx(rows[-1][-1])
    assert claimed_accuracy(run) == pytest.approx(0.8)


def test_a_run_without_events_has_its_clean_round(tmp_path, scenario):
    with scenario.open(tmp_path / "run", schedule=ADAPTIVE) as ledger:
        assert told(ledger.run()) == [(0, "clean", 0, "clean")]
        assert counts(ledger.run())["not_run"] == 10


@pytest.mark.parametrize(
    ("number", "attack", "restart"),
    [(5, "pgd-40", 2), (5, "apgd", 1), (5, "clean", 0), (0, "apgd", 0)],
)
def test_what_the_plan_does_not_allow_is_refused(ledger, scenario, number, attack, restart):
    before = ledger.events()
    with pytest.raises(LedgerError, match="not in the plan"):
        commit(ledger, scenario, number, attack, restart, [109])
    assert ledger.events() == before


def test_an_attack_that_the_plan_does_not_name_is_refused(ledger, scenario):
    row = scenario.event(99, "apgd", 0, 109)._replace(round=5, attack="fab")
    with pytest.raises(LedgerError, match="not in the plan"):
        ledger.commit([row], np.empty((0, 1, 2, 3), np.float32), [], round=5, attack="fab", restart=0, seconds=0.5)


def test_two_attacks_in_one_round_are_refused(ledger, scenario):
    with pytest.raises(LedgerError, match="another attack or restart"):
        commit(ledger, scenario, 4, "apgd", 0, [109])


def test_two_attacks_in_one_round_of_a_file_are_refused(ledger, tmp_path):
    journal = tmp_path / "run" / "events.jsonl"
    lines = journal.read_text().splitlines()
    moved = [line.replace('"round":4', '"round":3') for line in lines]
    journal.write_text("\n".join(moved) + "\n")
    with pytest.raises(LedgerError, match="another attack or restart"):
        load_run(tmp_path / "run")
