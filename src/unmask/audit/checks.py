"""Which checks an audit makes, and on how many images: together they cost a bounded share of the audit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unmask.audit.budgets import Access
from unmask.audit.plan import PlannedAttack
from unmask.contract import Model
from unmask.diagnostics import (
    Finding,
    Sample,
    batch_dependence,
    claim_gap,
    determinism,
    eight_bit,
    eps_curve,
    gradients,
    indicators,
    inner_gradients,
    limited_access,
    logit_scale,
    query_breaks,
    random_sampling,
    refusals,
    restart_losses,
    roughness,
    step_size,
    train_mode,
)
from unmask.ledger import Run, queries
from unmask.threat import ThreatModel

SHARE, LEAST = 0.15, 1_500
FILES_SHARE = 1 / 3
SIZES = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Audited:
    """What the attacks of an audit left of images x (B, C, H, W), labels y (B,), ids (B,).

    `best` (B, C, H, W): the best point found of each, itself where there is none. `blocked`: the operations past which
    the model's gradients were looked through; `was_training`: it came in train mode.
    """

    model: Model
    x: Tensor
    y: Tensor
    ids: Tensor
    threat: ThreatModel
    seed: int
    batch_size: int
    attacks: Sequence[PlannedAttack]
    run: Run
    best: Tensor
    access: Access
    blocked: tuple[str, ...]
    was_training: bool

    def sample(self, ids: Sequence[int]) -> Sample:
        """Return the images of these ids."""
        rows = self.rows(ids)
        return Sample.of(self.model, self.x[rows], self.y[rows], self.threat, ids=ids, seed=self.seed)

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Return where images of these ids stand."""
        places = {example: row for row, example in enumerate(self.ids.tolist())}
        return torch.tensor([places[example] for example in ids], dtype=torch.int64, device=self.x.device)


@dataclass(frozen=True)
class Check:
    """A check of some images, by its finding's name: at most `most` of them, at most `per_image` evaluations each."""

    name: str
    run: Callable[[Sample], Finding]
    sample: Sample
    per_image: int
    most: int


def recorded(audited: Audited) -> list[Finding]:
    """Return the findings that the record itself holds: no model is run."""
    run, n = audited.run, len(audited.x)
    claimed, robust = queries.claimed_accuracy(run), queries.robust_accuracy(run)
    found: list[Finding | None] = []
    if claimed is not None:
        overlooked = queries.wilson_interval(round((claimed - robust) * n), n)
        found.append(claim_gap(claimed, robust, overlooked, str(run.spec.claim)))
    found += [train_mode(audited.was_training), limited_access(audited.access)]
    events = run.events
    clean, broken = events["attack"] == "clean", events["status"] == "broken"
    right, fell = clean & ~broken, broken & ~clean
    if right.any() and run.spec.top == 1:  # else the margins are not those between the first two logits
        found.append(logit_scale(events["margin"][right].tolist()))
    if right.any():
        found.append(refusals(events["predicted"][fell].tolist(), run.labels.tolist()))
    if audited.access == "gradients":
        found.append(query_breaks(*_after_gradients(run, audited.attacks)))
    return [finding for finding in found if finding is not None]


def sampled(audited: Audited) -> list[Callable[[], Finding]]:
    """Return the checks that run the model, each on as many images as the allowance has room for."""
    allowance = max(LEAST, int(SHARE * queries.cost(audited.run).evaluations))
    files = int(FILES_SHARE * allowance)
    broken = _ids(audited.run, "broken")
    of_files: list[Callable[[], Finding]] = []
    if (audited.threat.low, audited.threat.high) == (0.0, 1.0):  # pixels of another range have no 8-bit form
        of_files = [partial(_made, "eight_bit", partial(_as_files, audited, broken, files))]
        allowance -= min(files, len(broken))
    checks = _checks(audited)
    counts = allotted(checks, allowance)
    return [
        *of_files,
        *(
            partial(_made, check.name, partial(check.run, check.sample.first(n)))
            for check, n in zip(checks, counts, strict=True)
            if n
        ),
    ]


def _made(name: str, check: Callable[[], Finding]) -> Finding:
    """Return the check's finding, or one that says why there is none: what attacks found is not lost by it."""
    try:
        return check()
    except Exception as error:
        return Finding(
            "unmade",
            "fail",
            f"The check {name} could not be made: {type(error).__name__}: {error}",
            {"check": name},
            "Make the model answer for any number of images, anywhere in the ball and with gradients; then audit anew.",
        )


def allotted(checks: Sequence[Check], allowance: int) -> list[int]:
    """Return how many images each check may look at, so that all together stay within `allowance` evaluations.

    No check may spend more than another that still wants more: cheap ones look at all images they want, the dearest at
    few, or none where even one would cost more than its share.
    """

    def counts(share: int) -> list[int]:
        return [min(check.most, len(check.sample), share // check.per_image) for check in checks]

    def fits(share: int) -> bool:
        return sum(n * check.per_image for n, check in zip(counts(share), checks, strict=True)) <= allowance

    largest_share = bisect_left(range(1, allowance + 1), True, key=lambda share: not fits(share))
    return counts(largest_share)


def _checks(audited: Audited) -> list[Check]:
    """Return the checks of images, dearest last."""
    correct = audited.sample(_right(audited.run))
    if not len(correct):
        return []
    checks = [
        Check("determinism", determinism, correct, 2, 30),
        Check("batch_dependence", batch_dependence, correct, 3, 30),
    ]
    if audited.access != "gradients":
        return checks
    found = audited.sample([*_ids(audited.run, "broken"), *_ids(audited.run, "survived")])
    checks += [
        Check("inner_gradients", inner_gradients, correct, 1, 2),
        Check("gradients", partial(gradients, blocked=audited.blocked), correct, 6, 30),
        Check("roughness", lambda sample: roughness(sample, audited.best[audited.rows(sample.ids)]), found, 12, 30),
    ]
    claim = audited.run.spec.claim
    if claim is not None:
        left = audited.sample(_survivors(audited.run, claim))
        checks += [
            Check("random_sampling", partial(random_sampling, claim=claim), left, 10, 30),
            Check("step_size", partial(step_size, claim=claim), left, 41, 30),
        ]
    curve = partial(eps_curve, shares=SIZES, steps=10, independent=True, batch_size=audited.batch_size)
    losses = partial(restart_losses, restarts=10, steps=20, batch_size=audited.batch_size)
    return [
        *checks,
        Check("eps_curve", curve, correct, 22 * (len(SIZES) + 1) + 1, 30),
        Check("indicators", partial(indicators, steps=12, draws=4), correct, 56, 8),
        Check("restart_losses", losses, correct, 10 * 41, 3),
    ]


def _as_files(audited: Audited, broken: Sequence[int], most: int) -> Finding:
    rows = audited.rows(broken[:most])
    n = len(audited.x)
    standing = queries.counts(audited.run)["survived"] / n
    return eight_bit(
        audited.model,
        audited.best[rows],
        audited.x[rows],
        audited.y[rows],
        audited.threat,
        standing,
        len(broken) / n,
        audited.batch_size,
    )


def _right(run: Run) -> list[int]:
    events = run.events
    return [*map(int, events["id"][(events["attack"] == "clean") & (events["status"] != "broken")])]


def _survivors(run: Run, attack: str) -> list[int]:
    """Return the ids that an attack was run on and never broke."""
    events = run.events
    tried = events["attack"] == attack
    fell = {*events["id"][tried & (events["status"] == "broken")].tolist()}
    return sorted({*events["id"][tried].tolist()} - fell)


def _ids(run: Run, status: str) -> list[int]:
    """Return the ids that an attack broke, or that survived them all."""
    right = {*_right(run)}
    return [example for example, found in queries.status_by_id(run).items() if found == status and example in right]


def _after_gradients(run: Run, attacks: Sequence[PlannedAttack]) -> tuple[int, int]:
    """Return how many images fell to attacks without gradients, of those these were run on after one with gradients."""
    with_gradients = {attack.name for attack in attacks if attack.gradients}
    events = run.events
    ascents = np.isin(events["attack"], [*with_gradients])
    held = ascents & (events["status"] == "survived")
    queried = ~ascents & (events["attack"] != "clean")
    withstood = {*events["id"][held].tolist()} & {*events["id"][queried].tolist()}
    fell = {*events["id"][queried & (events["status"] == "broken")].tolist()}
    return len(withstood & fell), len(withstood)
