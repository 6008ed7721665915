"""Logs sent elsewhere, to stand-ins for MLflow and Weights & Biases: what they are told, and what they may refuse."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from unmask.data import DataSet
from unmask.errors import UnmaskError
from unmask.threat import Linf
from unmask.training import LOGGERS, Training, Validation, clp, fit, training_log
from unmask.training.logging import flat, scalars

SETTINGS = {"epochs": 2, "optimizer": {"lr": 0.1}, "terms": [{"kind": "cross_entropy"}]}
FLAT = {"epochs": 2, "optimizer.lr": 0.1, "terms.0.kind": "cross_entropy"}


class Run:
    """What both services' runs are: a context that hears how it ended."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict]] = []
        self.ended: type | str | None = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, *rest) -> None:
        self.ended = kind or "well"

    def log(self, numbers: dict, step: int) -> None:
        self.told.append((step, numbers))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put stand-ins for `mlflow` and `wandb` in place of the modules."""
    said = SimpleNamespace(mlflow=Run(), wandb=Run(), mlflow_name=None, params=None, init=None)
    mlflow, wandb = ModuleType("mlflow"), ModuleType("wandb")

    def start_run(run_name):
        said.mlflow_name = run_name
        return said.mlflow

    def init(**words):
        said.init = words
        return said.wandb

    mlflow.start_run, mlflow.log_metrics = start_run, said.mlflow.log
    mlflow.log_params = lambda params: setattr(said, "params", params)
    wandb.init = init
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return said


def test_every_epoch_reaches_both(few: DataSet, small, services, tmp_path: Path) -> None:
    lines: list[dict] = []
    validation = Validation(images=16, threat=Linf("0.1"), steps=1)
    with training_log(["mlflow", "wandb", "mlflow"], tmp_path / "net", SETTINGS) as log:

        def both(line: dict) -> None:
            lines.append(line)
            log(line)

        fit(small, few, Training(clp(0.5), epochs=2, validation=validation), seed=0, log=both)
    assert services.mlflow.told == services.wandb.told == [(line["epoch"], scalars(line)) for line in lines]
    assert [step for step, _ in services.wandb.told] == [1, 2]
    assert services.wandb.told[0][1].keys() == {
        "loss/cross_entropy", "loss/clean_logit_pairing", "learning_rate", "images_per_second", "attack_share",
        "validation/clean", "validation/robust",
    }  # fmt: skip
    assert (services.mlflow_name, services.params) == ("net", FLAT)
    assert services.init == {"name": "net", "dir": str(tmp_path / "net"), "config": FLAT}
    assert services.mlflow.ended == services.wandb.ended == "well"


def test_a_training_that_fails_ends_their_runs_so(services, tmp_path: Path) -> None:
    with pytest.raises(KeyError), training_log(["mlflow", "wandb"], tmp_path):
        raise KeyError
    assert services.mlflow.ended is services.wandb.ended is KeyError


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_service_that_fails_is_named(name: str, services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **words):
        raise ConnectionError("no route")

    module = sys.modules[name]
    monkeypatch.setattr(module, "start_run" if name == "mlflow" else "init", refuse)
    with pytest.raises(UnmaskError, match="failed: ConnectionError: no route"), training_log([name], tmp_path):
        raise AssertionError("it answered")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_extra_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    with (
        pytest.raises(UnmaskError, match=rf"not installed.*pip install 'unmask\[{name}\]'"),
        training_log([name], tmp_path / "net"),
    ):
        raise AssertionError("the extra was found")
    assert not [*tmp_path.iterdir()]


def test_an_unknown_logger_is_answered(tmp_path: Path) -> None:
    with (
        pytest.raises(UnmaskError, match="no logger 'tensorbord'"),
        training_log(["tensorbord"], tmp_path),
    ):
        raise AssertionError("it was found")


def test_settings_are_flattened() -> None:
    assert flat(SETTINGS) == FLAT
