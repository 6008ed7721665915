"""What models, images and labels must be: everything else is refused in words that say what to do."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask.contract import check_images, check_labels, check_not_probabilities, eval_mode, logits_of
from unmask.errors import DataError, ModelError

IMAGES = torch.linspace(0, 1, 12).view(3, 1, 2, 2)
LABELS = torch.tensor([0, 1, 2])


def test_logits_come_back_as_the_model_gives_them() -> None:
    weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits_of(lambda x: x.flatten(1) @ weights, IMAGES), IMAGES.flatten(1) @ weights)


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 4)
        logits[1, 2] = value
        return logits

    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: [0.0, 1.0], r"returned list for 3 images of shape \(1, 2, 2\); expected logits of shape \(3, cl"),
        (lambda x: torch.zeros(3), r"returned shape \(3,\).*at least 2 classes.*Wrap the model"),
        (lambda x: torch.zeros(2, 10), r"returned shape \(2, 10\) for 3 images"),
        (lambda x: torch.zeros(3, 1), r"returned shape \(3, 1\)"),
        (lambda x: torch.zeros(3, 10, 1, 1), r"returned shape \(3, 10, 1, 1\)"),
        (
            lambda x: torch.zeros(3, 10, dtype=torch.int64),
            "returned torch.int64 values; expected floating-point logits",
        ),
        (spoilt(float("nan")), r"NaN or infinite logits for 1 of 3 images.*look for overflow"),
        (spoilt(float("inf")), "NaN or infinite logits for 1 of 3"),
        (spoilt(float("-inf")), "NaN or infinite logits for 1 of 3"),
    ],
)
def test_what_is_no_matrix_of_finite_logits_is_refused(model: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        logits_of(model, IMAGES)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_probabilities_are_refused(classes: int) -> None:
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(classes))
    with pytest.raises(
        ModelError, match=r"probabilities.*expected logits.*unmask\.models\.from_probabilities\(model\)"
    ):
        check_not_probabilities(logits.softmax(1))
    check_not_probabilities(logits)
    check_not_probabilities(logits.log_softmax(1))


def test_squeezed_logits_are_not_mistaken_for_probabilities() -> None:
    # Logit squeezing makes all logits small; a row may even sum to 1. Only every row together looks like a softmax.
    rows = torch.tensor([[0.3, 0.7], [0.01, 0.02], [0.5, 0.5]])
    check_not_probabilities(rows)
    check_not_probabilities(torch.tensor([[1.5, -0.5]]))
    check_not_probabilities(rows[:0])


def test_proper_images_and_labels_pass() -> None:
    check_images(IMAGES)
    check_images(IMAGES.double())
    check_images(IMAGES[:0])
    check_images(IMAGES * 2 - 1, -1.0, 1.0)
    check_labels(LABELS, 3)
    check_labels(LABELS, 3, 3)
    check_labels(LABELS[:0], 0, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[0.0]], "came as list; expected a tensor of shape"),
        (torch.zeros(4), r"came as shape \(4,\).*For one image use x\[None\]"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), r"came as torch.uint8; expected float32 in \[0, 1\].*/ 255"),
        (IMAGES * 255, r"lie in \[0, 255\]; expected \[0, 1\]. They look like 8-bit pixels: divide by 255"),
        (IMAGES * 2 - 1, r"lie in \[-1, 1\].*Move normalisation into the model \(unmask.models.Normalize\)"),
        (IMAGES * 4 - 1, r"lie in \[-1, 3\].*Move normalisation"),
        (IMAGES * 1.0000002, r"lie in \[0, 1.00000024\].*matter of rounding: use x.clamp\(0, 1\)"),
        (IMAGES.where(IMAGES < 1, torch.nan), "NaN or infinite pixels"),
        (IMAGES.where(IMAGES < 1, torch.inf), "NaN or infinite pixels"),
    ],
)
def test_other_images_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_images(images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"Labels came as list; expected one class number per image, shape \(3,\)"),
        (LABELS[:2], r"came as shape \(2,\)"),
        (torch.eye(3).long(), r"came as shape \(3, 3\)"),
        (LABELS.float(), r"came as torch.float32; expected int64 class numbers. Use y.long\(\)"),
        (LABELS.int(), r"came as torch.int32"),
        (LABELS - 1, r"lie in -1..1; expected 0..2, as the model has 3 classes"),
        (LABELS + 1, r"lie in 1..3; expected 0..2, as the model has 3 classes"),
    ],
)
def test_other_labels_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_labels(labels, 3, 3)


def test_without_a_number_of_classes_only_negative_labels_are_out_of_range() -> None:
    check_labels(LABELS + 1000, 3)
    with pytest.raises(DataError, match=r"Targets lie in -1\.\.1; expected 0 or more"):
        check_labels(LABELS - 1, 3, name="Targets")


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_eval_mode_is_held_and_every_modules_mode_given_back(modes: list[bool]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.5)))
    modules = list(model.modules())
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode
    with eval_mode(model) as was_training:
        assert not any(module.training for module in model.modules())
    assert was_training == any(modes)
    assert [module.training for module in modules] == modes


def test_modes_are_given_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(KeyboardInterrupt), eval_mode(model):
        raise KeyboardInterrupt
    assert model.training


def test_a_function_is_left_to_itself() -> None:
    with eval_mode(lambda x: x) as was_training:
        assert not was_training
