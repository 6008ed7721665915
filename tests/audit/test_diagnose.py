"""Diagnoses: every study on a small network, resumed to the same findings, refused in the folder of another."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

import unmask
from unmask.audit import STUDIES, diagnose, study_names
from unmask.audit.studies import Settings, named_attack, restart_counts
from unmask.errors import AuditError, DataError, LedgerError, ModelError, OutputError
from unmask.ledger.diagnosis import load_diagnosis
from unmask.streams import Streams

THREAT = unmask.Linf(0.1)
SMALL = {"restarts": 4, "points": 5, "images": 3, "attack": "pgd-10"}
QUICK = (
    "histogram",
    "surface",
    "eps-curve",
    "restart-curve",
    "linearised",
    "activations",
    "indicators",
    "binarization",
)


class Interrupted(Exception):
    pass


class Counted(nn.Sequential):
    """A network that counts the example passes made through it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.forwards = self.backwards = 0

    def forward(self, x):
        logits = super().forward(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._note)
        return logits

    def _note(self, gradient):
        self.backwards += len(gradient)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def net() -> Counted:
    layers = nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)
    generator = torch.Generator().manual_seed(0)
    net = Counted(*layers).requires_grad_(False)
    for weights in net.parameters():
        weights.copy_(0.4 * torch.randn(weights.shape, generator=generator))
    return net


@pytest.fixture
def given(net) -> dict:
    """Return eight digits, labelled as the network sees them but for the first."""
    data = unmask.load_data("digits", "test").first(8)
    x = data.pixels()
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    net.forwards = 0
    return {"model": net, "x": x, "y": y, "threat": THREAT, "ids": data.ids, **SMALL}


def test_every_study_says_what_it_found_and_what_it_cost(net, given):
    # The first look at the images is not part of any study.
    for name, study in STUDIES.items():
        net.forwards = net.backwards = 0
        (finding,) = diagnose(**given, studies=[name])
        assert (finding.check, net.forwards - 8) == (study.check, finding.forwards), name
        assert json.loads(json.dumps(finding.evidence, allow_nan=False)) == finding.evidence, name
        assert finding.status in ("ok", "warn", "fail") and finding.summary, name
        if name not in ("linearised", "surface", "binarization"):  # not from the logits, or several times from them
            assert net.backwards == finding.backwards, name
        spent = finding.forwards + finding.backwards
        assert spent <= study.cost(Settings(**SMALL), 8, 10) + 3 * 8, name


def test_studies_of_single_images_look_at_those_that_are_right(given):
    histogram, surface = diagnose(**given, studies=["histogram", "surface"])
    assert histogram.evidence["ids"] == surface.evidence["ids"] == given["ids"][1:4].tolist()
    wrong = given | {"y": (given["model"](given["x"]).argmax(1) + 1) % 10}
    (finding,) = diagnose(**wrong, studies=["histogram"])
    assert (finding.check, finding.status, finding.forwards) == ("restart_losses", "not_applicable", 8)


def test_neither_order_nor_company_nor_the_folder_changes_a_finding(given, tmp_path):
    together = diagnose(**given, studies=["surface", "histogram", "eps-curve"])
    alone = [diagnose(**given, studies=[name], run_dir=tmp_path)[0] for name in ("histogram", "eps-curve", "surface")]
    assert {finding.check: finding for finding in together} == {finding.check: finding for finding in alone}
    other = diagnose(**given | {"batch_size": 3}, studies=["histogram"])[0]
    assert other.evidence["kinds"] == together[1].evidence["kinds"]


def test_an_interrupted_diagnosis_goes_on_to_the_same_findings(net, given, tmp_path):
    whole = diagnose(**given, studies=QUICK)
    needed = net.forwards
    net.forwards = broken = 0

    def run(stop: int):
        seen = []

        def watch(now):
            seen.append(now)
            if len(seen) == stop:
                raise Interrupted

        return diagnose(**given, studies=QUICK, run_dir=tmp_path, watch=watch)

    for stop in count(1):
        try:
            found = run(stop)
            break
        except Interrupted:
            broken += 1
            assert (tmp_path / "diagnosis.json").exists()
    assert found == whole and broken > len(QUICK)
    # Every part was computed once: what came again is the first look, and indicators and features found anew.
    assert net.forwards <= needed + broken * (8 + 2)
    assert {name: finding.model_dump() for name, finding in load_diagnosis(tmp_path).findings.items()} == {
        name: {**vars(finding), "evidence": dict(finding.evidence)} for name, finding in zip(QUICK, whole, strict=True)
    }


def test_a_finished_diagnosis_runs_nothing(net, given, tmp_path):
    first = diagnose(**given, studies=["heatmap"], run_dir=tmp_path)
    net.forwards = 0
    seen = []
    assert diagnose(**given, studies=["heatmap"], run_dir=tmp_path, watch=seen.append) == first
    assert net.forwards == 8 and [(now.study, now.done, now.of) for now in seen] == [("heatmap", 1, 1)]


def test_damaged_parts_and_findings_are_made_anew(given, tmp_path):
    first = diagnose(**given, studies=["histogram", "activations"], run_dir=tmp_path)
    parts = sorted((tmp_path / "parts").glob("histogram-*image-*.json"))
    assert len(parts) == 3
    whole = [path.read_bytes() for path in parts]
    parts[0].write_bytes(whole[0][: len(whole[0]) // 2])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(whole[2].replace(b'"hits": ', b'"hits": 1'))
    (tmp_path / "findings" / "histogram.json").write_text("{")
    with pytest.raises(LedgerError, match=r"histogram\.json"):
        load_diagnosis(tmp_path)
    assert diagnose(**given, studies=["histogram", "activations"], run_dir=tmp_path) == first
    assert [path.read_bytes() for path in parts] == whole


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"threat": unmask.Linf(0.2)}, r"threat\.eps"),
        ({"restarts": 5}, r"studies\.histogram\.restarts is recorded as 4 and given as 5"),
        ({"images": 2}, r"studies\.histogram\.images"),
        ({"model": lambda images: images.flatten(1)[:, :10]}, r"model\.fingerprint"),
        ({"ids": torch.arange(20, 28)}, r"data\.fingerprint"),
    ],
)
def test_a_folder_of_another_diagnosis_is_refused_by_name(given, tmp_path, change, field):
    diagnose(**given, studies=["histogram"], run_dir=tmp_path)
    before = (tmp_path / "diagnosis.json").read_bytes()
    with pytest.raises(LedgerError, match=field):
        diagnose(**(given | change), studies=["histogram"], run_dir=tmp_path)
    assert (tmp_path / "diagnosis.json").read_bytes() == before


def test_settings_of_other_studies_do_not_matter(given, tmp_path):
    diagnose(**given, studies=["histogram"], run_dir=tmp_path)
    diagnose(**(given | {"points": 7, "attack": "fgsm"}), studies=["surface", "histogram"], run_dir=tmp_path)
    assert load_diagnosis(tmp_path).spec.studies == {
        "histogram": {"restarts": 4, "images": 3},
        "surface": {"points": 7, "directions": ["random", "adversarial"], "images": 3},
    }


def test_other_folders_are_refused(given, tmp_path):
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "notes.txt").write_text("mine")
    with pytest.raises(LedgerError, match=r"notes\.txt"):
        diagnose(**given, studies=["activations"], run_dir=tmp_path / "stranger")
    asked = {name: given[name] for name in ("model", "x", "y", "threat", "ids")}
    unmask.audit(**asked, budget="quick", diagnostics=False, run_dir=tmp_path / "audit")
    with pytest.raises(LedgerError, match="not a diagnosis"):
        diagnose(**given, studies=["activations"], run_dir=tmp_path / "audit")
    with pytest.raises(LedgerError, match="holds no diagnosis"):
        load_diagnosis(tmp_path / "audit")
    diagnose(**given, studies=["activations"], run_dir=tmp_path / "own")
    with pytest.raises(LedgerError, match="not a ledger"):
        unmask.audit(**asked, budget="quick", run_dir=tmp_path / "own")
    (tmp_path / "own" / "diagnosis.json").write_text('{"kind": "diagnosis"}')
    with pytest.raises(LedgerError, match=r"diagnosis\.json is not as unmask writes it"):
        diagnose(**given, studies=["activations"], run_dir=tmp_path / "own")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        diagnose(**given, studies=["activations"], run_dir=tmp_path / "file" / "below")


def test_two_processes_do_not_write_one_folder(given, tmp_path):
    def watch(now):
        with pytest.raises(LedgerError, match="another process"):
            diagnose(**given, studies=["activations"], run_dir=tmp_path)

    diagnose(**given, studies=["activations"], run_dir=tmp_path, watch=watch)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"studies": ["heatmpa"]}, AuditError, "Did you mean 'heatmap'"),
        ({"studies": []}, AuditError, "no study"),
        ({"grid": "fine"}, AuditError, "coarse, full"),
        ({"restarts": 1}, AuditError, "restarts is 1"),
        ({"images": 0}, AuditError, "images is 0"),
        ({"attack": "pdg-40"}, AuditError, "pgd-40.*exhaustive"),
        ({"studies": ["surface"], "points": 4}, AuditError, "odd"),
        ({"studies": ["surface"], "directions": ("random", "up")}, AuditError, "adversarial"),
        ({"batch_size": 0}, AuditError, "batch size"),
        ({"x": torch.full((8, 1, 8, 8), 3.0)}, DataError, "Pixels"),
        ({"y": torch.zeros(3).long()}, DataError, "Labels"),
        ({"ids": torch.zeros(8).long()}, DataError, "different numbers"),
        ({"model": lambda x: x.flatten(1)[:, :10].softmax(1)}, ModelError, "probabilities"),
        ({"model": nn.Linear(3, 10)}, AuditError, "cannot be run"),
    ],
)
def test_bad_input_is_answered(given, tmp_path, change, kind, words):
    with pytest.raises(kind, match=words):
        diagnose(**({"studies": ["activations"]} | given | change), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "findings").exists() or not any((tmp_path / "run" / "findings").iterdir())


def test_the_module_comes_back_as_it_was(net, given):
    net.train()
    diagnose(**given, studies=["linearised", "activations"])
    assert net.training and all(layer.training for layer in net)
    assert all(weights.grad is None and not weights.requires_grad for weights in net.parameters())


def test_attacks_on_trial(linear):
    model, x, y, distance = linear
    easy = int((distance > 0).nonzero().flatten()[distance[distance > 0].argmin()])
    near = unmask.Linf(float(2 * distance[easy]))
    streams = Streams.derive(0, [easy], "trial")
    for name in ("pgd-10", "fgsm", "quick"):
        attack, called = named_attack(name, near)
        x_adv = attack(model, x[easy : easy + 1], y[easy : easy + 1], near, streams)
        assert near.contains(x_adv, x[easy : easy + 1]).all() and int(model(x_adv).argmax()) != int(y[easy]), name
        assert name in called

    def own(model, x, y, threat, streams):
        return x

    assert named_attack(own, near) == (own, own.__qualname__)
    assert Settings(attack=own).describe(("attack",)) == {"attack": own.__qualname__}


def test_study_names_and_restart_counts():
    assert study_names(["all"]) == tuple(STUDIES) and study_names(["surface", "surface"]) == ("surface",)
    assert restart_counts(100) == (1, 2, 5, 10, 20, 50, 100) and restart_counts(30) == (1, 2, 5, 10, 20, 30)
    assert restart_counts(2) == (1, 2)


def test_diagnose_is_public_and_readers_need_no_torch(tmp_path):
    assert unmask.diagnose is diagnose
    code = "import sys, unmask.ledger.diagnosis\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(tmp_path)).returncode == 0


@pytest.mark.parametrize("settings", [{"points": 4}, {"directions": ("up", "down")}, {"restarts": 1}])
def test_bad_settings_leave_no_record(settings, network, digits, tmp_path):
    x, y = digits.pixels()[:4], digits.labels[:4]
    with pytest.raises(AuditError):
        unmask.diagnose(network, x, y, unmask.Linf(0.1), studies=["surface"], run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_an_attack_whose_name_says_too_little_is_not_kept(given, tmp_path):
    few = {**given, "studies": ["binarization"], "images": 1}
    few.pop("attack", None)
    for strength in (0.0, 0.1):

        def attack(model, x, y, threat, streams, strength=strength):
            return threat.project(x + strength, x)

        with pytest.raises(AuditError, match="function of a module"):
            diagnose(**few, attack=attack, run_dir=tmp_path / "run")
        assert diagnose(**{**few, "run_dir": None}, attack=attack)[0].check == "binarization"
    assert not (tmp_path / "run").exists()
