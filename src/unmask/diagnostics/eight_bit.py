"""Do the adversarial images survive as files, with pixels of 8 bits?"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.contract import Model, logits_of
from unmask.diagnostics.finding import Finding
from unmask.losses import predictions
from unmask.threat import ThreatModel


@torch.no_grad()
def eight_bit(
    model: Model,
    x_adv: Tensor,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    standing: float,
    broken: float,
    batch_size: int,
) -> Finding:
    """Round each break x_adv (M, C, H, W) of x, y to a PNG's pixels within ball and box, and predict it again.

    Shares `standing` and `broken` of all images were left and broken by attacks; the breaks that came are all of them,
    or a sample. The 8-bit robust accuracy counts breaks that rounding undoes as well: it is what an attacker reaches
    who must hand over a file. Costs a forward per break.
    """
    held = 0
    for begin in range(0, len(x_adv), batch_size):
        part = slice(begin, begin + batch_size)
        rounded = threat.to_8bit(x_adv[part], x[part])
        wrong = predictions(logits_of(model, rounded)) != y[part]
        held += int((wrong & threat.contains(rounded, x[part])).sum())
    undone = len(x_adv) - held
    accuracy = standing + broken * undone / max(len(x_adv), 1)
    return Finding(
        "eight_bit",
        "warn" if undone > max(1, 0.1 * len(x_adv)) else "ok",
        f"As 8-bit images {held:,} of {len(x_adv):,} adversarial images stay adversarial: robust accuracy "
        f"{accuracy:.1%}, against {standing:.1%} in float.",
        {"robust_accuracy_8bit": accuracy, "robust_accuracy": standing, "survive_rounding": held, "n": len(x_adv)},
        "Say which figure you quote: an attacker who hands over files has pixels of 8 bits." if undone else "",
        forwards=len(x_adv),
    )
