"""Batches are cut by the round alone, and dealt so that all have as much to do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.audit.sharing import LEAST, PARTS, cut, dealt


@given(st.integers(1, 3000), st.integers(1, 300))
def test_every_image_is_in_one_batch_and_no_batch_is_too_large(count, batch_size):
    rows = np.arange(count) * 3
    batches = cut(rows, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert all((np.diff(batch) > 0).all() for batch in batches)


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (LEAST, 1), (2 * LEAST, 2), (40 * LEAST, PARTS), (5120, 20)])
def test_small_rounds_stay_whole_and_large_ones_can_be_shared(count, parts):
    assert len(cut(np.arange(count), 256)) == parts


@given(st.lists(st.floats(0.1, 100), max_size=40), st.integers(1, 5))
def test_every_piece_is_dealt_once_and_the_loads_differ_by_one_piece_at_most(work, count):
    hands = dealt(work, count)
    assert sorted(piece for hand in hands for piece in hand) == list(range(len(work)))
    loads = [sum(work[piece] for piece in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(work, default=0) + 1e-6
    assert dealt(work, 1) == [list(range(len(work)))]
