"""Reports opened in the system's Chromium; whatever a page complains of or asks the network for fails its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import unmask
from unmask.audit import Subject
from unmask.data import load_data
from unmask.ledger import PlanEntry, Run, load_run
from unmask.ledger.diagnosis import load_diagnosis
from unmask.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("There is no chromium on this machine (Debian: apt-get install chromium).")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra 'dev').")
    # Chromium has no sandbox for root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file and wait until its charts are drawn, if told to; `settings` are those of a browser's context."""
    contexts, complaints = [], []

    def open_page(path: Path, charts: bool = False, **settings: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | settings
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: complaints.extend([asked.url] if not _is_local(asked.url) else []))
        page.goto(path.as_uri())
        if charts:
            page.wait_for_selector("html[data-charts=drawn]", state="attached", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _is_local(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Four linear models of the digits, audited, and the first one diagnosed: real runs that take seconds."""
    folder = tmp_path_factory.mktemp("digits")
    fitted = LogisticRegression(C=0.1, max_iter=300).fit(
        load_data("digits", "train").pixels().flatten(1), _labels("train")
    )
    images = load_data("digits", "test")
    x, y, threat = images.pixels()[:30], images.labels[:30], unmask.Linf("0.1")
    models = {"plain": (1.0, 0.0), "squeezed": (0.01, 0.0), "sharp": (100.0, 0.0), "noisy": (1.0, 0.3)}
    runs = []
    for name, (scale, noise) in models.items():
        model = _linear(fitted, scale, noise)
        subject = Subject(name, name, images.name, images.split, images.classes)
        run_dir = folder / name
        unmask.audit(model, x, y, threat, budget="quick", claim="pgd-10", run_dir=run_dir, subject=subject)
        runs.append(load_run(run_dir))
    unmask.diagnose(
        _linear(fitted, 1.0, 0.0),
        x[:8],
        y[:8],
        threat,
        studies=("heatmap", "histogram", "surface", "linearised", "step-curve"),
        restarts=5,
        points=9,
        images=2,
        run_dir=folder / "diagnosis",
        subject=Subject("plain", "plain", images.name, images.split, images.classes),
    )
    found = load_diagnosis(folder / "diagnosis")
    return SimpleNamespace(
        runs=runs,
        single=write_report(runs[:1], folder / "single.html", [found]),
        four=write_report(runs, folder / "four.html", [found]),
    )


def _labels(split: str) -> np.ndarray:
    return load_data("digits", split).labels.numpy()


def _linear(fitted: LogisticRegression, scale: float, noise: float) -> torch.nn.Module:
    layer = torch.nn.Linear(fitted.coef_.shape[1], len(fitted.coef_))
    weight = torch.tensor(fitted.coef_, dtype=torch.float32)
    stirred = weight + noise * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    layer.weight.data = scale * stirred
    layer.bias.data = scale * torch.tensor(fitted.intercept_, dtype=torch.float32)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


@pytest.fixture(scope="session")
def large(story: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of 10,000 images and 50 attacks, each of which breaks 1% of the images."""
    attacks = [PlanEntry(attack=f"attack-{i}", role="search", settings={"steps": 10}) for i in range(50)]
    make = story(n=10_000, plan=[PlanEntry(attack="clean", role="clean"), *attacks], changes={"claim": None})
    return write_report([_quickly(make)], tmp_path_factory.mktemp("large") / "report.html")


def _quickly(make: Any) -> Run:
    """Return a story's run made of whole columns: a ledger of half a million events takes minutes to write."""
    small = type(make)(n=20, plan=make.plan[:2], breaks=(0.0, 0.1), changes={"claim": None}).play()
    n, rounds = make.n, len(make.plan)
    # Image i falls to round 1 + i // 100, if there is such a round.
    last = np.minimum(1 + np.arange(n) // 100, rounds - 1)
    number, place = (part.ravel() for part in np.meshgrid(np.arange(rounds), np.arange(n), indexing="ij"))
    number, place = number[(kept := number <= last[place])], place[kept]
    broken = number == 1 + place // 100
    label = make.labels[place]
    attacked = number > 0
    columns = {
        "round": number,
        "attack": np.array([entry.attack for entry in make.plan])[number],
        "restart": np.zeros(len(number), dtype=np.int64),
        "id": make.ids[place],
        "status": np.where(broken, "broken", "survived"),
        "margin": np.where(broken, 0.5, -1.0 - place % 7 / 10).astype(np.float64),
        "loss": np.full(len(number), 1.5),
        "predicted": np.where(broken, (label + 1) % 3, label),
        "distance": np.where(attacked, 0.2, 0.0),
        "forwards": np.where(attacked, 10, 1),
        "backwards": np.where(attacked, 9, 0),
        "step": np.where(broken, 5, -1),
        "seconds": np.full(len(number), 0.001),
    }
    assert columns.keys() == small.events.keys()
    images = make.images
    return Run(
        path=None,
        spec=make.spec(),
        ids=make.ids,
        labels=make.labels,
        events={name: columns[name].astype(small.events[name].dtype) for name in columns},
        findings=tuple(make.findings),
        result=small.result,
        complete=True,
        read_images=lambda: images,
        read_adversarial=lambda: (make.ids, np.clip(images + 0.2, 0, 1)),
    )
