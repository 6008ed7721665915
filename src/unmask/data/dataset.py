"""Labelled images with stable example ids, kept in the integer form they were published in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unmask.errors import DataError

_SEEDS = 2**63


@dataclass(frozen=True, eq=False)
class DataSet:
    """The labelled images of one split.

    `images` is (N, C, H, W), uint8 or float32, and `images / scale` lies in [0, 1] (`scale` is 255 for 8-bit images,
    16 for the digits, 1 for float data); `labels` (N,) int64 index `classes`; `ids` (N,) int64 are the distinct indices
    of the examples in the official split, which no selection and no order changes. Raises `DataError` where these do
    not fit.
    """

    name: str
    split: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    scale: int
    classes: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what the rest of the product could not use."""
        where = f"{self.name} ({self.split})"
        _check_form(where, self.images, self.labels, self.ids)
        _check_pixels(where, self.images, self.scale)
        _check_labels(where, self.labels, self.classes)
        _check_ids(where, self.ids)

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.images)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def pixels(self) -> Tensor:
        """Return the images as a new float32 tensor (N, C, H, W) in [0, 1] on their own device."""
        # A tensor, because a GPU divides by a Python number through its reciprocal and so gives other bits than a CPU.
        scale = torch.full((), self.scale, dtype=torch.float32, device=self.images.device)
        return self.images.to(torch.float32) / scale

    def first(self, n: int) -> DataSet:
        """Return the first `n` examples; raises `DataError` if there are not so many."""
        self._check_count(n)
        return self._take(slice(n))

    def sample(self, n: int, seed: int) -> DataSet:
        """Return `n` examples drawn without replacement, ordered by id; raises `DataError` if there are not so many.

        The draw depends on the seed and the ids alone, not on the order of the set, and a smaller sample of the same
        seed is a subset of a larger one.
        """
        self._check_count(n)
        if not 0 <= seed < _SEEDS:
            raise DataError(f"The seed {seed} is out of range. Give a whole number from 0 to {_SEEDS - 1}.")
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        by_id = self.ids.cpu().argsort()
        return self.select(by_id[drawn.sort().values])

    def select(self, index: Tensor) -> DataSet:
        """Return the examples at the positions `index` (M,) int64, in that order; raises `DataError` for a bad one."""
        if index.dtype != torch.int64 or index.ndim != 1:
            raise DataError(
                f"Positions to select came as {index.dtype} of shape {tuple(index.shape)}. "
                "Give an int64 tensor of shape (M,)."
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise DataError(
                f"Positions to select run from {int(index.min())} to {int(index.max())}, but {self.name} "
                f"({self.split}) holds {len(self)} examples. Give positions from 0 to {len(self) - 1}."
            )
        return self._take(index.to(self.images.device))

    def to(self, device: torch.device | str) -> DataSet:
        """Return the same examples with every tensor on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the scale and of shape, type and content of images, labels and ids."""
        digest = hashlib.sha256(f"scale {self.scale}".encode())
        for tensor in (self.images, self.labels, self.ids):
            digest.update(f"; {tensor.dtype} {tuple(tensor.shape)}: ".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data.cast("B"))
        return digest.hexdigest()

    def _take(self, index: Tensor | slice) -> DataSet:
        return replace(self, images=self.images[index], labels=self.labels[index], ids=self.ids[index])

    def _check_count(self, n: int) -> None:
        if not 1 <= n <= len(self):
            raise DataError(
                f"Asked for {n} examples of {self.name} ({self.split}), which holds {len(self)}. "
                f"Ask for 1 to {len(self)} examples."
            )


def _check_form(where: str, images: Tensor, labels: Tensor, ids: Tensor) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{where}: images have shape {tuple(images.shape)}. Expected (N, C, H, W), each at least 1.")
    if images.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"{where}: images are {images.dtype}. Convert them to torch.uint8 or torch.float32.")
    for word, tensor in (("labels", labels), ("ids", ids)):
        if tensor.dtype != torch.int64 or tuple(tensor.shape) != (len(images),):
            raise DataError(
                f"{where}: {word} are {tensor.dtype} of shape {tuple(tensor.shape)}. "
                f"Expected torch.int64 of shape ({len(images)},), one for each image."
            )
        if tensor.device != images.device:
            raise DataError(f"{where}: {word} are on {tensor.device}, images on {images.device}. Use one device.")


def _check_pixels(where: str, images: Tensor, scale: int) -> None:
    if scale < 1:
        raise DataError(f"{where}: scale is {scale}. Expected the largest value a pixel can take, such as 255 or 1.")
    low, high = images.min().item(), images.max().item()
    # Stated as what must hold, so that NaN fails too.
    if not 0 <= low <= high <= scale:
        raise DataError(
            f"{where}: pixels run from {low:g} to {high:g}. Expected values from 0 to {scale}; "
            "normalisation belongs inside the model."
        )


def _check_labels(where: str, labels: Tensor, classes: tuple[str, ...]) -> None:
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < len(classes):
        raise DataError(
            f"{where}: labels run from {low} to {high}, but there are {len(classes)} classes. "
            f"Expected labels from 0 to {len(classes) - 1}."
        )


def _check_ids(where: str, ids: Tensor) -> None:
    if int(ids.min()) < 0:
        raise DataError(f"{where}: the example id {int(ids.min())} is negative. Give ids of at least 0.")
    ordered = ids.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise DataError(f"{where}: the example id {int(repeated[0])} occurs twice. Give each example its own id.")
