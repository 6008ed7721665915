"""The directions in which a loss is most curved."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6


@torch.no_grad()
def eigenvectors(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, count: int) -> tuple[Tensor, int]:
    """Return the eigenvectors (count, D) of a symmetric matrix's largest eigenvalues by size, and products spent.

    `product` multiplies the matrix by a vector (D,). From `start` (D,) the Lanczos method, orthogonalised in full,
    takes at most `steps` products; fewer where the matrix has fewer eigenvalues that matter. Vectors have a largest
    entry of 1; one whose eigenvalue is below a millionth of the largest is zero.
    """
    basis, images = start.new_empty((0, len(start)), dtype=torch.float64), []
    here = _unit(start.double())
    for _ in range(min(steps, len(start))):
        basis = torch.cat([basis, here[None]])
        images.append(product(here.to(start)).double())
        rest = images[-1]
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() <= NEGLIGIBLE * max(image.norm() for image in images):
            break
        here = _unit(rest)
    projected = basis @ torch.stack(images).T
    values, coordinates = torch.linalg.eigh((projected + projected.T) / 2)
    order = values.abs().argsort(descending=True)[:count]
    found = start.new_zeros((count, len(start)), dtype=torch.float64)
    for place, which in enumerate(order.tolist()):
        if values[which].abs() > NEGLIGIBLE * values.abs().max():
            vector = coordinates[:, which] @ basis
            found[place] = vector / vector[vector.abs().argmax()]
    return found.to(start), len(images)


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = vector.norm()
    return vector / length.clamp(min=torch.finfo(vector.dtype).tiny)
