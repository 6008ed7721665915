"""Kannan et al. 2018, "Adversarial logit pairing": the models of its ten tables and its figure.

MNIST: Madry et al.'s network and attack. SVHN: a RevNet-9. ImageNet: Inception v3 and ResNet-101, with targeted attacks
only, in training too. Black-box examples come from an adversarially trained copy: of the M-PGD model on MNIST and SVHN,
of the ALP model on ImageNet.

What the paper leaves open is filled in as follows. MNIST: Madry et al.'s optimizer and length; squeezing as Mosbach et
al. write it. SVHN: the training of Gomez et al. 2017 on CIFAR; the noise that Mosbach et al. add on CIFAR-10. ImageNet:
the 100 epochs, and with them the optimizer, of Szegedy et al. 2016; pairing weight, weight decay, label smoothing and
moving average of the authors' public code. Pairing losses are means over batch and classes, as in that code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unmask.recipes import madry2018
from unmask.recipes.recipe import Claim, Recipe, published, recipe, register
from unmask.threat import Linf
from unmask.training import (
    EnsembleAdversary,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    StaircaseRate,
    StepRate,
    Training,
    adversarial_training,
    clp,
    label_smoothing,
    lsq,
    mixed_minibatch_pgd,
    plain,
)
from unmask.training.penalties import clean_logit_pairing, cross_entropy

PAPER = "Kannan et al. 2018"
BOXES = ("white box", "black box", "clean")
WHITE = ("white box top 1", "white box top 5")
BLACK = ("black box top 1", "black box top 5")
TRAMER, KURAKIN = "Tramèr et al. (2018)", "Kurakin et al. (2017a)"

MNIST_NOISE = GaussianNoise(0.5)
WEIGHTS = (0.1, 0.2, 0.5, 1.0)

SVHN_THREAT = Linf("12/255")
SVHN_ADVERSARY = PgdAdversary(SVHN_THREAT, steps=10, step_size=3 / 255)
SVHN_NOISE = GaussianNoise(0.06)
SVHN_IMAGES, SVHN_BATCH_SIZE, SVHN_STEPS = 73_257, 100, 80_000

IMAGENET_THREAT = Linf("16/255")
IMAGENET_ADVERSARY = PgdAdversary(IMAGENET_THREAT, steps=10, step_size=2 / 255, aim="random")
# "Step l.l." of Kurakin et al. 2017: one step of eps towards the least likely class, at three tenths of a clean image's
# weight. They draw eps anew for every image; here it is the largest.
STEP_LL = PgdAdversary(IMAGENET_THREAT, steps=1, step_size=16 / 255, aim="least_likely", start="clean")
STEP_LL_SHARE = 0.3 / 1.3
IMAGENET_NOISE = GaussianNoise(16 / 255)
IMAGENET_PAIRING = 0.5
SMOOTHING = 0.1
WORKERS, IMAGES_PER_WORKER = 50, 32


def _claims(
    table: str, row: str, columns: tuple[str, ...], *figures: float | None, doubt: str = ""
) -> tuple[Claim, ...]:
    return published(PAPER, table, row, dict(zip(columns, figures, strict=True)), doubt)


def _mnist(
    name: str, what: str, objective: Objective, claims: tuple[Claim, ...], noise: tuple[GaussianNoise, ...] = ()
) -> Recipe:
    return madry2018.mnist(
        f"002/mnist/{name}",
        f"{PAPER}, MNIST: {what}",
        objective,
        claims,
        augmentations=noise,
        surrogate="002/mnist/m-pgd",
    )


def _squeezed(name: str, weight: float, objective: Objective, *claims: Claim) -> Recipe:
    """Build a point of Figure 1, which is drawn without its values."""
    drawn = _claims("Figure 1", f"{name.upper()} {weight:g}", ("white box",), None)
    what = f"{name.upper()}, weight {weight:g}, with Gaussian noise"
    return _mnist(f"{name}-{weight:g}", what, objective, (*claims, *drawn), (MNIST_NOISE,))


def _svhn(
    method: str, objective: Objective, claims: tuple[Claim, ...], noise: tuple[GaussianNoise, ...] = ()
) -> Recipe:
    training = Training(
        objective,
        Optimizer("sgd", 0.1, {"momentum": 0.9}, weight_decay=2e-4),
        StepRate((0.5, 0.75)),
        epochs=round(SVHN_STEPS * SVHN_BATCH_SIZE / SVHN_IMAGES),
        batch_size=SVHN_BATCH_SIZE,
        augmentations=noise,
    )
    return Recipe(
        f"002/svhn/{method.lower()}",
        f"{PAPER}, SVHN: {method}",
        "svhn",
        "revnet-9",
        SVHN_THREAT,
        training,
        claims,
        usual_attack="pgd-10-step-3/255",
        surrogate="002/svhn/m-pgd",
    )


def _imagenet(name: str, what: str, objective: Objective, claims: tuple[Claim, ...], **settings: Any) -> Recipe:
    """Build an Inception v3: a batch of 1,600, whose batch norms see 32 images at a time, as each worker's did.

    TensorFlow adds RMSProp's eps of 1 under the root, torch outside it: steps differ where gradients are large.
    """
    training = Training(
        objective,
        Optimizer("rmsprop", 0.045, {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}, weight_decay=1e-4),
        StaircaseRate(rate=0.94, every=2.0),
        epochs=100,
        batch_size=WORKERS * IMAGES_PER_WORKER,
        accumulate=WORKERS,
        ema=0.9999,
        **settings,
    )
    return Recipe(
        f"002/imagenet/{name}",
        f"{PAPER}, ImageNet: {what}",
        "imagenet",
        "inception-v3",
        IMAGENET_THREAT,
        training,
        claims,
        usual_attack="pgd-10-step-2/255",
        surrogate="002/imagenet/alp",
    )


def _resnet(name: str, what: str, objective: Objective, claims: tuple[Claim, ...], **settings: Any) -> Recipe:
    made = _imagenet(f"resnet101-{name}", f"ResNet-101, {what}", objective, claims, **settings)
    return replace(made, data="imagenet-224", architecture="resnet101")


def _adversarial(pairing: float = 0.0) -> Objective:
    return adversarial_training(IMAGENET_ADVERSARY, 0.5, pairing, SMOOTHING)


@recipe
def mnist_m_pgd() -> Recipe:
    """Mixed-minibatch PGD: half clean, half adversarial cross-entropy; Table 7 prints another clean accuracy."""
    claims = (
        *_claims("Table 1", "M-PGD", BOXES, 93.2, 96.0, 98.5),
        *_claims("Table 7", "M-PGD", BOXES, 93.2, 96.0, 98.8),
    )
    return _mnist("m-pgd", "M-PGD", mixed_minibatch_pgd(madry2018.ADVERSARY), claims)


@recipe
def mnist_alp() -> Recipe:
    """Mixed-minibatch PGD with adversarial logit pairing, weight 1."""
    claims = _claims("Table 1", "ALP", BOXES, 96.4, 97.5, 98.8)
    return _mnist("alp", "ALP", mixed_minibatch_pgd(madry2018.ADVERSARY, 1.0), claims)


@recipe
def mnist_noise() -> Recipe:
    """Gaussian noise alone: weight 0 of pairing and squeezing, where the text says "around 25%"."""
    return _mnist(
        "noise", "noise only", plain(), _claims("Figure 1", "noise only", ("white box",), 25.0), (MNIST_NOISE,)
    )


for weight in WEIGHTS:
    register(_squeezed("clp", weight, clp(weight)))
for weight in WEIGHTS:
    # Table 7 does not say which weight its row has; Mosbach et al. take this one.
    table_7 = _claims("Table 7", "Logit squeezing", BOXES, 86.4, 96.8, 99.0) if weight == 0.5 else ()
    register(_squeezed("lsq", weight, lsq(weight), *table_7))


@recipe
def svhn_m_pgd() -> Recipe:
    """Mixed-minibatch PGD; Table 8 rounds Table 2."""
    claims = (
        *_claims("Table 2", "M-PGD", BOXES, 44.4, 55.4, 96.9),
        *_claims("Table 8", "M-PGD", BOXES, 44.0, 55.0, 97.0),
    )
    return _svhn("M-PGD", mixed_minibatch_pgd(SVHN_ADVERSARY), claims)


@recipe
def svhn_alp() -> Recipe:
    """Mixed-minibatch PGD with adversarial logit pairing, weight 0.5."""
    claims = _claims("Table 2", "ALP", BOXES, 46.9, 56.2, 96.0)
    return _svhn("ALP", mixed_minibatch_pgd(SVHN_ADVERSARY, 0.5), claims)


@recipe
def svhn_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise, of a weight and a sigma that the paper does not give."""
    return _svhn("CLP", clp(0.5), _claims("Table 8", "CLP", BOXES, 33.0, 45.0, 96.0), (SVHN_NOISE,))


@recipe
def imagenet_regular() -> Recipe:
    """Cross-entropy with smoothed labels, as Szegedy et al. train Inception v3."""
    return _imagenet(
        "regular",
        "regular training",
        label_smoothing(SMOOTHING),
        _claims("Table 3", "Regular training", WHITE, 0.7, 4.4),
    )


@recipe
def imagenet_eat() -> Recipe:
    """Ensemble adversarial training: such steps on the model itself or on one of two fixed ones (Tramèr et al. 2018).

    Their fixed models were an Inception v3 and a ResNet v2-50, or these and an Inception ResNet v2; here they are the
    plainly trained Inception v3 and ResNet-101, named by their recipes: train these first, and give the folders
    (`adversary.surrogates`). 66.6% are Tramèr et al.'s own figure, for attacks from models that were trained against
    one or two steps at most.
    """
    adversary = EnsembleAdversary(STEP_LL, ("002/imagenet/regular", "002/imagenet/resnet101-label-smoothing"))
    elsewhere = "Tramèr et al.'s own figure, for attacks from models that are not among these"
    claims = (
        *_claims("Table 3", TRAMER, WHITE, 1.3, 6.5),
        *_claims("Table 4", TRAMER, BLACK, 47.1, 74.3),
        *_claims("Table 9", "EAT", BOXES, 1.3, 48.3, 75.8),
        *_claims("Section 5.3.4", TRAMER, ("step_ll",), 66.6, doubt=elsewhere),
        *_claims("Section 5.3.4", TRAMER, ("iter_ll",), 48.3),
    )
    return _imagenet("eat", TRAMER, adversarial_training(adversary, STEP_LL_SHARE, smoothing=SMOOTHING), claims)


@recipe
def imagenet_step_ll() -> Recipe:
    """Adversarial training against one step towards the least likely class (Kurakin et al. 2017)."""
    objective = adversarial_training(STEP_LL, STEP_LL_SHARE, smoothing=SMOOTHING)
    return _imagenet("step-ll", KURAKIN, objective, _claims("Table 3", KURAKIN, WHITE, 1.5, 5.5))


@recipe
def imagenet_m_pgd() -> Recipe:
    """Mixed-minibatch PGD towards random classes."""
    claims = (*_claims("Table 3", "M-PGD", WHITE, 3.9, 10.3), *_claims("Table 4", "M-PGD", BLACK, 36.5, 62.3))
    return _imagenet("m-pgd", "M-PGD", _adversarial(), claims)


@recipe
def imagenet_alp() -> Recipe:
    """Mixed-minibatch PGD towards random classes with adversarial logit pairing."""
    claims = (
        *_claims("Table 3", "ALP", WHITE, 27.9, 55.4),
        *_claims("Table 4", "ALP", BLACK, 46.7, 74.0),
        *_claims("Table 5", "InceptionV3", WHITE, 27.9, 55.4),
        *_claims("Table 6", "InceptionV3", BLACK, 46.7, 74.0),
    )
    return _imagenet("alp", "ALP", _adversarial(IMAGENET_PAIRING), claims)


@recipe
def imagenet_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise, of a weight and a sigma that the paper does not give.

    Table 9 prints SVHN's figures for it.
    """
    objective = Objective((cross_entropy(label_smoothing=SMOOTHING), clean_logit_pairing(IMAGENET_PAIRING)))
    doubt = "repeats the row of Table 8, which is SVHN's"
    claims = _claims("Table 9", "CLP", BOXES, 33.0, 45.0, 96.0, doubt=doubt)
    return _imagenet("clp", "CLP", objective, claims, augmentations=(IMAGENET_NOISE,))


@recipe
def imagenet_resnet101_mixup() -> Recipe:
    """Mixup with a ResNet-101, of Zhang et al.'s alpha for ImageNet."""
    return _resnet("mixup", "mixup", plain(), _claims("Table 10", "Mixup", WHITE, 0.1, 1.5), mixup=0.2)


@recipe
def imagenet_resnet101_label_smoothing() -> Recipe:
    """Label smoothing with a ResNet-101, spread over the wrong classes as in Section 6; its delta is not given."""
    objective = label_smoothing(SMOOTHING, convention="wrong_classes")
    return _resnet(
        "label-smoothing", "label smoothing", objective, _claims("Table 10", "Label smoothing", WHITE, 1.6, 10.0)
    )


@recipe
def imagenet_resnet101_alp() -> Recipe:
    """ALP with a ResNet-101; Table 10 prints less than Table 5 for what seems to be the same model and attack."""
    claims = (
        *_claims("Table 5", "ResNet-101", WHITE, 30.2, 55.8),
        *_claims("Table 6", "ResNet-101", BLACK, 36.0, 62.2),
        *_claims("Table 10", "ALP", WHITE, 28.2, 49.8),
    )
    return _resnet("alp", "ALP", _adversarial(IMAGENET_PAIRING), claims)
