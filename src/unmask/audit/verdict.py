"""The verdict: an explicit rule over the figures and findings of an audit, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.diagnostics import Finding

Label = Literal["robust", "masked", "not robust", "inconclusive"]
KEPT = 0.25
FEWEST = 20


@dataclass(frozen=True)
class Verdict:
    """What the audit concludes, and why."""

    label: Label
    reasons: tuple[str, ...]


def decide(
    clean: float, claimed: float | None, measured: float, n: int, findings: Sequence[Finding], unfinished: int = 0
) -> Verdict:
    """Return the verdict. Rules, the first that applies:

    1. inconclusive: some example ended in an error or was not run, the model is randomised, or there are fewer than
       20 images;
    2. masked: the claim looked robust (a quarter of the clean accuracy or more), and the usual attack surely overlooks
       more than 5 points and a third or more of what it leaves, or gradients are missing or zero on most images;
    3. not robust: less than a quarter of the clean accuracy is left;
    4. inconclusive: a further check failed, or the attacks had no access to gradients; 5. robust.
    """
    failed = {finding.check: finding.summary for finding in findings if finding.status == "fail"}
    if unfinished:
        return Verdict(
            "inconclusive", (f"{unfinished} of {n} images ended in an error or were not attacked by the whole plan.",)
        )
    if "determinism" in failed:
        return Verdict("inconclusive", (failed["determinism"],))
    if n < FEWEST:
        return Verdict("inconclusive", (f"Only {n} images were audited; take at least {FEWEST}.",))
    looked_robust = claimed is None or claimed >= KEPT * clean
    masking = [failed[check] for check in ("claim_gap", "gradients") if check in failed]
    if masking and looked_robust:
        return Verdict("masked", tuple(masking))
    if measured < KEPT * clean:
        return Verdict(
            "not robust",
            (f"At most {measured:.1%} of the images stay correct, less than a quarter of the clean {clean:.1%}.",),
        )
    if failed:
        return Verdict("inconclusive", tuple(failed.values()))
    limited = [finding.summary for finding in findings if finding.check == "access"]
    if limited:
        return Verdict("inconclusive", tuple(limited))
    reasons = [
        f"{measured:.1%} of the images resist every attack of the plan ({clean:.1%} are correct without attack)."
    ]
    if claimed is not None:
        reasons.append(f"The usual attack overlooks {claimed - measured:.1%}.")
    return Verdict("robust", tuple(reasons))
