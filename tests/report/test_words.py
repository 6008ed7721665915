"""Numbers and names as a reader sees them."""

import math

import pytest

from unmask.report.words import (
    NONE,
    bound,
    clip,
    distinct,
    duration,
    first,
    interval,
    number,
    per_image,
    percent,
    value,
)
from unmask.report.words import points as in_points


@pytest.mark.parametrize(
    ("given", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (0.123456, "0.1235"), (12345.6, "12,346"), (2.0, "2"), (1e-9, "1e-09")],
)
def test_number(given, shown):
    assert number(given) == shown


def test_numbers_that_no_float_holds():
    assert number(math.nan) == number(-math.inf) == NONE
    assert len(number(10**400)) <= 24
    assert number(1e300) == "1e+300"


def test_shares():
    assert (percent(0.12345), percent(None), percent(math.nan)) == ("12.3%", NONE, NONE)
    assert (bound(0.5), bound(None)) == ("≤ 50.0%", NONE)
    assert (in_points(0.4321), in_points(None)) == ("43.2 points", NONE)
    assert interval(0.0, 0.0432) == "[0.0, 4.3]"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (7384, "2 h 03 min")]
)
def test_duration(seconds, shown):
    assert duration(seconds) == shown


def test_per_image():
    assert (per_image(0, 10), per_image(25, 10), per_image(123456, 10)) == ("0", "2.5", "12,346")


def test_clip_shortens_and_cleans():
    assert clip("x" * 200, 10) == "x" * 9 + "…"
    assert clip("a\x00b\u202ec\x1b[0m") == "a b c [0m"
    assert clip("short") == "short"


def test_distinct_never_repeats_a_name_even_one_that_looks_numbered():
    assert distinct(["a", "a (2)", "a"]) == ["a", "a (2)", "a (3)"]


def test_first_counts_what_it_leaves_out():
    assert first([1, 2, 3], 2) == ([1, 2], 1)
    assert first([1], 2) == ([1], 0)


def test_value_shows_any_recorded_value_on_one_line():
    assert value(True) == "yes"
    assert value(None) == NONE
    assert value({"a": 0.5, "b": [1, 2]}) == "a: 0.5, b: 1, 2"
    assert value([[1.0, 2.0], [3.0]]) == "(1, 2), (3)"
    assert value(list(range(100))) == "0, 1, 2, 3, 4, 5, 6, 7 … (92 more)"
    assert len(value("x" * 10_000)) <= 160
