"""A decision attack: labels alone lead it, and it keeps its budget of queries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import AttackResult, hop_skip_jump, minimal_perturbations
from unmask.attacks.hop_skip_jump import decision, nearest_by_hop_skip_jump
from unmask.attacks.problem import pose
from unmask.errors import AuditError, DataError
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, ThreatModel, threat_model

every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def streams(count: int = 6) -> Streams:
    return Streams.derive(0, range(count))


@pytest.fixture
def subject(network: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    model = network(3).double()
    x = torch.rand(6, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1)


@every_norm
def test_logits_say_no_more_than_their_order(norm: str, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject

    def one_hot(images: Tensor) -> Tensor:
        return nn.functional.one_hot(model(images).argmax(1), 3).to(images)

    def distorted(images: Tensor) -> Tensor:
        logits = model(images)
        return 1e-4 * logits.sub(logits.amax(1, keepdim=True)).exp()

    threat = threat_model(norm, "0.01")
    results = [
        hop_skip_jump(shown, x, y, threat=threat, queries=120, samples=20, generator=streams())
        for shown in (model, one_hot, distorted)
    ]
    for result in results[1:]:
        assert torch.equal(result.x_adv, results[0].x_adv)
        assert torch.equal(result.forwards, results[0].forwards)
    assert results[1].broken.any() and not results[1].broken.all()
    assert torch.equal(results[1].margin, torch.where(results[1].broken, 1.0, -1.0).double())
    torch.testing.assert_close(results[0].margin, margin(model(results[0].x_adv), y))


@every_norm
@pytest.mark.parametrize("queries", [1, 2, 5, 30, 137])
def test_no_image_costs_more_than_its_queries(
    norm: str, queries: int, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    threat = threat_model(norm, "1e-5")
    result = hop_skip_jump(model, x, y, threat=threat, queries=queries, samples=10, generator=streams())
    assert not result.broken.any()
    assert (result.forwards <= queries).all() and (result.forwards >= queries - 1).all()
    assert (result.backwards == 0).all()


def distances(norm: str, queries: int, model: Any, x: Tensor, y: Tensor) -> Tensor:
    problem = pose(model, x, y, threat=threat_model(norm, 0), generator=streams(), loss=decision)
    return nearest_by_hop_skip_jump(problem, queries, samples=20).distance


@every_norm
def test_more_queries_come_nearer(norm: str, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    nearest = minimal_perturbations(model, x, y, norm=norm, method="fab")[1]  # type: ignore[arg-type]
    few, more = (distances(norm, queries, model, x, y) for queries in (60, 450))
    assert (more >= 0.99 * nearest).all()
    assert (more < few).all()
    assert (more / nearest).median() < 1.25


@every_norm
def test_what_lies_well_within_reach_breaks_without_logits_or_gradients(
    norm: str, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    nearest = minimal_perturbations(model, x, y, norm=norm, method="fab")[1]  # type: ignore[arg-type]
    threat = threat_model(norm, 1.5 * float(nearest.median()))
    result = hop_skip_jump(model, x, y, threat=threat, queries=500, samples=20, generator=streams())
    assert result.broken[nearest < threat.eps / 1.5].all() and not result.broken[nearest > 1.01 * threat.eps].any()
    assert threat.contains(result.x_adv, x).all()
    # Success stops an image at once.
    assert (result.forwards[result.broken] < 500).all() and result.forwards[result.broken].min() < 200


def test_given_points_are_begun_at(subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    beside = minimal_perturbations(model, x, y, norm="l2")[0]

    def attack(**settings: Any) -> AttackResult:
        return hop_skip_jump(model, x, y, threat=L2("1e-3"), queries=12, generator=streams(), **settings)

    assert (attack(start=beside).margin > attack().margin).all()
    # A point that is not adversarial is no start, and random images are tried instead.
    torch.testing.assert_close(attack(start=x).margin, attack().margin, atol=1e-2, rtol=0)
    assert (attack(start=x).x_adv != x).flatten(1).any(1).all()


def test_models_that_call_all_noise_by_one_name_are_begun_at_black_and_white_images() -> None:
    def busy(images: Tensor) -> Tensor:
        gap = 0.12 - images.flatten(1).var(1)  # uniform noise varies by 1/12, black and white up to 1/4
        return torch.stack([gap, -gap], 1)

    x, y = torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    assert (distances("linf", 40, busy, x, y) < 0.5).all()


def test_unusable_settings_are_refused(subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    cases: list[tuple[ThreatModel, dict[str, Any], type[Exception], str]] = [
        (L1(1), {}, AuditError, r"no geometry for L1\(1\); its norms are linf and l2"),
        (Linf("0.1"), {"queries": 0}, AuditError, "queries is 0 and samples is 100; expected 1 and 2 or more"),
        (Linf("0.1"), {"samples": 1}, AuditError, "queries is 1000 and samples is 1;"),
        (Linf("0.1"), {"start": x[:2]}, DataError, r"shape \(2, 2, 4, 4\) for images of shape \(6, 2, 4, 4\)"),
    ]
    for threat, settings, error, message in cases:
        with pytest.raises(error, match=message):
            hop_skip_jump(model, x, y, threat=threat, **settings)
