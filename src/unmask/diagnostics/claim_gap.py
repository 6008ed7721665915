"""How much does the usual attack overlook?"""

from __future__ import annotations

from unmask.diagnostics.finding import Finding, Status

GAP = 0.05
SHARE = 1 / 3


def claim_gap(claimed: float, measured: float, interval: tuple[float, float], claim: str) -> Finding:
    """Compare the claimed accuracy with the measured one; `interval` is the 95% interval of their (paired) difference.

    Fails where the usual attack surely overlooks more than 5 points and a third or more of what it leaves; warns above
    5 points. Honest adversarial training loses some points beyond it as well (Mosbach et al.: 95.2 to 88.0).
    """
    gap = claimed - measured
    fooled = interval[0] > GAP and gap >= SHARE * claimed
    status: Status = "fail" if fooled else "warn" if gap > GAP else "ok"
    return Finding(
        "claim_gap",
        status,
        f"{claim} leaves {claimed:.1%}, all attacks together {measured:.1%}: it overlooks {gap:.1%} of the images.",
        {"claimed": claimed, "measured": measured, "gap": gap, "interval": list(interval)},
        {
            "fail": "Do not report the claimed figure: the usual attack fails on this model.",
            "warn": "Report the measured figure, not the claimed one.",
            "ok": "",
        }[status],
    )
