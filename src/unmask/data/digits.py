"""The 8x8 handwritten digits that scikit-learn carries: a data set that needs no download."""

import numpy as np
import torch

from unmask.data.dataset import DataSet
from unmask.data.sources import check_split

TRAIN = 1437
SPLITS = ("train", "test")


def load(split: str) -> DataSet:
    """Return 1,437 (train) or 360 (test) of the 1,797 digits (N, 1, 8, 8), values 0 to 16, ids = scikit-learn's rows.

    Raises `DataError` for an unknown split. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits,
    UCI, 1998.
    """
    # Imported late: scikit-learn takes a second to load and nothing else needs it.
    from sklearn.datasets import load_digits

    check_split("digits", split, SPLITS)
    raw = load_digits()
    rows = _rows(split, len(raw.images))
    return DataSet(
        name="digits",
        split=split,
        images=torch.from_numpy(raw.images[rows, None].astype(np.uint8)),
        labels=torch.from_numpy(raw.target[rows].astype(np.int64)),
        ids=torch.from_numpy(rows),
        scale=16,
        classes=tuple(str(digit) for digit in range(10)),
    )


def _rows(split: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # RandomState, because numpy promises that its stream never changes between versions.
    order = np.random.RandomState(0).permutation(count)
    chosen = order[:TRAIN] if split == "train" else order[TRAIN:]
    return np.sort(chosen).astype(np.int64)
