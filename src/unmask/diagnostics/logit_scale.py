"""Are the logits of a size that losses can work with?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmask.diagnostics.finding import Finding

WIDEST, NARROWEST = 50.0, 1e-3


def logit_scale(margins: Sequence[float]) -> Finding:
    """Look at the gaps between the label's logit and the runner-up, -`margins` (B,), of correctly classified images.

    Beyond some 100 the cross-entropy and its gradient are exactly zero in float32, so that attacks on it stand still:
    the mechanism of defensive distillation and of scaled logits (Carlini & Wagner 2017). Tiny gaps drown in rounding.
    No passes: the gaps are recorded.
    """
    gap = float(np.median(np.abs(np.asarray(margins))))
    wide, narrow = gap > WIDEST, gap < NARROWEST
    summary = f"The median gap between the first two logits is {gap:.3g}."
    if wide:
        summary += " The cross-entropy saturates there, and its gradient underflows."
    if narrow:
        summary += " Differences of losses drown in rounding there."
    return Finding(
        "logit_scale",
        "warn" if wide or narrow else "ok",
        summary,
        {"median_gap": gap, "n": len(margins)},
        "Use losses that do not depend on the logits' scale (margin, DLR), as this audit does."
        if wide or narrow
        else "",
    )
