"""`unmask diagnose` and `unmask figure`: from a user's model to figures, and every mistake answered."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask.audit import STUDIES, USUAL_STUDIES
from unmask.cli.diagnose import NAMES, diagnose
from unmask.report.figures.recorded import KINDS

MODULE = """
import torch

def net():
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    net = torch.nn.Sequential(*layers).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weights in net.parameters():
        weights.copy_(0.4 * torch.randn(weights.shape, generator=generator))
    return net

def probabilities():
    return lambda x: torch.softmax(x.flatten(1)[:, :10], 1)
"""
SMALL = ("--data", "own.npz", "--split", "all", "--eps", "0.1", "--restarts", 3, "--points", 5, "--images", 2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own(run) -> None:
    """Leave a user's module and ten images, labelled as it sees them, in the empty folder."""
    Path("theirs.py").write_text(MODULE)
    scope: dict = {}
    exec(MODULE, scope)
    x = np.random.default_rng(0).random((10, 1, 8, 8), dtype=np.float32)
    np.savez("own.npz", x=x, y=scope["net"]()(torch.from_numpy(x)).argmax(1).numpy())


def texts(path: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_a_report_shows_a_diagnosis_with_the_audit_of_its_model(run, own):
    model = ("theirs:net", "--data", "own.npz", "--split", "all", "--eps", "0.1")
    assert run("diagnose", *model, "heatmap", "surface", "--points", 5, "--run-dir", "found").exit_code == 0
    assert run("audit", *model, "--budget", "quick", "--run-dir", "audit").exit_code == 0
    reported = run("report", "audit", "found", "-o", "page.html")
    assert reported.exit_code == 0, reported.output
    page = Path("page.html").read_text()
    assert 'data-chart="run-1-heat"' in page and 'data-chart="run-1-relief-0"' in page
    alone = run("report", "found")
    assert alone.exit_code == 2 and "at least one run" in alone.output


def test_studies_are_made_told_drawn_and_not_repeated(run, own):
    words = ("diagnose", "theirs:net", "histogram", "surface", "eps-curve", "linearised", *SMALL, "--run-dir", "found")
    first = run(*words, "--format", "svg")
    assert first.exit_code == 0, first.output
    assert "On 10 images at most about" in first.stderr and "histogram 486" in first.stderr
    for name in ("histogram", "surface", "eps-curve", "linearised", "logits"):
        assert f"Figure: found/figures/{name}.svg" in first.stdout
        assert "theirs:net" in texts(f"found/figures/{name}.svg")
    assert "of 2 images the success of PGD-40 hangs on its random start (3 tried)" in first.stdout
    again = run(*words, "--json")
    found = json.loads(again.stdout)
    assert list(found["findings"]) == ["histogram", "surface", "eps-curve", "linearised"]
    assert found["n"] == 10 and found["run_dir"] == "found"
    recorded = json.loads(Path("found/findings/histogram.json").read_text())
    assert found["findings"]["histogram"] == recorded and recorded["check"] == "restart_losses"
    assert [Path(path).suffix for path in found["figures"]] == [".png"] * 5
    spec = json.loads(Path("found/diagnosis.json").read_text())
    assert (spec["model"]["source"], spec["threat"]["eps"], spec["data"]["n"]) == ("theirs:net", "0.1", 10)


def test_images_are_drawn_at_random_when_nobody_says_how_many(run, own):
    rng = np.random.default_rng(1)
    np.savez("many.npz", x=rng.random((130, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 10, 130))
    words = ("diagnose", "theirs:net", "activations", "--data", "many.npz", "--split", "all", "--eps", "0.1")
    for folder, more in (("first", ()), ("drawn", ("--sample",))):
        done = run(*words, *more, "--run-dir", folder)
        assert done.exit_code == 0, done.output
    first, drawn = (json.loads(Path(folder, "diagnosis.json").read_text())["data"] for folder in ("first", "drawn"))
    assert first["n"] == drawn["n"] == 100
    assert first["fingerprint"] != drawn["fingerprint"]


def test_the_folder_is_named_after_what_differs(run, own):
    done = run("diagnose", "theirs:net", "activations", *SMALL, "--json", "--seed", 4)
    assert done.exit_code == 0, done.output
    folder = json.loads(done.stdout)["run_dir"]
    assert folder == "runs/diagnose-theirs-net-own-all-10-Linf-0.1-restarts-3-points-5-images-2-s4"


def test_figures_of_several_runs(run, own):
    for seed in (0, 1):
        words = ("eps-curve", "activations", "--seed", seed, "--run-dir", f"run{seed}")
        assert run("diagnose", "theirs:net", *SMALL, *words).exit_code == 0
    drawn = run("figure", "curve", "run0", "run1", "-o", "c.svg", "--name", "Plain", "--name", "$CLP$", "--columns", 1)
    assert drawn.exit_code == 0 and drawn.stdout.strip() == "Figure: c.svg", drawn.output
    assert {"Plain", "$CLP$", "eps (/255)"} <= {*texts("c.svg")}
    drawn = run("figure", "activations", "run0", "run1", "--format", "pdf", "--json")
    assert json.loads(drawn.stdout) == {"figure": "activations.pdf", "kind": "activations", "runs": ["run0", "run1"]}
    assert Path("activations.pdf").read_bytes().startswith(b"%PDF")


def test_an_audits_own_checks_can_be_drawn(run, own):
    audited = run("audit", "theirs:net", *SMALL[:6], "--budget", "quick", "--run-dir", "audited")
    assert audited.exit_code == 0, audited.output
    for kind in ("curve", "histogram"):
        drawn = run("figure", kind, "audited", "-o", f"{kind}.svg")
        assert drawn.exit_code == 0 and "theirs:net" in "".join(texts(f"{kind}.svg")), drawn.output
    refused = run("figure", "heatmap", "audited")
    assert refused.exit_code == 2 and "unmask diagnose MODEL heatmap" in refused.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["diagnose", "theirs:net", "heatmpa"], "heatmap"),
        (["diagnose", "theirs:absent", "heatmap"], "absent"),
        (["diagnose", "mnist-clpp", "heatmap"], "mnist-clp"),
        (["diagnose", "theirs:net", "--grid", "fine"], "coarse, full"),
        (["diagnose", "theirs:net", "--directions", "up"], "random,adversarial"),
        (
            ["diagnose", "theirs:net", "surface", "--directions", "up,down", "--data", "digits", "--eps", "0.1"],
            "eigen-1",
        ),
        (["diagnose", "theirs:net", "surface", "--points", "4", "--data", "digits", "--eps", "0.1"], "odd"),
        (["diagnose", "theirs:net", "--restarts", "1"], "--restarts"),
        (["diagnose", "theirs:net", "--format", "gif"], "png"),
        (["diagnose", "theirs:net", "--data", "digits"], "--eps"),
        (["diagnose", "theirs:net", "--eps", "0.1"], "--data"),
        (["diagnose", "theirs:net", "--eps", "8", "--data", "digits"], "8/255"),
        (["diagnose", "theirs:net", "--data", "minst", "--eps", "0.1"], "mnist"),
        (["diagnose", "theirs:net", "-n", "1000", "--data", "digits", "--eps", "0.1"], "360"),
        (["diagnose", "theirs:net", "binarization", "--attack", "pdg", "--data", "digits", "--eps", "0.1"], "pgd-40"),
        (["diagnose", "theirs:probabilities", "--data", "digits", "--eps", "0.1"], "from_probabilities"),
        (
            ["diagnose", "theirs:net", "activations", "--data", "digits", "--eps", "0.1", "--run-dir", "foreign"],
            "notes",
        ),
        (
            ["diagnose", "theirs:net", "activations", "--data", "digits", "--eps", "0.1", "--run-dir", "f/below"],
            "below",
        ),
        (["figure", "heatmpa", "damaged"], "heatmap"),
        (["figure", "heatmap", "nowhere"], "nowhere"),
        (["figure", "heatmap", "foreign"], "foreign"),
        (["figure", "heatmap", "damaged"], "diagnosis.json"),
        (["figure", "heatmap", "damaged", "--format", "gif"], "png"),
        (["figure", "heatmap", "damaged", "-o", "x.gif"], "gif"),
        (["figure", "heatmap", "damaged", "--columns", "3"], "--columns"),
        (["figure", "heatmap", "damaged", "--name", "a", "--name", "b"], "one --name per run"),
        (["figure", "curve", "damaged", "--image", "3"], "--image"),
    ],
)
def test_mistakes_are_answered(run, own, words, expected):
    Path("f").write_text("")
    Path("foreign").mkdir()
    Path("foreign/notes.txt").write_text("mine")
    Path("damaged").mkdir()
    Path("damaged/diagnosis.json").write_text('{"kind": "diagnosis", "name": 3}')
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert expected in result.output and "Traceback" not in result.output
    assert Path("foreign/notes.txt").read_text() == "mine" and not [*Path("foreign").glob("*.json")]


def test_other_settings_for_the_same_folder_are_refused_by_name(run, own):
    assert run("diagnose", "theirs:net", "histogram", *SMALL, "--run-dir", "found").exit_code == 0
    refused = run("diagnose", "theirs:net", "histogram", *SMALL, "--restarts", 9, "--run-dir", "found")
    assert refused.exit_code == 2 and "studies.histogram.restarts is recorded as 3 and given as 9" in refused.output


def test_a_figure_without_its_study_says_how_to_make_it(run, own):
    assert run("diagnose", "theirs:net", "activations", *SMALL, "--run-dir", "found").exit_code == 0
    refused = run("figure", "linearised", "found")
    assert refused.exit_code == 2 and "unmask diagnose MODEL linearised --run-dir found" in refused.output


@pytest.mark.parametrize("verb", ["diagnose x", "figure curve x"])
def test_ctrl_c_ends_with_130(run, monkeypatch, verb):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask.models.load_model", interrupt)
    monkeypatch.setattr("unmask.report.figures.recorded.load_run", interrupt)
    result = run(*verb.split())
    assert result.exit_code == 130 and "again" in result.output


def test_the_help_names_every_study():
    assert NAMES.split(", ") == [*STUDIES]
    studies = diagnose.__annotations__["studies"]
    assert f"Default: {', '.join(USUAL_STUDIES)}." in studies
    assert {study for shown in KINDS.values() for study in shown} <= {*STUDIES}


def test_studies_are_completed(monkeypatch):
    from typer.testing import CliRunner

    from unmask.cli.app import app

    monkeypatch.setenv("_UNMASK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "unmask diagnose mnist-clp step")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert CliRunner().invoke(app, [], prog_name="unmask").stdout.split() == ["step-curve"]
