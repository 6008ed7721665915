"""A record that was torn or tampered with gives an error that names the file, or a page that shows what is whole."""

import json
import shutil
from dataclasses import replace

import pytest

from unmask.errors import LedgerError
from unmask.ledger import load_run
from unmask.ledger.diagnosis import load_diagnosis
from unmask.report import write_report

HUGE = 100_000_000


@pytest.fixture(scope="module")
def sealed(story, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sealed"
    story(n=8).play(folder)
    return folder


@pytest.fixture(scope="module")
def unsealed(story, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unsealed"
    story(n=8).play(folder, seal=False)
    return folder


@pytest.fixture
def report(tmp_path):
    """Copy a run's folder, change it, and write its report; returns the page."""

    def write(folder, change):
        copy = tmp_path / "run"
        shutil.copytree(folder, copy)
        change(copy)
        return write_report([load_run(copy)], tmp_path / "report.html").read_text()

    return write


def with_field(path, change):
    """Change a JSON file in place."""
    recorded = json.loads(path.read_text())
    change(recorded)
    path.write_text(json.dumps(recorded))


def test_a_line_torn_off_at_the_end_is_left_out(report, unsealed):
    def tear(folder):
        journal = folder / "events.jsonl"
        journal.write_bytes(journal.read_bytes()[:-20])

    page = report(unsealed, tear)
    assert "There is no headline yet" in page
    assert page.endswith("</html>")


def test_a_line_torn_in_the_middle_is_named(report, unsealed):
    def tear(folder):
        journal = folder / "events.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:3], lines[3][:10] + b"\n", *lines[4:]]))

    with pytest.raises(LedgerError, match=r"events\.jsonl, line 4"):
        report(unsealed, tear)


def test_a_line_of_a_hundred_megabytes_is_refused_by_its_length(report, unsealed):
    def lengthen(folder):
        journal = folder / "events.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(lines[0][:-2] + b" " * HUGE + lines[0][-2:] + b"".join(lines[1:]))

    with pytest.raises(LedgerError, match="longer than 1,000,000 bytes"):
        report(unsealed, lengthen)


@pytest.mark.parametrize("name", ["spec.json", "findings.json", "result.json"])
def test_a_field_of_a_hundred_megabytes_is_refused_by_the_file_s_size(report, sealed, name):
    def lengthen(folder):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"', '"' + "x" * HUGE, 1))

    with pytest.raises(LedgerError, match=f"{name} is larger than 64,000,000 bytes"):
        report(sealed, lengthen)


def test_a_field_of_ten_megabytes_is_shown_cut_and_escaped(report, sealed):
    def lengthen(folder):
        with_field(
            folder / "findings.json", lambda found: found[0].update(summary="<script>alert(1)</script>" * 400_000)
        )
        with_field(folder / "spec.json", lambda spec: spec["data"].update(classes=["<b>" * 3_000_000, "one", "two"]))

    page = report(sealed, lengthen)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page and "<b>" not in page
    assert len(page) < 1_500_000


def test_a_finding_of_a_diagnosis_of_a_hundred_megabytes_is_refused(sealed, tmp_path, diagnosis):
    (tmp_path / "diagnosed" / "findings").mkdir(parents=True)
    (tmp_path / "diagnosed" / "diagnosis.json").write_text(diagnosis.spec.model_dump_json())
    path = tmp_path / "diagnosed" / "findings" / "surface.json"
    path.write_text(diagnosis.findings["surface"].model_dump_json().replace('"', '"' + "x" * HUGE, 1))
    with pytest.raises(LedgerError, match=r"surface\.json is larger than 64,000,000 bytes"):
        load_diagnosis(tmp_path / "diagnosed")


def test_a_diagnosis_with_markup_in_every_text_is_shown_escaped(run, diagnosis, tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    findings = {
        study: entry.model_copy(update={"summary": bad, "next_step": bad, "evidence": {**entry.evidence, bad: bad}})
        for study, entry in diagnosis.findings.items()
    }
    findings["surface"] = findings["surface"].model_copy(
        update={"evidence": {**findings["surface"].evidence, "directions": [bad, bad]}}
    )
    page = write_report([run], tmp_path / "report.html", [replace(diagnosis, findings=findings)]).read_text()
    assert "&lt;img src=x onerror=" in page
    assert "<img src=x" not in page
