"""Other libraries' PGD and APGD find the same robust accuracy on the same networks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import apgd, pgd, targeted_apgd
from unmask.attacks.ascent import climb
from unmask.attacks.problem import pose
from unmask.attacks.start import clean
from unmask.attacks.stepper import fixed
from unmask.data import DataSet, load_data
from unmask.losses import cross_entropy, dlr
from unmask.models import build
from unmask.streams import Streams
from unmask.threat import Linf, ThreatModel
from unmask.training import Objective, Optimizer, PgdAdversary, Training, adversarial_training, fit, plain

pytestmark = pytest.mark.parity

STEPS, SEEDS, COUNT = 10, (0, 1, 2), 150
OBJECTIVES = {
    "plain": (plain(), Linf("0.1")),
    "adversarial": (adversarial_training(PgdAdversary(Linf("0.15"), steps=3, step_size=0.08)), Linf("0.15")),
}
Attack = Callable[[nn.Module, Tensor, Tensor, ThreatModel, int], Tensor]


@pytest.fixture(scope="session")
def test_set() -> DataSet:
    return load_data("digits", "test").first(COUNT)


@pytest.fixture(scope="session", params=OBJECTIVES)
def trained(request: pytest.FixtureRequest) -> tuple[nn.Module, ThreatModel]:
    """Train a small network in seconds, once per session; with an eps at which about half of the images survive."""
    objective, threat = OBJECTIVES[request.param]
    return train(objective), threat


def train(objective: Objective) -> nn.Module:
    training = Training(objective, Optimizer("adam", 2e-3), epochs=5, batch_size=64)
    return fit(build("digits-cnn"), load_data("digits", "train").first(500), training, seed=0)


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    streams = Streams.derive(seed, range(len(x)))
    return pgd(model, x, y, threat=threat, steps=STEPS, step_size=threat.eps / 4, generator=streams).x_adv


def foolboxs(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=threat.eps / 4, steps=STEPS, random_start=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        _, x_adv, _ = attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=threat.eps)
    assert isinstance(x_adv, Tensor)
    return x_adv


def torchattackss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    import torchattacks

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x_adv = torchattacks.PGD(model, eps=threat.eps, alpha=threat.eps / 4, steps=STEPS, random_start=True)(x, y)
    assert isinstance(x_adv, Tensor)
    return x_adv


def robust_accuracy(attack: Attack, model: nn.Module, data: DataSet, threat: ThreatModel) -> float:
    """Return the accuracy on attacked images, judged here, as a mean over seeds."""
    x, y = data.pixels(), data.labels
    found = []
    for seed in SEEDS:
        x_adv = attack(model, x, y, threat, seed)
        assert threat.contains(x_adv, x).all()
        with torch.no_grad():
            found.append((model(x_adv).argmax(1) == y).double().mean().item())
    return sum(found) / len(found)


@pytest.mark.parametrize("theirs", [foolboxs, torchattackss])
def test_pgd_agrees_with_other_libraries(
    theirs: Attack, trained: tuple[nn.Module, ThreatModel], test_set: DataSet
) -> None:
    model, threat = trained
    with torch.no_grad():
        accuracy = (model(test_set.pixels()).argmax(1) == test_set.labels).double().mean().item()
    found, expected = (robust_accuracy(attack, model, test_set, threat) for attack in (ours, theirs))
    assert accuracy > 0.85
    assert 0.2 < expected < 0.8  # else they would agree for nothing
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_from_the_clean_image_the_last_iterate_is_theirs(
    library: str, trained: tuple[nn.Module, ThreatModel], test_set: DataSet
) -> None:
    model, threat = trained
    x, y, size = test_set.pixels()[:50], test_set.labels[:50], threat.eps / 4
    if library == "foolbox":
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=STEPS, random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        _, theirs, _ = attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=threat.eps)
    else:
        import torchattacks

        theirs = torchattacks.PGD(model, eps=threat.eps, alpha=size, steps=STEPS, random_start=False)(x, y)
    ours = climb(pose(model, x, y, threat=threat, generator=None), start=clean(), stepper=fixed(size), steps=STEPS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def autoattacks(name: str) -> Attack:
    base = pytest.importorskip("pyautoattack.autopgd_base")
    settings = {"n_iter": STEPS, "norm": "Linf", "n_restarts": 1, "device": "cpu"}

    def attack(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
        with torch.random.fork_rng():
            if name == "targeted":
                made = base.APGDAttack_targeted(model, eps=threat.eps, seed=seed, n_target_classes=3, **settings)
            else:
                made = base.APGDAttack(model, eps=threat.eps, seed=seed, loss=name, **settings)
            x_adv = made.perturb(x, y)
        assert isinstance(x_adv, Tensor)
        return x_adv

    return attack


def our_apgd(name: str) -> Attack:
    def attack(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
        streams = Streams.derive(seed, range(len(x)))
        if name == "targeted":
            return targeted_apgd(model, x, y, threat=threat, steps=STEPS, targets=3, generator=streams).x_adv
        loss = {"ce": cross_entropy, "dlr": dlr}[name]
        return apgd(model, x, y, threat=threat, steps=STEPS, loss=loss, generator=streams).x_adv

    return attack


@pytest.mark.parametrize("name", ["ce", "dlr", "targeted"])
def test_apgd_agrees_with_autoattack(name: str, trained: tuple[nn.Module, ThreatModel], test_set: DataSet) -> None:
    model, threat = trained
    theirs = autoattacks(name)
    found, expected = (robust_accuracy(attack, model, test_set, threat) for attack in (our_apgd(name), theirs))
    assert 0.2 < expected < 0.8
    assert found == pytest.approx(expected, abs=0.02)
