"""Random streams: one per example, the same whatever else is in the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import DataError
from unmask.streams import Streams, derive_generator, derive_seed

WORDS = st.one_of(st.integers(), st.text(max_size=5))


def test_seeds_are_pinned_for_ever() -> None:
    # A run is resumed by later versions and on other machines: these numbers may never change.
    assert derive_seed(0) == 4761921975702974394
    assert derive_seed(0, 17, "pgd", 3) == 6148175881061847961


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4))
def test_a_seed_is_one_that_torch_takes(words: list[object]) -> None:
    assert 0 <= derive_seed(*words) < 2**63
    assert derive_generator(*words).initial_seed() == derive_seed(*words)


@pytest.mark.parametrize(("one", "other"), [((1, 23), (12, 3)), (("a", "b"), ("ab",)), ((0,), (0, "")), ((1,), (2,))])
def test_different_words_give_different_seeds(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert derive_seed(*one) != derive_seed(*other)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6, unique=True), st.data())
def test_an_examples_draws_depend_on_its_id_alone(ids: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    together, apart = Streams.derive(5, ids, "pgd", 1), Streams.derive(5, chosen, "pgd", 1)
    rows = [ids.index(i) for i in chosen]
    for draw in (
        lambda streams: streams.normal((2, 3)),
        lambda streams: streams.uniform((4,)),
        lambda streams: streams.signs((3,)),
        lambda streams: streams.integers(7),
    ):
        assert torch.equal(draw(together)[rows], draw(apart))


def test_seed_words_and_ids_each_change_the_draws() -> None:
    draws = [
        Streams.derive(*key).uniform((4,))
        for key in ((0, [1]), (1, [1]), (0, [2]), (0, [1], "pgd"), (0, [1], "pgd", 0), (0, [1], "pgd", 1))
    ]
    assert len(torch.cat(draws).unique(dim=0)) == len(draws)


def test_selected_streams_go_on_where_they_stand() -> None:
    whole, parted = Streams.derive(0, range(4)), Streams.derive(0, range(4))
    whole.uniform((3,)), parted.uniform((3,))
    expected = whole.uniform((3,))
    by_mask, by_index = parted.select(torch.tensor([True, False, True, False])), parted.select(torch.tensor([3, 1]))
    assert torch.equal(by_mask.uniform((3,)), expected[[0, 2]])
    assert torch.equal(by_index.uniform((3,)), expected[[3, 1]])


def test_a_child_leaves_its_parent_as_it_is_and_is_always_the_same() -> None:
    parent, untouched = Streams.derive(0, range(3)), Streams.derive(0, range(3))
    first = parent.child("restart", 0).normal((5,))
    assert torch.equal(parent.normal((5,)), untouched.normal((5,)))
    assert torch.equal(parent.child("restart", 0).normal((5,)), first)
    assert not torch.equal(parent.child("restart", 1).normal((5,)), first)


def test_children_depend_on_their_own_parent_alone() -> None:
    children = Streams.derive(0, range(5)).child("restart", 1)
    assert len(set(children.seeds)) == 5
    assert Streams.derive(0, range(3, 5)).child("restart", 1).seeds == children.seeds[3:]
    assert not set(Streams.derive(1, range(5)).child("restart", 1).seeds) & set(children.seeds)


def test_distributions() -> None:
    streams = Streams.derive(3, range(100))
    uniform, normal = streams.uniform((500,)), streams.normal((500,))
    signs, integers = streams.signs((500,)), torch.stack([streams.integers(5) for _ in range(100)])
    assert uniform.dtype == normal.dtype == signs.dtype == torch.float32
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.02 and abs(normal.var() - 1) < 0.03
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 0.02
    assert integers.dtype == torch.int64
    assert (integers.flatten().bincount() - 2000).abs().max() < 200  # five standard deviations


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000), st.integers(0, 1000))
def test_integers_stay_below_their_limit(high: int, seed: int) -> None:
    drawn = Streams.derive(seed, range(3)).integers(high)
    assert drawn.shape == (3,)
    assert ((drawn >= 0) & (drawn < high)).all()


def test_no_examples_draw_nothing() -> None:
    assert Streams.derive(0, []).normal((2, 3)).shape == (0, 2, 3)


def test_a_generator_gives_one_stream_per_image() -> None:
    x = torch.zeros(3, 1, 2, 2)
    one, again = (Streams.of(torch.Generator().manual_seed(4), x) for _ in range(2))
    generator = torch.Generator().manual_seed(4)
    first, second = Streams.of(generator, x), Streams.of(generator, x)
    assert one.seeds == again.seeds == first.seeds
    assert len(set(first.seeds) | set(second.seeds)) == 6
    assert Streams.of(one, x) is one


def test_streams_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(DataError, match="2 random streams came for 3 images; give one stream per image"):
        Streams.of(Streams.derive(0, range(2)), torch.zeros(3, 1, 2, 2))


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    state = torch.get_rng_state()
    drawn = Streams.derive(0, range(2)).normal((3,))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(Streams.derive(0, range(2)).normal((3,)), drawn)
