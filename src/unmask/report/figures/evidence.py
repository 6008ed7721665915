"""The evidence that figures are drawn from, checked: it comes from files that anyone may have edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from unmask.errors import LedgerError
from unmask.ledger.events import explain
from unmask.report.figures.canvas import one_line

Finite = Annotated[float, Field(allow_inf_nan=False, lt=1e300, gt=-1e300)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Values = Annotated[list[Finite], Field(min_length=1)]


# A single number, such as the steps of an attack whose restarts vary, is no axis.
Points = Annotated[Values | None, BeforeValidator(lambda value: value if isinstance(value, list) else None)]


class Evidence(BaseModel):
    """Evidence with the norm of its threat; what a figure does not show is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    norm: str = "linf"


class Heatmap(Evidence):
    """Accuracy (S, T) against step size and number of steps; `usual` and `lowest_at` are (steps, step size)."""

    step_sizes: Values
    steps: Annotated[list[Count], Field(min_length=1)]
    accuracy: list[list[Share]]
    usual: tuple[Count, Finite]
    lowest_at: tuple[Count, Finite] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _expect(
            len(self.accuracy) == len(self.step_sizes) and all(len(row) == len(self.steps) for row in self.accuracy),
            "accuracy is not one row per step size with one entry per number of steps",
        )
        _expect(_ascending(self.step_sizes) and _ascending(self.steps), "step sizes or steps do not ascend")
        return self


class Histogram(Evidence):
    """Final losses (M, R) of M images over restarts, the loss that surely misclassifies, and each image's kind."""

    ids: Annotated[list[int], Field(min_length=1)]
    losses: list[Values]
    guarantee: Finite
    kinds: list[str]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _expect(len(self.ids) == len(self.losses) == len(self.kinds), "ids, losses and kinds differ in number")
        return self


class Surface(Evidence):
    """Losses (M, P, P) of M images on a slice of input space, at `axis` along each of the two directions."""

    ids: Annotated[list[int], Field(min_length=1)]
    directions: tuple[str, str]
    axis: Annotated[list[Finite], Field(min_length=2)]
    loss: list[list[list[Finite | None]]]
    guarantee: Finite
    eps: Finite

    @model_validator(mode="after")
    def _whole(self) -> Self:
        points = len(self.axis)
        square = all(len(image) == points and all(len(row) == points for row in image) for image in self.loss)
        _expect(len(self.loss) == len(self.ids) and square, "loss is not one square of the axis's points per image")
        _expect(_ascending(self.axis), "the axis does not ascend")
        _expect(any(v is not None for image in self.loss for row in image for v in row), "every loss is missing")
        return self


class Curve(Evidence):
    """Accuracy against exactly one of eps, restarts and steps."""

    eps: Points = None
    restarts: Points = None
    steps: Points = None
    accuracy: list[Share]
    attack: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [values for values in (self.eps, self.restarts, self.steps) if values is not None]
        _expect(len(given) == 1, "there is not exactly one of eps, restarts and steps")
        _expect(
            len(given[0]) == len(self.accuracy) and _ascending(given[0]), "the points do not ascend, one per accuracy"
        )
        return self


class Logits(BaseModel):
    """How many logits (E) lie between one edge (E + 1) and the next."""

    edges: list[Finite]
    counts: Annotated[list[Count], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _expect(len(self.edges) == len(self.counts) + 1 and _ascending(self.edges), "edges and counts do not fit")
        return self


class Linearised(Evidence):
    """The parts of Equation 4 per image, None where one is infinite or undefined, and a histogram of the logits."""

    eps: Finite
    logit_gap: list[Finite | None]
    gradient_gap: list[Finite | None]
    eps_linear: list[Finite | None]
    cosine: list[Finite | None]
    logits: Logits


class Layer(BaseModel):
    """The sums (U) of a layer's absolute activations over all images, and how many units are silent."""

    name: str
    sums: Values
    silent: Count = 0


class Activations(Evidence):
    """Sums of activations by layer, over `n` images."""

    n: Annotated[int, Field(ge=1, lt=2**53)]
    layers: Annotated[list[Layer], Field(min_length=1)]


Kind = TypeVar("Kind", bound=Evidence)


def read_panels(kind: type[Kind], panels: Sequence[tuple[str, Mapping[str, object]]]) -> list[tuple[str, Kind]]:
    """Return the panels with their evidence checked; raises LedgerError for none, or naming the model and the fault."""
    if not panels:
        raise LedgerError("There is nothing to draw: give one model's evidence or more.")
    return [(one_line(title), _read(kind, title, evidence)) for title, evidence in panels]


def _read(kind: type[Kind], title: str, evidence: Mapping[str, object]) -> Kind:
    try:
        return kind.model_validate(dict(evidence))
    except ValidationError as error:
        raise LedgerError(
            f"The evidence of {title[:60]!r} is not that of a {kind.__name__.lower()} figure: {explain(error)}. "
            "Run `unmask diagnose` on the model in a new --run-dir."
        ) from error


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _ascending(values: Sequence[float]) -> bool:
    return all(one < other for one, other in pairwise(values))
