"""Shafahi et al. 2018, "Label smoothing and logit squeezing": its tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from unmask.recipes import shafahi2018 as mnist
from unmask.recipes import shafahi2018_cifar as cifar
from unmask.recipes.shafahi2018_attacks import analogue, measures
from unmask.recipes.tables import Figure, Measure, Predicted, Table, experiment

PAPER = mnist.PAPER


def _table(number: int, title: str, columns: Mapping[str, Measure], reading: str) -> None:
    experiment(Table(f"001/table{number}", PAPER, f"Table {number}", title, columns, reading))


def _stronger(number: int, title: str, reading: str) -> None:
    """Register a table of attacks on the CIFAR-10 model, and its analogue on MNIST; `{audited}`: where its audit is."""
    table = f"Table {number}"
    usual = (mnist.WHITE_BOX_CW, cifar.WHITE_BOX_CW) if number == 11 else (mnist.WHITE_BOX, cifar.WHITE_BOX)
    on_mnist, on_cifar = (measures(table, attack) for attack in usual)
    aside = (
        "The paper has no such table for MNIST: these are its attacks on the MNIST model with beta 0.5, sigma 0.5 and "
        f"k 100k{'' if number == 9 else ', in steps of 0.01 at eps 0.3'}, and what is given as published is the "
        "CIFAR-10 figure, to compare the shapes and no target. "
    )
    for name, printed, data, rows, words in (
        (f"001/table{number}", table, "CIFAR-10", on_cifar, reading.format(audited="Table 7")),
        (f"001/table{number}-mnist", analogue(table), "MNIST", on_mnist, aside + reading.format(audited="Table 6")),
    ):
        experiment(Table(name, PAPER, printed, f"{data}: {title}", rows, words, by="row"))


def _figure(name: str, title: str, kind: str, models: Mapping[str, str], reading: str, **settings: Any) -> None:
    study = "linearised" if kind == "logits" else kind
    printed = f"Figure {name}"
    experiment(Figure(f"001/figure{name}", PAPER, printed, title, study, kind, models, reading, settings))


_linearised = partial(_figure, kind="linearised")
_surface = partial(
    _figure, kind="surface", models={"beta 10, sigma 30": f"001/cifar10/{mnist.slug(cifar.SAMPLE)}"}, images=8
)


def _model(row: str) -> str:
    """Return the MNIST recipe of a row's settings."""
    return f"001/mnist/{mnist.slug(row)}"


_NATURAL = {"natural": mnist.NATURAL}
_ADVERSARIAL = {"adversarial": "001/mnist/adversarial"}
_NOISE = {"noise": _model("0 0 0.5 400k")}

_table(
    1,
    "What FGSM leaves, and what Equation 4 predicts",
    {"x-ent": mnist.FGSM, "cw": mnist.FGSM_CW, "Equation 4": Predicted()},
    "Equation 4 predicts from the logits of an image and their gradients alone whether it withstands eps. The paper "
    "finds that it foretells fairly accurately what FGSM leaves on CIFAR-10, and is a good ballpark figure on MNIST, "
    "where the adversarially trained network withstands much more than predicted. Look in ours at whether both tell "
    "natural from adversarial training, and at the audit: one step of FGSM, and a prediction of what it does, say "
    "nothing of stronger attacks.",
)
_table(
    2,
    "MNIST: label smoothing and logit squeezing against PGD-40 and FGSM",
    mnist.MEASURES,
    "The paper concludes that squeezing and smoothing with Gaussian noise, short of adversarial training on MNIST, "
    "are promising at a fraction of its cost, that neither helps in the white box without noise, and that more "
    "training, larger alpha and beta, and a sigma above eps make models more robust. Look in ours at the distance "
    "between the PGD columns and the audit: where adversarial training keeps its accuracy and a squeezed or smoothed "
    "model does not, the model had fooled PGD.",
)
_table(
    3,
    "CIFAR-10, white box: label smoothing and logit squeezing against PGD-20 and FGSM",
    cifar.WHITE,
    "The paper concludes that aggressive squeezing (beta 10, sigma 20) withstands PGD-20 better than adversarial "
    "training and is more accurate on clean images. One row has 53.93% on the cross-entropy and 40.68% on the margin, "
    "which says already that one attack is no measure. Look in ours at the gap between the two losses, and at how "
    "much of it the audit leaves.",
)
_table(
    4,
    "CIFAR-10, black box: examples crafted on an adversarially trained model",
    cifar.BLACK,
    "The paper concludes that all of its models withstand transferred examples better than an adversarially trained "
    "one, and smoothing slightly better than squeezing. Black-box figures bound robustness from above only: look in "
    "ours at the distance between these columns and the audit. The figures printed with an asterisk are Madry et "
    "al.'s own.",
)
_table(
    5,
    "CIFAR-100, white box: logit squeezing against PGD of 7 to 200 steps",
    cifar.CIFAR100,
    "The paper concludes that squeezing is more robust on CIFAR-100 than adversarial training with 2 steps, at less "
    "cost. The squeezed models lose 30% to 41% of what PGD-7 leaves between 7 and 200 steps, and the adversarially "
    "trained one is level from 100 on: look in ours at whether the squeezed ones are level anywhere, and at the audit.",
)
_table(
    6,
    "MNIST: all models against PGD-40 and FGSM",
    mnist.MEASURES,
    "The paper concludes that noise alone helps in the black box only, that smoothing or squeezing alone help "
    "nowhere, and that together they leave up to 83.6% to PGD-40, more with more training, and less again where sigma "
    "is too large. Settings that are printed twice ('second') differ by 2 points: smaller differences say little. "
    "With beta 10 training collapses, as Equation 5 read as a sum foretells. The black-box FGSM figures of alpha "
    "0.95, sigma 0.3 (94%) stand apart from all others. Look in ours at the PGD columns against the audit.",
)
_table(
    7,
    "CIFAR-10, white box: all models against PGD-20 and FGSM",
    cifar.WHITE,
    "The paper concludes as from Table 3: squeezing outperforms smoothing in the white box, though training with a "
    "large beta often fails. The row alpha 0.9 is no target: fewer images survive one step of FGSM than 20 of PGD. "
    "Look in ours at which loss attacks which defence better, and at the audit.",
)
_table(
    8,
    "CIFAR-10, black box: all models against examples crafted on an adversarially trained model",
    cifar.BLACK,
    "The paper concludes as from Table 4. The order of the models follows their clean accuracy, as it would if "
    "transferred examples hardly mattered: look in ours at the distance to the white box and to the audit. The row "
    "alpha 0.9 is no target, being at chance throughout, and one figure of alpha 0.2, sigma 40 repeats one of Table 7.",
)
_stronger(
    9,
    "PGD with eps up to the whole range of pixels",
    "The paper takes it from the fall to 0 that PGD works on the model and its gradients are not obfuscated. Where "
    "any image may be reached, accuracy must fall to 0, so that this excludes the worst only: look in ours at how "
    "slowly it falls, and at what the audit leaves at the usual eps ({audited}).",
)
_stronger(
    10,
    "PGD with 1 to 9 random restarts",
    "The paper concludes that the accuracy has reached a plateau after 9 restarts. A plateau of an attack that is "
    "stuck everywhere is level too: look in ours at whether the audit goes below the plateau ({audited}).",
)
_stronger(
    11,
    "PGD with 20 to 1,000 steps, on the margin",
    "The paper concludes that more steps do not greatly affect the robustness, though 1,000 steps leave 40.94% where "
    "20 leave 49.73%. Look in ours at whether the curve is level at its end, and at whether the audit goes below it "
    "({audited}).",
)

_linearised(
    "1",
    "MNIST: adversarial training and the parts of Equation 4",
    models=_NATURAL | _ADVERSARIAL,
    reading="The paper concludes that adversarial training does not widen the logit gap: it shrinks both gaps, the "
    "gradient gap far more, so that their quotient grows. Look for that in ours, and for a slight rise of the cosines.",
)
for part, data in (("a", "mnist"), ("b", "cifar10")):
    _figure(
        f"2{part}",
        f"{'MNIST' if part == 'a' else 'CIFAR-10'}: the logits after training against no, a weak and a strong "
        "adversary",
        kind="logits",
        models={
            "natural": f"001/{data}/natural",
            "weak adversary": f"001/{data}/adversarial-weak",
            "strong adversary": f"001/{data}/adversarial",
        },
        reading="The paper concludes that adversarial training squeezes the logits, and more so the stronger the "
        "adversary. In ours look at whether the histograms narrow in that order.",
    )
_linearised(
    "3",
    "MNIST: label smoothing (alpha 0.75) with and without noise (sigma 0.5)",
    models=_NATURAL | _NOISE | {"smoothing": _model("0.75 0 0 400k"), "smoothing and noise": _model("0.75 0 0.5 400k")},
    reading="The paper concludes that smoothing alone makes a model less robust, and with noise much more: gradients "
    "shrink and align. It does not print k; here it is 400k. That both gaps of the smoothed model are small says that "
    "its logits are, so look at their quotient, and remember that it describes the image's nearest surroundings only.",
)
_linearised(
    "4",
    "MNIST: more smoothing and more squeezing, with noise (sigma 0.5)",
    models=_NATURAL
    | {f"smoothing, alpha {alpha}": _model(f"{alpha} 0 0.5 400k") for alpha in ("0.2", "0.5", "0.95")}
    | {f"squeezing, beta {beta}": _model(f"0 {beta} 0.5 400k") for beta in ("0.5", "2.0", "5.0")},
    reading="The paper concludes that smoothing with noise shrinks and aligns the gradients, that squeezing with "
    "noise shrinks them and widens the logit gap, and that both do so more with larger alpha and beta. It does not "
    "print which values it draws; these are of Table 6.",
)
_surface(
    "5",
    "CIFAR-10: the loss around images along two random directions",
    directions=("random", "random"),
    reading="The paper concludes from the smooth surfaces of eight images that the squeezed model does not convolute "
    "the loss. Random directions are the wrong ones to look along, as Figure 9 shows. The paper goes 10/255 each way, "
    "ours eps, and looks at the first images that the model has right.",
)
_linearised(
    "6",
    "CIFAR-10: adversarial training and the parts of Equation 4",
    models={"natural": "001/cifar10/natural", "adversarial": "001/cifar10/adversarial"},
    reading="The paper concludes as from Figure 1: both gaps shrink, that of the gradients much more.",
)
_linearised(
    "7",
    "MNIST: label smoothing and the size of the gradients",
    models=_NATURAL | {f"alpha {alpha}": _model(f"{alpha} 0 0.5 400k") for alpha in ("0.2", "0.5", "0.75", "0.95")},
    reading="The paper concludes that smoothing shrinks the gradient gap by shrinking the gradients themselves. It "
    "draws the norm of the logit's gradient, which ours records (`gradient_norm`) and does not draw: look at the "
    "gradient gap and the cosines.",
)
_linearised(
    "8",
    "MNIST: logit squeezing (beta 0.5) with and without noise (sigma 0.5)",
    models=_NATURAL
    | _NOISE
    | {"squeezing": _model(mnist.SQUEEZED_WITHOUT_NOISE), "squeezing and noise": _model("0 0.5 0.5 400k")},
    reading="The paper concludes that squeezing alone worsens robustness, and that with noise the gradients shrink "
    "and align slightly and the logit gap widens. It does not print k; here it is 400k.",
)
_surface(
    "9",
    "CIFAR-10: the loss around images along a random and the adversarial direction",
    directions=("random", "adversarial"),
    reading="The paper concludes that the loss changes along the adversarial direction and hardly along the random "
    "one, so that gradients are not masked. Look in ours at how high the loss rises within eps, and at turns along "
    "the adversarial direction, on which small steps come to a halt.",
)
for number, layer in (("10", "the penultimate layer"), ("11", "the logit layer")):
    _figure(
        number,
        f"MNIST: how active the units of {layer} are",
        kind="activations",
        models=_NATURAL
        | _ADVERSARIAL
        | _NOISE
        | {"smoothing and noise": _model("0.2 0 0.5 400k"), "squeezing and noise": _model("0 0.5 0.5 400k")},
        reading="The paper concludes that adversarial training, smoothing and squeezing alike silence roughly 400 of "
        f"1,024 units, and natural training none. Both layers are drawn: here look at {layer}. What robust and "
        "merely squeezed models share in this is no sign of robustness.",
    )
