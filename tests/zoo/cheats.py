"""Planted cheats: wrappers that make a network look robust without being so, and what must be said of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cheat:
    """`plant(network)` returns the cheat; one of the checks `causes` must speak up and say one of `words`."""

    plant: Callable[[nn.Module], Model]
    causes: tuple[str, ...]
    words: tuple[str, ...]


CHEATS: dict[str, Cheat] = {}


def cheat(*causes: str, words: tuple[str, ...]) -> Callable[[Callable[[nn.Module], Model]], Callable]:
    def add(plant: Callable[[nn.Module], Model]) -> Callable[[nn.Module], Model]:
        CHEATS[plant.__name__] = Cheat(plant, causes, words)
        return plant

    return add


class Wrapped(nn.Module):
    """A network whose input, and output, pass through functions first."""

    def __init__(self, network: nn.Module, before: Model = lambda x: x, after: Model = lambda z: z) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


class _Killed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


@cheat("gradients", words=("zero",))
def gradient_killer(network: nn.Module) -> Model:
    return Wrapped(network, before=_Killed.apply)


@cheat("gradients", words=("zero", "sign"))
def sign_input(network: nn.Module) -> Model:
    return Wrapped(network, before=lambda x: ((x - 0.5).sign() + 1) / 2)


@cheat("gradients", "logit_scale", words=("underflow", "apart", "saturates"))
def logits_times_2000(network: nn.Module) -> Model:
    return Wrapped(network, after=lambda z: 2000 * z)


@cheat("gradients", "logit_scale", words=("underflow", "apart", "saturates"))
def temperature(network: nn.Module) -> Model:
    return Wrapped(network, after=lambda z: z / 0.002)


@cheat("gradients", words=("zero", "round"))
def quantised_input(network: nn.Module) -> Model:
    return Wrapped(network, before=lambda x: (8 * x).round() / 8)


@cheat("gradients", words=("zero", "through"))
def thermometer_input(network: nn.Module) -> Model:
    levels = torch.linspace(0, 1, 9)[1:]
    return Wrapped(network, before=lambda x: (x.unsqueeze(-1) >= levels - 1 / 16).float().mean(-1))


@cheat("determinism", words=("randomised",))
def random_noise(network: nn.Module) -> Model:
    return Wrapped(network, before=lambda x: (x + 0.1 * torch.randn_like(x)).clamp(0, 1))


@cheat("determinism", words=("randomised",))
def random_resize(network: nn.Module) -> Model:
    def resized(x: Tensor) -> Tensor:
        side = x.shape[-1]
        smaller = int(torch.randint(side - max(2, side // 10), side, ()))
        left, top = (int(torch.randint(0, side - smaller + 1, ())) for _ in range(2))
        pads = (left, side - smaller - left, top, side - smaller - top)
        return F.pad(F.interpolate(x, size=(smaller, smaller), mode="bilinear"), pads)

    return Wrapped(network, before=resized)


@cheat("determinism", words=("randomised", "dropout"))
def dropout_left_on(network: nn.Module) -> Model:
    return Wrapped(network, before=lambda x: F.dropout(x, 0.1, training=True))


@cheat("gradients", words=("detach",))
def stop_gradient_branch(network: nn.Module) -> Model:
    def noisy_path(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        kernel = torch.randn(x.shape[1:], generator=generator)
        return x.detach() + 1e-3 * ((x - x.detach()) * kernel)

    return Wrapped(network, before=noisy_path)


@cheat("roughness", words=("rough",))
def ripple(network: nn.Module) -> Model:
    """Waves of a two-hundredth of the pixel range, high enough to hide the slope, too low to change many answers."""

    class Rippled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            logits = self.network(x)
            generator = torch.Generator().manual_seed(0)
            waves = torch.randn((x[0].numel(), logits.shape[1]), generator=generator).to(x)
            height = 0.2 * logits.std(1, keepdim=True)
            return logits + height * (1000 * x.flatten(1) @ waves / x[0].numel() ** 0.5).sin()

    return Rippled()


@cheat("refusals", words=("refuses",))
def detector(network: nn.Module) -> Model:
    """Refuses images with many grey pixels beside others, by a class of its own."""

    def refuse(x: Tensor, logits: Tensor) -> Tensor:
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) + (x[..., 1:, :] - x[..., :-1, :]).abs().mean(
            (1, 2, 3)
        )
        alarm = logits.amax(1) + 200 * (rough - LIMITS[x.shape[-1]])
        return torch.cat([logits, alarm[:, None]], dim=1)

    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return refuse(x, self.network(x))

    return Refusing()


LIMITS = {8: 0.62, 28: 0.22}


@cheat("inner_gradients", words=("optimises",))
def purified_at_test_time(network: nn.Module) -> Model:
    """Climbs its own confidence before it answers, and hides that from gradients."""

    def purified(x: Tensor) -> Tensor:
        here = x.detach().requires_grad_()
        with torch.enable_grad():
            confidence = network(here).log_softmax(1).amax(1).sum()
        (slope,) = torch.autograd.grad(confidence, here)
        return (x.detach() + 0.02 * slope.sign()).clamp(0, 1)

    return Wrapped(network, before=purified)


@cheat("batch_dependence", words=("beside",))
def batch_average(network: nn.Module) -> Model:
    return Wrapped(network, after=lambda z: z - 0.5 * z.mean(0, keepdim=True) + 0.1 * z.std())


class _Winners(nn.Module):
    """k-winners-take-all: of every image's activations the largest tenth passes (Xiao et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def winners_take_all(side: int, classes: int = 10) -> nn.Module:
    """Return an untrained k-WTA network for one-channel images of `side` pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        _Winners(),
        nn.Flatten(),
        nn.Linear(16 * ((side + 1) // 2) ** 2, 128),
        _Winners(),
        nn.Linear(128, classes),
    )


def distilling(network: nn.Module, temperature: float = 50.0) -> nn.Module:
    """Return what is trained in the place of `network`, whose own logits grow by the temperature thereby."""
    return Wrapped(network, after=lambda z: z / temperature)


TRAINED_CHEATS = {
    "winners_take_all": (("gradients", "roughness"), ("lost in", "rough")),
    "distilled": (("gradients", "logit_scale"), ("underflow", "apart", "saturates")),
}
