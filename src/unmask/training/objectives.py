"""Training objectives: weighted terms and the adversary they need. The papers' defences by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from unmask.errors import RecipeError, unknown
from unmask.streams import Streams
from unmask.threat import ThreatModel
from unmask.training.adversary import Adversary, FreeAdversary, Memory, PgdAdversary, VirtualAdversary
from unmask.training.batch_norm import Policy, auxiliary_turn
from unmask.training.penalties import (
    Batch,
    Blend,
    Convention,
    Need,
    Term,
    adversarial_logit_pairing,
    boosted_cross_entropy,
    clean_logit_pairing,
    cross_entropy,
    divergence_pairing,
    feature_pairing,
    frobenius_logit_squeezing,
    gradient_alignment,
    logit_squeezing,
    misclassified_divergence,
)


@dataclass(frozen=True)
class Inputs:
    """What one step learns from: images x (B, C, H, W), labels y (B,), the adversary's points, and mixup's partners."""

    x: Tensor
    y: Tensor
    x_adv: Tensor | None = None
    blend: Blend | None = None
    streams: Callable[[], Streams] | None = None


@dataclass(frozen=True)
class Objective:
    """A sum of weighted terms, and the adversary that makes x_adv for those that need it.

    `batch_norm` says which statistics clean and adversarial images meet in one step: "joint" (one forward of both),
    "split" (a forward each), "auxiliary_clean" (clean images use auxiliary batch norms, so that the model that is left
    is normalised for adversarial ones) or "auxiliary_adversarial" (the reverse: AdvProp, Xie et al. 2020). Raises
    RecipeError if there is no term, if two have one name, if a term needs adversarial images and there is no adversary,
    if nothing needs them but one is given, or for a policy that has not two halves to part.
    """

    terms: tuple[Term, ...]
    adversary: Adversary | None = None
    batch_norm: Policy = "joint"

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names:
            raise RecipeError("The objective has no terms: give at least one, such as cross_entropy().")
        if len(set(names)) < len(names):
            raise RecipeError(f"The objective's terms are {', '.join(names)}: give each its own name.")
        if self.needs("adversarial") and self.adversary is None:
            needy = ", ".join(term.name for term in self.terms if "adversarial" in term.needs)
            raise RecipeError(f"The terms {needy} need adversarial images: give the objective an adversary.")
        if self.adversary is not None and not self.needs("adversarial"):
            raise RecipeError("The objective has an adversary, but no term uses adversarial images.")
        if self.batch_norm not in get_args(Policy):
            raise RecipeError(unknown("batch-norm policy", self.batch_norm, get_args(Policy)))
        if self.batch_norm != "joint" and not (self.needs("adversarial") and self.needs("clean")):
            raise RecipeError(
                f"The batch-norm policy '{self.batch_norm}' parts clean from adversarial images, but the terms "
                f"{', '.join(names)} do not read both. Leave it out."
            )

    def needs(self, need: Need) -> bool:
        """Say whether any term reads this ("clean" or "adversarial" logits, "features", "model")."""
        return any(need in term.needs for term in self.terms)

    @property
    def auxiliary(self) -> bool:
        """Whether the policy needs auxiliary batch norms in the model."""
        return self.batch_norm.startswith("auxiliary")

    def attack(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        streams: Callable[[], Streams],
        blend: Blend | None = None,
        memory: Memory | None = None,
    ) -> Inputs:
        """Return what the step learns from, the adversary's points included; `streams` is called only if need be."""
        if self.adversary is None:
            return Inputs(x, y, None, blend, streams)
        with auxiliary_turn(model, self.batch_norm == "auxiliary_adversarial"):
            return Inputs(x, y, self.adversary(model, x, y, streams(), memory), blend, streams)

    def measure(
        self, model: nn.Module, inputs: Inputs, forward: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return every term's unweighted value by name, from one train-mode forward of all images that are needed.

        `forward` runs the model where that is more than calling it (several processes).
        """
        run = model if forward is None else forward
        clean = inputs.x if self.needs("clean") else None
        with _kept_features(model, self.needs("features")) as features:
            logits, logits_adv = self._logits(model, run, clean, inputs.x_adv)
        halves = _halves(features, clean, inputs.x_adv)
        batch = Batch(
            inputs.x,
            inputs.y,
            logits,
            inputs.x_adv,
            logits_adv,
            *halves,
            blend=inputs.blend,
            model=model if self.needs("model") else None,
            streams=inputs.streams() if self.needs("model") and inputs.streams is not None else None,
        )
        return {term.name: term.function(batch) for term in self.terms}

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, streams: Callable[[], Streams]) -> dict[str, Tensor]:
        """Attack, then measure: every term's unweighted value by name.

        x (B, C, H, W), y (B,); `streams` makes the random streams and is called only if something draws from them.
        """
        return self.measure(model, self.attack(model, x, y, streams))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms' values: a scalar."""
        return torch.stack([term.weight * losses[term.name] for term in self.terms]).sum()

    def shares(self, losses: dict[str, Tensor], part: int, whole: int) -> dict[str, Tensor]:
        """Return what `part` of `whole` images adds to every term: the parts' sum is the term on the whole batch.

        Raises RecipeError for a term that does not come apart so.
        """
        if part == whole:
            return losses
        whole_terms = [term.name for term in self.terms if term.units is None]
        if whole_terms:
            raise RecipeError(
                f"{', '.join(whole_terms)} is no mean over images: it needs the whole batch in one process and one "
                "pass. Train without accumulation on one worker, or use logit_squeezing."
            )
        return {
            term.name: losses[term.name] * (term.units(part) / max(term.units(whole), 1))
            for term in self.terms
            if term.units is not None
        }

    def describe(self) -> dict[str, object]:
        """Return the objective as plain values, for records and fingerprints."""
        adversary = None if self.adversary is None else self.adversary.describe()
        terms = [term.describe() for term in self.terms]
        return {"terms": terms, "adversary": adversary, "batch_norm": self.batch_norm}

    def _logits(
        self, model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor | None, x_adv: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        if x is None or x_adv is None:
            return None if x is None else run(x), None if x_adv is None else run(x_adv)
        if self.batch_norm == "joint":
            logits, logits_adv = run(torch.cat([x, x_adv])).chunk(2)
            return logits, logits_adv
        with auxiliary_turn(model, self.batch_norm == "auxiliary_clean"):
            logits = run(x)
        with auxiliary_turn(model, self.batch_norm == "auxiliary_adversarial"):
            return logits, run(x_adv)


@contextmanager
def _kept_features(model: nn.Module, wanted: bool) -> Iterator[list[Tensor]]:
    """Keep what the model's last linear layer is given in the forwards to come."""
    kept: list[Tensor] = []
    if not wanted:
        yield kept
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise RecipeError("The model has no linear layer whose inputs could be paired: feature_pairing needs one.")
    handle = linear[-1].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].flatten(1)))
    try:
        yield kept
    finally:
        handle.remove()


def _halves(features: list[Tensor], x: Tensor | None, x_adv: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if not features:
        return None, None
    clean, adversarial = torch.cat(features).split([len(half) for half in (x, x_adv) if half is not None])
    return clean, adversarial


def plain() -> Objective:
    """Return cross-entropy on clean images."""
    return Objective((cross_entropy(),))


def label_smoothing(alpha: float, convention: Convention = "all_classes") -> Objective:
    """Return cross-entropy with smoothed labels; conventions as in `penalties.cross_entropy`."""
    return Objective((cross_entropy(label_smoothing=alpha, convention=convention),))


def clp(weight: float = 0.5) -> Objective:
    """Return clean logit pairing: CE(x) + weight * MSE of the logits of random pairs."""
    return Objective((cross_entropy(), clean_logit_pairing(weight)))


def lsq(weight: float = 0.5) -> Objective:
    """Return logit squeezing as Mosbach et al. train it: CE(x) + weight * mean ||z_i||_2."""
    return Objective((cross_entropy(), logit_squeezing(weight)))


def frobenius_lsq(beta: float) -> Objective:
    """Return logit squeezing as Shafahi et al. write it: summed CE + beta * ||Z||_F (Eq. 5)."""
    return Objective((cross_entropy(reduction="sum"), frobenius_logit_squeezing(beta)))


def adversarial_training(
    adversary: Adversary, share: float = 1.0, pairing: float = 0.0, smoothing: float = 0.0
) -> Objective:
    """Return (1 - share) * CE(x) + share * CE(x_adv) + pairing * MSE(z, z_adv).

    share 1 is Madry et al.'s adversarial training, .5 is Kannan et al.'s mixed-minibatch PGD, 0 with pairing is
    Plain + ALP. `smoothing` is the label smoothing of both cross-entropies, over all classes.
    Raises RecipeError for a share outside [0, 1] or a negative pairing weight.
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"The adversarial share is {share}; expected a number between 0 and 1.")
    if pairing < 0:
        raise RecipeError(f"The pairing weight is {pairing}; expected 0 (none) or more.")
    terms = [cross_entropy(1 - share, label_smoothing=smoothing)] if share < 1 else []
    terms += [cross_entropy(share, on="adversarial", label_smoothing=smoothing)] if share > 0 else []
    terms += [adversarial_logit_pairing(pairing)] if pairing > 0 else []
    return Objective(tuple(terms), adversary)


def mixed_minibatch_pgd(adversary: PgdAdversary, pairing: float = 0.0) -> Objective:
    """Return Kannan et al.'s M-PGD: half clean, half adversarial cross-entropy, with ALP if `pairing` > 0."""
    return adversarial_training(adversary, share=0.5, pairing=pairing)


def plain_alp(adversary: PgdAdversary, pairing: float = 1.0) -> Objective:
    """Return Plain + ALP: adversarial images are only paired, there is no cross-entropy on them."""
    return Objective((cross_entropy(), adversarial_logit_pairing(pairing)), adversary)


def trades(adversary: PgdAdversary, weight: float = 6.0) -> Objective:
    """Return TRADES: CE(x) + weight * KL(p(x) || p(x_adv)) (Zhang et al. 2019, Eq. 3, weight 1/lambda).

    The adversary should climb the same divergence: `PgdAdversary(..., loss="divergence", start="gaussian")`.
    """
    return Objective((cross_entropy(), divergence_pairing(weight)), adversary)


def mart(adversary: PgdAdversary, weight: float = 5.0) -> Objective:
    """Return MART: boosted CE(x_adv) + weight * KL(p(x) || p(x_adv)) (1 - p_y(x)) (Wang et al. 2020, Eq. 11)."""
    return Objective((boosted_cross_entropy(), misclassified_divergence(weight)), adversary)


def vat(eps: float, weight: float = 1.0, iterations: int = 1) -> Objective:
    """Return VAT: CE(x) + weight * KL(p(x) || p(x + r)), p(x) constant, r of `VirtualAdversary` (Miyato et al.)."""
    terms = (cross_entropy(), divergence_pairing(weight, constant_clean=True))
    return Objective(terms, VirtualAdversary(eps, iterations=iterations))


def fast_adversarial_training(threat: ThreatModel, step_share: float = 1.25, alignment: float = 0.0) -> Objective:
    """Return Fast adversarial training: CE after one step of `step_share` eps from a point of the ball (Wong et al.).

    With `alignment` > 0, plus that weight times GradAlign (Andriushchenko & Flammarion 2020).
    """
    terms = [cross_entropy(on="adversarial")]
    terms += [gradient_alignment(alignment, threat)] if alignment > 0 else []
    return Objective(tuple(terms), PgdAdversary(threat, 1, step_share * threat.eps, start="ball"))


def free_adversarial_training(threat: ThreatModel, replays: int = 8) -> Objective:
    """Return Free adversarial training: CE(x_adv), each batch used `replays` times (Shafahi et al. 2019)."""
    return Objective((cross_entropy(on="adversarial"),), FreeAdversary(threat, replays))


def paired_features(adversary: Adversary, weight: float = 1.0, share: float = 0.5) -> Objective:
    """Return mixed-minibatch adversarial training with paired features (proposed in Kannan et al. 2018, Section 7)."""
    halves = (cross_entropy(1 - share), cross_entropy(share, on="adversarial"))
    return Objective((*halves, feature_pairing(weight)), adversary)
