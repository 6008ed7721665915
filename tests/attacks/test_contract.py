"""What every attack promises. A new attack enters by one row of ROWS and meets all of it."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import ATTACKS, AttackResult
from unmask.errors import AuditError, DataError, ModelError
from unmask.losses import margin, predictions
from unmask.streams import Streams
from unmask.threat import L1, L2, NORMS, Linf, Norm, ThreatModel


class Row(NamedTuple):
    """An attack by name with cheap settings, whether it draws random numbers, whether it takes a target, and its norms.

    One that crafts on surrogates is given the attacked model as its own.
    """

    name: str
    settings: dict[str, Any]
    draws: bool = True
    aims: bool = True
    crafts: bool = False
    norms: tuple[Norm, ...] = NORMS

    def __call__(self, model: Any, *arguments: Any, **settings: Any) -> AttackResult:
        own = {"surrogates": [model]} if self.crafts else {}
        return ATTACKS[self.name](model, *arguments, **{**own, **self.settings, **settings})

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{value}" for key, value in self.settings.items() if key not in ("steps",))])


ROWS = [
    Row("fgsm", {}, draws=False),
    Row("r_fgsm", {"restarts": 2}),
    Row("bim", {"steps": 4}, draws=False),
    Row("mi_fgsm", {"steps": 4}, draws=False),
    Row("pgd", {"steps": 4, "restarts": 2}),
    Row("cosine_pgd", {"steps": 4, "restarts": 2}),
    Row("cosine_pgd", {"steps": 4, "smoothing": 0.05}),
    Row("targeted_pgd", {"steps": 4, "choose": "least_likely", "restarts": 2}, aims=False),
    Row("targeted_pgd", {"steps": 4, "choose": "random"}, aims=False),
    Row("targeted_pgd", {"steps": 4, "choose": "likeliest"}, aims=False),
    Row("spsa", {"steps": 3, "samples": 4, "restarts": 2}),
    Row("random_noise", {"restarts": 3}),
    Row("fab", {"steps": 4}, draws=False),
    Row("fab", {"steps": 1, "restarts": 2, "targets": 2}, aims=False),
    Row("fmn", {"steps": 4}, draws=False),
    Row("hop_skip_jump", {"queries": 60, "samples": 8}, aims=False, norms=("linf", "l2")),
    Row("square", {"queries": 8, "restarts": 2}, norms=("linf", "l2")),
    Row("apgd", {"steps": 6, "restarts": 2}),
    Row("targeted_apgd", {"steps": 6, "targets": 2}, aims=False),
    Row("md", {"steps": 5, "restarts": 2}),
    Row("pma", {"steps": 5, "restarts": 2}),
    Row("gama", {"steps": 5, "restarts": 2}),
    Row("mifpe", {"steps": 4, "restarts": 2}),
    Row("transfer", {"steps": 4, "check_every": 2, "restarts": 2}, crafts=True),
]
LOOKING_FIRST = {"targeted_pgd", "targeted_apgd", "gama"}  # they run the model on the clean images once
THREATS = [Linf("0.02"), L2("0.15"), L1("0.6")]

every_attack = pytest.mark.parametrize("attack", ROWS, ids=str)
every_attack_and_threat = pytest.mark.parametrize(
    ("attack", "threat"), [(row, threat) for row in ROWS for threat in THREATS if threat.norm in row.norms], ids=str
)


def images(count: int = 10) -> Tensor:
    x = torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, 0, 0] = torch.tensor([0.0, 1.0, 0.01, 0.99])  # so that the box takes part
    return x


@torch.no_grad()
def labels(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's own answers, but for two images that are misclassified from the start."""
    logits = model.eval()(x)
    y = predictions(logits)
    y[[2, 7]] = logits[[2, 7]].argmin(1)
    return y


@pytest.fixture
def subject(network: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = network(3).double().eval(), images()
    return model, x, labels(model, x)


def streams(rows: range = range(10)) -> Streams:
    return Streams.derive(0, rows, "contract")


def test_every_attack_has_a_row() -> None:
    assert {row.name for row in ROWS} == set(ATTACKS)


@every_attack_and_threat
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_results_are_possible_and_true(
    attack: Row, threat: ThreatModel, classes: int, network: Callable[..., nn.Module]
) -> None:
    model, x = network(classes).double().eval(), images()
    y = labels(model, x)
    result = attack(model, x, y, threat=threat, generator=streams())
    assert threat.contains(result.x_adv, x).all()
    with torch.no_grad():
        logits = model(result.x_adv)
    torch.testing.assert_close(result.margin, margin(logits, y))
    assert torch.equal(result.broken, predictions(logits) != y)
    assert result.broken[[2, 7]].any()
    for tensor, dtype in ((result.broken, torch.bool), (result.forwards, torch.int64), (result.backwards, torch.int64)):
        assert tensor.dtype == dtype and tensor.shape == (10,)
    assert result.trace.shape[1] == 10
    assert not any(tensor.requires_grad for tensor in vars(result).values())


def test_the_subject_holds_images_of_every_kind(subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    # Otherwise the tests here would not see an attack that fails on some of them.
    model, x, y = subject
    for threat in THREATS:
        broken = ATTACKS["cosine_pgd"](model, x, y, threat=threat, steps=4, generator=streams()).broken
        assert 2 < broken.sum() < 9


@every_attack_and_threat
def test_passes_are_those_that_the_model_sees(
    attack: Row, threat: ThreatModel, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    seen = {"forwards": 0, "backwards": 0}

    def count(name: str, number: int) -> None:
        seen[name] += number

    def counted(images: Tensor) -> Tensor:
        count("forwards", len(images))
        logits: Tensor = model(images)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: count("backwards", len(gradient)))
        return logits

    result = attack(counted, x, y, threat=threat, generator=streams())
    assert {"forwards": int(result.forwards.sum()), "backwards": int(result.backwards.sum())} == seen
    assert result.forwards.min() >= 1


@every_attack
def test_the_trace_ends_where_an_image_breaks(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    result = attack(model, x, y, threat=Linf("0.02"), generator=streams())
    iterates = result.trace.isfinite().sum(0)
    assert (iterates <= result.forwards).all()
    assert len(result.trace) == iterates.max()
    assert (iterates[~result.broken] == iterates.max()).all()
    if len(result.trace) > 1:
        assert (iterates[result.broken] < iterates.max()).any()


@every_attack
def test_broken_images_are_left_alone(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, _ = subject
    wrong = (predictions(model(x)) + 1) % 3
    result = attack(model, x, wrong, threat=Linf("1e-6"), generator=streams())
    assert result.broken.all()
    assert (result.forwards == (2 if attack.name in LOOKING_FIRST else 1)).all()
    assert (result.backwards == 0).all()


@every_attack
def test_one_image_and_none(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    for rows in (range(1), range(0)):
        generator = streams(rows)
        result = attack(model, x[: len(rows)], y[: len(rows)], threat=Linf("0.02"), generator=generator)
        assert result.x_adv.shape == x[: len(rows)].shape
        assert all(len(column) == len(rows) for column in (result.margin, result.broken, result.forwards))
        assert result.trace.shape[1] == result.backwards.shape[0] == len(rows)


@every_attack
@pytest.mark.parametrize("training", [False, True])
def test_nothing_but_the_result_is_changed(attack: Row, training: bool, network: Callable[..., nn.Module]) -> None:
    model, x = network(3, moody=True).double(), images()
    y = labels(model, x)
    expected = attack(model, x, y, threat=Linf("0.02"), generator=streams())
    model.train(training)
    frozen, filled, *others = model.parameters()
    frozen.requires_grad_(False)
    filled.grad = torch.ones_like(filled)
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x_before, y_before, seeds = x.clone(), y.clone(), torch.get_rng_state()

    result = attack(model, x.requires_grad_(), y, threat=Linf("0.02"), generator=streams())

    # Neither dropout nor the batch's statistics have a say: a module is attacked as it will be used.
    torch.testing.assert_close(result.x_adv, expected.x_adv)
    assert not result.x_adv.requires_grad
    result.x_adv.fill_(7.0)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, *(True for _ in others)]
    assert (filled.grad == 1).all() and all(other.grad is None for other in (x, frozen, *others))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert torch.equal(torch.get_rng_state(), seeds)


@every_attack
def test_the_seed_decides(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject

    def run(generator: torch.Generator | Streams | None) -> AttackResult:
        return attack(model, x, y, threat=Linf("0.02"), generator=generator)

    zero, again, none, one = run(seeded(0)), run(seeded(0)), run(None), run(seeded(1))
    assert all(torch.equal(first, second) for first, second in zip(columns(zero), columns(again), strict=True))
    assert torch.equal(zero.x_adv, none.x_adv)
    assert torch.equal(zero.x_adv, one.x_adv) == (not attack.draws)
    given = streams()
    assert torch.equal(run(given).x_adv, run(given).x_adv)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(result: AttackResult) -> list[Tensor]:
    return [result.x_adv, result.margin, result.broken, result.forwards, result.backwards, result.trace.nan_to_num()]


@every_attack_and_threat
def test_the_other_images_of_the_batch_do_not_matter(
    attack: Row, threat: ThreatModel, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    whole = attack(model, x, y, threat=threat, generator=streams())
    for rows in (range(4), range(4, 10), range(6, 7)):
        cut = slice(rows.start, rows.stop)
        part = attack(model, x[cut], y[cut], threat=threat, generator=streams(rows))
        torch.testing.assert_close(part.x_adv, whole.x_adv[cut], rtol=0, atol=1e-9)
        torch.testing.assert_close(part.margin, whole.margin[cut], rtol=0, atol=1e-9)
        assert torch.equal(part.broken, whole.broken[cut])
        assert torch.equal(part.forwards, whole.forwards[cut])


@every_attack_and_threat
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_type_is_kept(
    attack: Row, threat: ThreatModel, dtype: torch.dtype, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject[0].to(dtype), subject[1].to(dtype), subject[2]
    result = attack(model, x, y, threat=threat, generator=streams())
    assert result.x_adv.dtype == result.margin.dtype == result.trace.dtype == dtype
    assert threat.contains(result.x_adv, x).all()
    assert torch.equal(result.broken, predictions(model(result.x_adv)) != y)


@every_attack
def test_a_caller_that_turned_gradients_off_gets_the_same(
    attack: Row, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    expected = attack(model, x, y, threat=Linf("0.02"), generator=streams())
    with torch.no_grad():
        result = attack(model, x, y, threat=Linf("0.02"), generator=streams())
    assert torch.equal(result.x_adv, expected.x_adv)


@every_attack
def test_a_model_without_gradients_is_attacked_without_them(
    attack: Row, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject

    def detached(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(images)
        return logits

    result = attack(detached, x, y, threat=Linf("0.02"), generator=streams())
    assert Linf("0.02").contains(result.x_adv, x).all()
    assert (result.backwards == 0).all()


@every_attack
def test_an_eps_of_zero_changes_nothing(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    for threat in (threat for threat in (Linf(0), L2(0), L1(0)) if threat.norm in attack.norms):
        result = attack(model, x, y, threat=threat, generator=streams())
        torch.testing.assert_close(result.x_adv, x, rtol=0, atol=1e-12)
        assert result.broken.nonzero().flatten().tolist() == [2, 7]


BAD_INPUTS: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, Any]], str]] = {
    "labels beyond the classes": (lambda x, y: (x, y + 3), r"Labels lie in .*; expected 0\.\.2, as the model has 3"),
    "negative labels": (lambda x, y: (x, y - 3), r"Labels lie in -3\.\..*expected 0 or more"),
    "a label too few": (lambda x, y: (x, y[1:]), r"Labels came as shape \(9,\); expected .* shape \(10,\)"),
    "one-hot labels": (lambda x, y: (x, torch.eye(3)[y]), r"Labels came as shape \(10, 3\)"),
    "float labels": (lambda x, y: (x, y.float()), r"torch\.float32; expected int64"),
    "pixels up to 255": (lambda x, y: (x * 255, y), r"expected \[0, 1\]\. They look like 8-bit pixels: divide by 255"),
    "bytes": (lambda x, y: ((x * 255).byte(), y), r"Images came as torch\.uint8; expected float32"),
    "standardised pixels": (lambda x, y: (x - 0.5, y), r"Move normalisation into the model"),
    "a NaN pixel": (lambda x, y: (x.where(x < 0.99, torch.nan), y), "NaN or infinite pixels"),
    "one flat vector": (lambda x, y: (x.flatten(), y), r"Images came as shape \(320,\)"),
    "one image": (lambda x, y: (x[0], y[:1]), r"Labels came as shape \(1,\)"),
}


@every_attack
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_unusable_inputs_are_refused(attack: Row, case: str, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    spoil, message = BAD_INPUTS[case]
    model, x, y = subject
    x, y = spoil(x, y)
    with pytest.raises(DataError, match=message):
        attack(model, x, y, threat=Linf("0.02"), generator=torch.Generator().manual_seed(0))


@every_attack
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: z.where(z < z.max(), torch.nan), "NaN or infinite logits for"),
        (lambda z: z[1:], r"returned shape \(9, 3\) for 10 images"),
        (lambda z: z.argmax(1), r"returned shape \(10,\).*expected logits"),
        (lambda z: z.long(), "expected floating-point logits"),
    ],
)
def test_unusable_outputs_are_refused(
    attack: Row, spoil: Callable[[Tensor], Tensor], message: str, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    with pytest.raises(ModelError, match=message):
        attack(lambda images: spoil(model(images)), x, y, threat=Linf("0.02"), generator=streams())


@every_attack
def test_streams_must_be_one_per_image(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    with pytest.raises(DataError, match="9 random streams came for 10 images"):
        attack(model, x, y, threat=Linf("0.02"), generator=streams(range(9)))


@pytest.mark.parametrize("attack", [row for row in ROWS if row.aims], ids=str)
def test_targets_must_be_wrong_classes(attack: Row, subject: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = subject
    attack(model, x, y, threat=Linf("0.02"), target=(y + 1) % 3)
    for target, message in (
        (y, "The target is the label itself for 10 of 10 images"),
        (y + 3, r"Targets lie in .*; expected 0\.\.2"),
        (y[1:], r"Targets came as shape \(9,\)"),
        (y.float(), "Targets came as torch.float32"),
    ):
        with pytest.raises(DataError, match=message):
            attack(model, x, y, threat=Linf("0.02"), target=target)


@pytest.mark.parametrize(
    ("attack", "setting"),
    [(row, key) for row in ROWS for key in ("steps", "restarts", "targets") if key in row.settings],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(
    attack: Row, setting: str, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    with pytest.raises(AuditError, match=f"{setting} is -1; expected"):
        attack(model, x, y, threat=Linf("0.02"), **{setting: -1})


@pytest.mark.parametrize(
    ("attack", "threat"), [(row, threat) for row in ROWS for threat in THREATS if threat.norm not in row.norms], ids=str
)
def test_a_norm_that_an_attack_does_not_know_is_refused(
    attack: Row, threat: ThreatModel, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = subject
    with pytest.raises(AuditError, match=rf"{re.escape(str(threat))}.*{' and '.join(attack.norms)}"):
        attack(model, x, y, threat=threat)
