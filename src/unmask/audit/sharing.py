"""How the rounds that are decided together are cut into batches, and who runs which.

The cut depends on the rounds alone. A batch is then computed the same to the last bit whoever runs it, and the rounds
that are decided from the results are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmask.audit.schedule import Rows

PARTS = 8  # a large round can be shared by so many processes, whatever the batch size
LEAST = 8
OVERHEAD = 8  # a batch takes as long as if it held so many images more


def cut(rows: Rows, batch_size: int) -> list[Rows]:
    """Return the images of a round in batches of about equal work: every one takes images from the whole round."""
    parts = max(1, -(-len(rows) // batch_size), min(PARTS, len(rows) // LEAST))
    return [rows[part::parts] for part in range(parts)]


def dealt(work: Sequence[float], count: int) -> list[list[int]]:
    """Return which pieces each of `count` processes takes, largest first to whoever has least; ascending for each."""
    taken: list[list[int]] = [[] for _ in range(count)]
    load = np.zeros(count)
    for piece in np.argsort(-np.asarray(work, dtype=float), kind="stable").tolist():
        idlest = int(load.argmin())
        taken[idlest].append(piece)
        load[idlest] += work[piece]
    return [sorted(pieces) for pieces in taken]
