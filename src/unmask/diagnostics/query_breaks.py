"""Do attacks without gradients break what attacks with gradients leave?"""

from __future__ import annotations

from unmask.diagnostics.finding import Finding, Status

FEW, MANY, FEWEST = 0.05, 0.25, 5


def query_breaks(by_queries: int, withstood: int) -> Finding:
    """Compare breaks by attacks that see answers alone, or other images' perturbations, with what they were run on.

    `withstood`: the images they were run on that had withstood a gradient attack; `by_queries`: those of them that
    they broke. A sign of gradient masking (Athalye et al. 2018, Section 3.1; Carlini et al. 2019). Gradients of
    honest models leave a few. No passes.
    """
    share = by_queries / withstood if withstood else 0.0
    status: Status = "ok"
    if by_queries >= FEWEST and share > FEW:
        status = "fail" if share >= MANY else "warn"
    return Finding(
        "query_breaks",
        status,
        f"Attacks without gradients broke {by_queries} of {withstood} images that gradient attacks had left.",
        {"broken_without_gradients": by_queries, "withstood_gradients": withstood, "share": share},
        "" if status == "ok" else "The gradients mislead: give queries a larger budget (--access scores).",
    )
