"""Are adversarial images refused, rather than mistaken for another class?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unmask.diagnostics.finding import Finding

SHARE, FEWEST, IMAGES_PER_CLASS = 0.2, 5, 10


def refusals(predicted: Sequence[int], labels: Sequence[int]) -> Finding:
    """Count breaks that end in one class of no image: `predicted` of each break, all `labels`.

    A class that takes a fifth of the breaks, though ten images of each other class came on average and none of it, is a
    refusal: a detector's verdict. The audit counts it as an error, since the image gets no right answer; whoever counts
    refusals as robust must let attacks avoid them (Carlini & Wagner 2017, "Adversarial Examples Are Not Easily
    Detected"). No passes.
    """
    known = {*labels}
    strange = Counter(klass for klass in predicted if klass not in known)
    klass, count = max(strange.items(), key=lambda item: item[1], default=(-1, 0))
    enough = len(labels) >= IMAGES_PER_CLASS * len(known)
    refused = enough and count >= max(FEWEST, SHARE * len(predicted))
    return Finding(
        "refusals",
        "warn" if refused else "ok",
        f"{count} of {len(predicted)} adversarial images are given class {klass}, which no image has: the model "
        "refuses them."
        if refused
        else "Adversarial images are mistaken for classes that images have.",
        {"refused": count if refused else 0, "breaks": len(predicted), "class": klass if refused else None},
        "Refusals count as errors here. To count them as robust, mask that logit and audit again." if refused else "",
    )
