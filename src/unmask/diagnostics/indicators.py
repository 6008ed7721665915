"""Which step of a gradient attack goes wrong on this model?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend, climb
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import Problem, input_gradient, pose
from unmask.attacks.start import clean
from unmask.attacks.stepper import fixed
from unmask.contract import logits_of
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError
from unmask.losses import Loss, cross_entropy, margin, predictions

VARIABILITY = 0.1
REACH = 0.1
PROGRESS = 0.1
LATE = 4
SHARE = 0.5

TITLES = {
    "unavailable_gradients": "no gradient",
    "unstable_predictions": "unstable answers",
    "silent_success": "success lost on the way",
    "incomplete_optimisation": "stopped too early",
    "unconstrained_failure": "failure without a bound",
}
ADVICE = {
    "unavailable_gradients": "Use attacks without gradients (square, spsa), or a smooth stand-in for what blocks them.",
    "unconstrained_failure": "The gradients mislead: vary the loss, or use attacks without gradients (square, spsa).",
    "unstable_predictions": "Average the gradient over noise (cosine_pgd with smoothing).",
    "silent_success": "Keep the best iterate of the attack, not the last.",
    "incomplete_optimisation": "Take more steps, or larger ones.",
}
FATAL = ("unavailable_gradients", "unconstrained_failure")


@dataclass(frozen=True)
class _Path:
    """A run's margins (T + 1, B), at the start and after each of T steps, and where it was adversarial."""

    margins: Tensor
    adversarial: Tensor


def indicators(
    sample: Sample,
    *,
    steps: int = 20,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    draws: int = 10,
) -> Finding:
    """Look for the causes of attack failure that Pintor et al. 2022 (Indicators of Attack Failure, NeurIPS) name.

    The attack is PGD on `loss` from the clean image, never stopped early, with `step_size` in pixels (by default
    4 eps / (3 steps), which is at the bound after three quarters of the steps). Per image:

    - unavailable gradients (I1): the gradient of the loss at the clean image is missing or exactly zero.
    - unstable predictions (I2): at `draws` uniform points of the ball of eps / 10 the margin differs from the clean one
      by more than 10% of it on average, or in full where the clean margin is zero.
    - silent success (I3): some iterate is adversarial and the last one is not.
    - incomplete optimisation (I4): no iterate is adversarial, and of all that the best margin so far has gained, more
      than 10% came in the last quarter of the steps.
    - transfer failure (I5): None; the attack runs on the model itself, so there is no surrogate to transfer from.
    - unconstrained failure (I6): the same attack with the same number of steps and a bound that spans the pixel box
      finds nothing either. From the clean image: a random point of the box would be misclassified by itself.

    The authors' code reads I2 and I4 off the attacked loss, I2 in a cube of fixed size and I4 by 5% over the last 10
    steps of long runs. Here they are read off the margin max_{j != y} z_j - z_y, whose relative changes do not depend
    on how confident the model is. Of 100 MNIST images, I4 held on none of a plain model (all were broken), on 22 of an
    adversarially trained one, and on 42 and 51 of two that hide their gradients (CLP, LSQ).

    Fails where I1 or I6 hold on half of the images or more; warns where they hold on any, or another on half. Costs per
    image steps + 2 forwards and steps + 1 backwards, `draws` forwards, and up to steps + 1 forwards and steps backwards
    for I6. Raises AuditError for fewer than 4 steps or less than one draw.
    """
    if steps < LATE or draws < 1:
        raise AuditError(f"indicators got steps={steps} and draws={draws}; expected at least {LATE} steps and 1 draw.")
    if not len(sample):
        return Finding("indicators", "not_applicable", "There are no images to look at.", {"n": 0})
    problem = pose(
        sample.model, sample.x, sample.y, threat=sample.threat, generator=sample.streams.child("indicators"), loss=loss
    )
    size = usual_step_size(sample.threat, steps) if step_size is None else step_size
    blocked, differentiable, here = _without_gradient(problem)
    variability = _variability(problem, here, draws)
    path = _climbed(problem, size, steps)
    late = _late_progress(path.margins)
    free = replace(problem, threat=sample.threat.unbounded(sample.x))
    unbounded = ascend(free, start=clean(), stepper=fixed(usual_step_size(free.threat, steps)), steps=steps)
    found = path.adversarial.any(0)
    flags = {
        "unavailable_gradients": blocked,
        "unstable_predictions": variability > VARIABILITY,
        "silent_success": found & ~path.adversarial[-1],
        "incomplete_optimisation": ~found & (late > PROGRESS),
        "unconstrained_failure": ~unbounded.broken,
    }
    shares = {name: flag.float().mean().item() for name, flag in flags.items()}
    status = _status(shares)
    return Finding(
        "indicators",
        status,
        _summary(shares, len(sample)),
        {
            "n": len(sample),
            "indicators": {**shares, "transfer_failure": None},
            "attack": f"pgd, {steps} steps, from the clean image, last iterate",
            "steps": steps,
            "step_size": size,
            "draws": draws,
            "thresholds": {"variability": VARIABILITY, "late_progress": PROGRESS, "share": SHARE},
            "per_image": [
                {
                    "id": id_,
                    "variability": variability[row].item(),
                    "late_progress": late[row].item(),
                    "success": bool(found[row]),
                    "indicators": [name for name, flag in flags.items() if flag[row]],
                }
                for row, id_ in enumerate(sample.ids)
            ],
        },
        "" if status == "ok" else _advice(shares),
        forwards=len(sample) * (steps + 2 + draws) + int(unbounded.forwards.sum()),
        backwards=len(sample) * differentiable * (steps + 1) + int(unbounded.backwards.sum()),
    )


def _without_gradient(problem: Problem) -> tuple[Tensor, bool, Tensor]:
    """Return per image whether the loss has no gradient at the clean image, whether it has a graph, and the logits."""
    leaf, logits, values = problem.forward(problem.x, graph=True)
    blocked = (input_gradient(values, leaf).flatten(1) == 0).all(1)
    return blocked, values.requires_grad, logits.detach()


@torch.no_grad()
def _variability(problem: Problem, logits: Tensor, draws: int) -> Tensor:
    """Return the mean of min(1, |m(x') - m(x)| / |m(x)|) over random points x' near each image, m the margin: (B,)."""
    near = problem.threat.with_eps(REACH * problem.threat.eps)
    here = margin(logits, problem.y)
    total = torch.zeros_like(here)
    for draw in range(draws):
        there = margin(problem.logits(near.uniform(problem.x, problem.streams.child("near", draw))), problem.y)
        total += ((there - here).abs() / here.abs().clamp(min=torch.finfo(here.dtype).tiny)).clamp(max=1)
    return total / draws


def _climbed(problem: Problem, step_size: float, steps: int) -> _Path:
    margins: list[Tensor] = []
    adversarial: list[Tensor] = []

    def note(logits: Tensor, y: Tensor) -> None:
        margins.append(margin(logits.detach(), y))
        adversarial.append(predictions(logits.detach()) != y)

    def noted(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
        note(logits, y)
        return problem.loss(logits, y, target)

    last = climb(replace(problem, loss=noted), start=clean(), stepper=fixed(step_size), steps=steps)
    with torch.no_grad():
        note(logits_of(problem.model, last), problem.y)
    return _Path(torch.stack(margins), torch.stack(adversarial))


def _late_progress(margins: Tensor) -> Tensor:
    """Return the share of the best margin's gain that comes in the last quarter of the run: (T + 1, B) -> (B,)."""
    best = margins.cummax(0).values
    steps = len(best) - 1
    gained = best[-1] - best[0]
    late = best[-1] - best[steps - steps // LATE]
    return torch.where(gained > 0, late / gained, 0.0)


def _status(shares: dict[str, float]) -> Status:
    if any(shares[name] >= SHARE for name in FATAL):
        return "fail"
    return "warn" if any(shares[name] > 0 for name in FATAL) or max(shares.values()) >= SHARE else "ok"


def _summary(shares: dict[str, float], n: int) -> str:
    seen = [f"{TITLES[name]} on {share:.0%}" for name, share in shares.items() if share > 0]
    return (
        f"Indicators of attack failure on {n} images: {', '.join(seen)}."
        if seen
        else (f"No indicator of attack failure on {n} images.")
    )


def _advice(shares: dict[str, float]) -> str:
    """Return what helps against the indicator that matters most: a fatal one first, then the most frequent."""
    worst = max(ADVICE, key=lambda name: (name in FATAL and shares[name] > 0, shares[name]))
    return ADVICE[worst]
