"""How many features does the network use? (Shafahi et al. 2018, Appendix E, Figures 10 and 11.)"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unmask.diagnostics.features import features_and_logits, last_linear
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.linearised import batches
from unmask.diagnostics.sample import Keep, Sample, anew

SILENT = 1e-6


def activations(sample: Sample, *, batch_size: int = 64, keep: Keep[Any] = anew) -> Finding:
    """Sum |activation| over the images for every unit of the penultimate layer and of the logits.

    The penultimate layer is what the last `nn.Linear` takes in (see `last_linear`). A unit is silent where its sum is
    at most a millionth of its layer's largest. This describes a network and judges nothing: Appendix E finds 400 of
    1,024 units silent after adversarial training, label smoothing and logit squeezing alike, and none after plain
    training. Not applicable to a model without such a layer. Costs a forward per image, and one to find the layer.
    Raises DataError, ModelError or AuditError for a sample without images, unusable logits or batch size.
    """
    parts = batches(sample, batch_size)
    layer = last_linear(sample.model, sample.x[:1])
    if layer is None:
        return Finding(
            "activations",
            "not_applicable",
            "The features cannot be seen: the model is no torch module, or no nn.Linear gives its logits.",
            next_step="Pass the network itself, not a function around it.",
            forwards=int(isinstance(sample.model, nn.Module)),
        )
    sums = keep("activations, sums", partial(_sums, parts, layer))
    layers = [{"name": name, "sums": sums[name], "silent": _silent(sums[name])} for name in ("penultimate", "logits")]
    silent, units = _silent(sums["penultimate"]), len(sums["penultimate"])
    return Finding(
        "activations",
        "ok",
        f"{silent:,} of {units:,} units of the penultimate layer are silent on all of {len(sample):,} images.",
        {"n": len(sample), "layers": layers},
        "Compare with the same network after plain training: silent units alone are no sign of robustness."
        if silent
        else "",
        forwards=len(sample) + 1,
    )


@torch.no_grad()
def _sums(parts: Sequence[Sample], layer: nn.Linear) -> dict[str, list[float]]:
    rows = [[_magnitude(values) for values in features_and_logits(part.model, part.x, layer)] for part in parts]
    features, logits = (torch.stack(each).sum(0) for each in zip(*rows, strict=True))
    return {"penultimate": features.tolist(), "logits": logits.tolist()}


def _magnitude(values: Tensor) -> Tensor:
    return values.abs().double().sum(0)


def _silent(sums: Sequence[float]) -> int:
    limit = SILENT * max(sums)
    return sum(total <= limit for total in sums)
