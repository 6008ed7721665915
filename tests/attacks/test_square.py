"""Square: what its queries, windows and starts promise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import square
from unmask.attacks.problem import AttackResult, Problem
from unmask.attacks.square import TILE, _windows, hump, searched, stripes, tiles
from unmask.errors import AuditError
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, ThreatModel

THREATS = [Linf("0.1"), L2("0.5")]
SHAPE = (2, 6, 7)


@pytest.fixture
def model(linear: Callable[..., nn.Module]) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    return linear(torch.randn(3, 84, generator=generator), torch.zeros(3))


@pytest.fixture
def images() -> Tensor:
    return 0.2 + 0.6 * torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(2))


def run(model: Callable[[Tensor], Tensor], x: Tensor, threat: ThreatModel, **settings: object) -> AttackResult:
    y = model(x).argmax(1)
    return square(model, x, y, threat=threat, generator=Streams.derive(0, range(len(x))), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("queries", [1, 2, 30])
def test_no_image_gets_more_queries_than_allowed(model, images, threat, queries):
    result = run(model, images, threat, queries=queries)
    assert (result.forwards <= queries).all() and not result.backwards.any()
    assert (result.forwards[~result.broken] == queries).all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_only_changes_that_raise_the_loss_are_kept(images, threat):
    asked: list[Tensor] = []
    weights = torch.randn(84, generator=torch.Generator().manual_seed(1))

    def held(x: Tensor) -> Tensor:
        asked.append(x.detach().clone())
        gain = x.flatten(1) @ weights
        return torch.stack([torch.full_like(gain, 1000.0), gain], 1)

    x = images[:1]
    y = torch.zeros(1, dtype=torch.int64)
    result = square(held, x, y, threat=threat, queries=120, window=0.1, generator=Streams.derive(0, [0]))
    points = asked[-120:]
    values = torch.cat([margin(held(point), y) for point in points])
    best = values.cummax(0).values
    assert result.margin == best[-1] and torch.equal(result.x_adv, points[int(values.argmax())])
    assert len(best.unique()) > 5
    if threat.norm == "linf":
        # Every proposal differs from the best point before it in one window of every channel, and nowhere else.
        for number in range(1, 120):
            before = points[int(values[:number].argmax())]
            rows, columns = (points[number] != before)[0].any(0).nonzero().unbind(1)
            side = max(1, round((0.1 * 6 * 7) ** 0.5))
            assert not len(rows) or max(rows.max() - rows.min(), columns.max() - columns.min()) < side


@pytest.mark.parametrize("side", [1, 3, 6, 9])
def test_windows_lie_in_the_image_and_reach_its_corners(side):
    draws = torch.tensor([0.0, 0.5, 0.999999, 1.0])
    masks = _windows(draws, draws, torch.zeros(4, *SHAPE), side)
    assert masks.shape == (4, 1, 6, 7)
    assert (masks.flatten(1).sum(1) == min(side, 6) * min(side, 7)).all()
    assert masks[0, 0, 0, 0] == masks[2, 0, -1, -1] == masks[3, 0, -1, -1] == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (TILE, TILE), (3, 6), (8, 8)])
def test_a_hump_has_unit_length_and_its_top_in_the_middle(height, width):
    pyramid = hump(height, width)
    assert pyramid.shape == (height, width) and pyramid.norm().item() == pytest.approx(1, abs=1e-12)
    assert (pyramid > 0).all() and pyramid.max() == pyramid[height // 2, width // 2]


@pytest.mark.parametrize(("start", "threat"), [(stripes(), THREATS[0]), (tiles(), L2("0.2"))])
def test_starts_lie_on_the_sphere(model, images, start, threat):
    y = model(images).argmax(1)
    problem = Problem(model, images, y, threat, margin, Streams.derive(0, range(5)))
    x_adv, forwards, _ = start(problem)
    assert forwards == 0
    assert threat.contains(x_adv, images).all()
    if threat.norm == "linf":
        change = x_adv - images
        assert torch.allclose(change.abs(), torch.full_like(change, threat.eps), atol=1e-6)
        assert torch.allclose(change, change[:, :, :1].expand_as(change), atol=1e-6)
    else:
        assert threat.distance(x_adv, images).tolist() == pytest.approx([threat.eps] * 5, abs=1e-4)


def test_a_search_as_a_start_counts_its_queries(model, images):
    y = model(images).argmax(1)
    problem = Problem(model, images, y, Linf("0.001"), margin, Streams.derive(0, range(5)))
    found = searched(20)(problem)
    assert torch.as_tensor(found.forwards).tolist() == [20] * 5
    assert problem.threat.contains(found.x_adv, images).all()


def test_another_norm_is_refused_with_what_to_do(model, images):
    with pytest.raises(AuditError, match=r"linf and l2.*spsa"):
        run(model, images, L1("1"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"queries": -3}, "queries is -3"),
        ({"window": 0.0}, "window is 0"),
        ({"window": 1.5}, "window is 1.5"),
        ({"window": float("nan")}, "window is nan"),
    ],
)
def test_bad_settings_are_refused(model, images, settings, words):
    with pytest.raises(AuditError, match=words):
        run(model, images, THREATS[0], **settings)
