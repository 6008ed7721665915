"""The verdict: an explicit rule over the figures and findings of an audit, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.diagnostics import Finding

Label = Literal["robust", "masked", "not robust", "inconclusive"]
KEPT = 0.25
FEWEST = 20


UNSTABLE = ("determinism", "batch_dependence")
MASKING = ("gradients", "query_breaks")
MECHANISMS = (*MASKING, "inner_gradients", "logit_scale", "random_sampling", "roughness")
CREDIBLE, LEFT = 0.5, 0.25


@dataclass(frozen=True)
class Verdict:
    """What the audit concludes, why, and what would change it."""

    label: Label
    reasons: tuple[str, ...]
    change: tuple[str, ...] = ()


def decide(
    clean: float,
    claimed: float | None,
    measured: float,
    n: int,
    findings: Sequence[Finding],
    unfinished: int = 0,
    attacked: bool = True,
) -> Verdict:
    """Return the verdict. Rules, the first that applies:

    1. inconclusive: some example ended in an error or was not run, no attack was run at all, the model is randomised or
       its answers depend on the batch, or there are fewer than 20 images;
    2. masked: the claim looked robust (a quarter of the clean accuracy or more), and gradients are missing or zero on
       most images, or attacks without gradients break a quarter or more of what gradient attacks leave, or the usual
       attack surely overlooks more than 5 points and a third or more of what it leaves, and another check says how the
       model misleads it, or the claim is half of the clean accuracy or more and not even a quarter of it is left.
       The usual attack overlooks much on some honest models as well: a gap alone does not show masking;
    3. not robust: less than a quarter of the clean accuracy is left;
    4. inconclusive: a further check failed, or the attacks had no access to gradients; 5. robust.
    """
    failed = [finding for finding in findings if finding.status == "fail"]
    if unfinished:
        reason = f"{unfinished} of {n} images ended in an error or were not attacked by the whole plan."
        return Verdict("inconclusive", (reason,), ("Mend what failed, and audit again.",))
    if not attacked:
        return Verdict(
            "inconclusive", ("No attack was run: the clean accuracy alone was measured.",), ("Attacks (--budget).",)
        )
    if n < FEWEST:
        return Verdict(
            "inconclusive", (f"Only {n} images were audited; take at least {FEWEST}.",), ("More images (-n).",)
        )
    unstable = [finding for finding in failed if finding.check in UNSTABLE]
    if unstable:
        return _by_findings("inconclusive", unstable)
    looked_robust = claimed is None or claimed >= KEPT * clean
    masking = [finding for finding in failed if finding.check in MASKING]
    if looked_robust and (masking := masking or _misled(clean, claimed, measured, findings)):
        return _by_findings("masked", masking)
    if measured <= KEPT * clean:
        reason = f"At most {measured:.1%} of the images stay correct, less than a quarter of the clean {clean:.1%}."
        return Verdict("not robust", (reason,), ("Nothing that attacks can do: only another model, or a smaller eps.",))
    doubts = failed or [finding for finding in findings if finding.check == "access"]
    if doubts:
        return _by_findings("inconclusive", doubts)
    reasons = [
        f"{measured:.1%} of the images resist every attack of the plan ({clean:.1%} are correct without attack)."
    ]
    if claimed is not None:
        reasons.append(f"The usual attack overlooks {claimed - measured:.1%}.")
    limit = (
        f"An attack that leaves less than a quarter of the clean accuracy ({KEPT * clean:.1%}), or a check that fails."
    )
    return Verdict("robust", tuple(reasons), (limit,))


def _misled(clean: float, claimed: float | None, measured: float, findings: Sequence[Finding]) -> list[Finding]:
    """Return why the usual attack misses what it misses, where that is by the model's doing."""
    overlooked = [finding for finding in findings if finding.check == "claim_gap" and finding.status == "fail"]
    mechanisms = [finding for finding in findings if finding.check in MECHANISMS and finding.status in ("warn", "fail")]
    if claimed is None or not overlooked:
        return []
    collapsed = claimed >= CREDIBLE * clean and measured < LEFT * claimed
    return [*overlooked, *mechanisms] if mechanisms or collapsed else []


def _by_findings(label: Label, findings: Sequence[Finding]) -> Verdict:
    return Verdict(
        label,
        tuple(finding.summary for finding in findings),
        tuple(finding.next_step for finding in findings if finding.next_step),
    )
