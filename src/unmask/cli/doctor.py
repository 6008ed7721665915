"""`unmask doctor`: is this installation fit to work?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import typer

from unmask.cli.console import print_json, print_table
from unmask.cli.options import DataDir, Json
from unmask.errors import UnmaskError


def doctor(data_dir: DataDir = None, json: Json = False) -> None:
    """Check the installation: packages, packaged models, data sets, disk. Exit 1 if something is broken.

    Example:

        unmask doctor
    """
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "hardware": _hardware,
        "packaged models": _models,
        "attack": _attack,
        "data sets": lambda: _data(data_dir),
        "disk": _disk,
    }
    rows = [_run(name, check) for name, check in checks.items()]
    if json:
        print_json([{"check": name, "status": status, "detail": detail} for name, status, detail in rows])
    else:
        print_table("", ["check", "status", "detail"], rows)
    if any(status == "broken" for _, status, _ in rows):
        raise typer.Exit(1)


def _run(name: str, check: Callable[[], str]) -> tuple[str, str, str]:
    try:
        return name, "ok", check()
    except (UnmaskError, ImportError, OSError, RuntimeError) as error:
        return name, "broken", f"{type(error).__name__}: {error}"


def _packages() -> str:
    from unmask.environment import code_version, packages

    return ", ".join(f"{name} {version}" for name, version in {"unmask": code_version(), **packages()}.items())


def _hardware() -> str:
    import torch

    from unmask.environment import hardware

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    return ", ".join([*(f"{name}: {value}" for name, value in hardware().items()), gpu])


def _models() -> str:
    from unmask.models import load_model, zoo_names

    for name in zoo_names():
        load_model(name)
    return f"{len(zoo_names())} load: {', '.join(zoo_names())}"


def _attack() -> str:
    """Attack a linear model whose best perturbation is known, and compare."""
    import torch

    from unmask.attacks import fgsm
    from unmask.threat import Linf

    weights = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 1.0]])
    x, y, threat = torch.full((1, 3, 1, 1), 0.5), torch.tensor([1]), Linf(0.1)
    result = fgsm(lambda images: images.flatten(1) @ weights.T, x, y, threat=threat)
    difference = weights[0] - weights[1]
    best = (0.5 * difference.sum() + 0.1 * difference.abs().sum()).item()
    if abs(result.margin.item() - best) > 1e-5:
        raise UnmaskError(f"fgsm reaches {result.margin.item():.6f} on a linear model, the optimum is {best:.6f}.")
    return "finds the optimum of a linear model"


def _data(data_dir: Path | None) -> str:
    from unmask.data import DATA_SETS, available

    here = [name for name in DATA_SETS if available(name, data_dir)]
    return f"here: {', '.join(here)}; others need --data-dir or --download"


def _disk() -> str:
    return f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free"
