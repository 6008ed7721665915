"""Pairs of models: the four cells count images, and interval and p value are the textbook's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.ledger import ThreatEntry
from unmask.report.paired import difference_interval, mcnemar, paired
from unmask.report.table import summary_rows


def pairs_of(*runs):
    return paired(runs, summary_rows(runs))


def test_the_cells_count_the_same_images(run, story):
    other = story(breaks=(0.0, 0.05, 0.05, 0.0, 0.0, 0.0), changes={"name": "digits-at"}).play()
    [pair], hidden = pairs_of(run, other)
    # Breaks fall on the images in their order: what the first model keeps, the other keeps too.
    assert (pair.one, pair.other, hidden) == ("digits-clp", "digits-at", 0)
    assert (pair.both, pair.only_one, pair.only_other, pair.neither) == (10, 0, 26, 4)
    assert pair.difference == pytest.approx(-0.65)
    assert pair.low < -0.65 < pair.high < 0
    assert pair.p < 1e-6


def test_a_model_does_not_differ_from_itself(run):
    [pair], _ = pairs_of(run, run)
    assert (pair.only_one, pair.only_other, pair.difference, pair.p) == (0, 0, 0.0, 1.0)
    assert pair.low == pytest.approx(-pair.high)


def test_only_whole_runs_on_the_same_images_and_threat_are_paired(run, story):
    make = story()
    unlike = (
        story(changes={"data": make.data(fingerprint="other")}).play(),
        story(changes={"threat": ThreatEntry(norm="linf", eps="0.1")}).play(),
        story().play(until=3),
        story(n=20).play(),
    )
    for other in unlike:
        assert pairs_of(run, other) == ((), 0)


def test_many_pairs_are_counted_and_not_listed(run):
    shown, hidden = pairs_of(*[run] * 13)
    assert (len(shown), hidden) == (60, 18)


def test_mcnemar_is_exact():
    # One in two tails of ten throws of a coin: 2 (1 + 10 + 45) / 1024.
    assert mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert mcnemar(2, 8) == mcnemar(8, 2)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0


def test_the_interval_is_that_of_agresti_and_min():
    # By hand for 20 and 5 of 98: (15 +- 1.96 sqrt(26 - 2.25)) / 100.
    assert difference_interval(20, 5, 98) == pytest.approx((0.0545, 0.2455), abs=1e-4)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_the_interval_holds_the_difference_nearly_and_lies_within_bounds(only_one, only_other, rest):
    n = only_one + only_other + rest + 1
    low, high = difference_interval(only_one, only_other, n)
    assert -1 <= low <= high <= 1
    assert low - 1e-9 <= (only_one - only_other) / (n + 2) <= high + 1e-9
    mirrored = difference_interval(only_other, only_one, n)
    assert mirrored == pytest.approx((-high, -low))
