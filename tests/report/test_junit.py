"""JUnit XML: what a build server reads off it, and texts that cannot break it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from unmask.errors import LedgerError, OutputError
from unmask.ledger import FindingEntry, Run
from unmask.report.junit import junit, write_junit

NASTY = "a <b> & \"c\" 'd' ]]> \x00\x1b[31m \x85 \ufffe 🙂"
READ = "a <b> & \"c\" 'd' ]]> \ufffd\ufffd[31m \x85 \ufffd 🙂"


def cases(document: bytes) -> dict[str, ET.Element]:
    return {str(case.get("name")): case for case in ET.fromstring(document).iter("testcase")}


def test_one_case_for_the_accuracy_and_one_per_finding(run: Run) -> None:
    found = cases(junit(run))
    assert list(found) == ["robust accuracy", "eps_curve", "restart_losses", "claim_gap"]
    assert {case.get("classname") for case in found.values()} == {"unmask.digits-clp"}
    assert found["claim_gap"].find("failure") is not None
    failure = found["claim_gap"].find("failure")
    assert failure is not None and failure.get("message") == "The usual attack overlooks 45.0% of the images."
    assert "Do not report the claimed figure." in str(failure.text) and "gap: 0.45" in str(failure.text)
    warned = found["restart_losses"]
    assert [element.tag for element in warned] == ["system-out"]
    assert "warn: On 1 of 2 images" in str(warned[0].text) and "worst of many restarts" in str(warned[0].text)
    assert "Verdict: masked." in str(found["robust accuracy"].findtext("system-out"))


@pytest.mark.parametrize(("fail_under", "fails"), [(None, False), (0.0, False), (0.25, False), (0.2501, True)])
def test_the_threshold(run: Run, fail_under: float | None, fails: bool) -> None:
    document = junit(run, fail_under=fail_under)
    failure = cases(document)["robust accuracy"].find("failure")
    assert (failure is not None) == fails
    for element in (ET.fromstring(document), ET.fromstring(document)[0]):
        assert (element.get("tests"), element.get("errors")) == ("4", "0")
        assert element.get("failures") == str(1 + fails)
    assert failure is None or failure.get("message") == "Robust accuracy 25.0% is below 25.0%."


def test_the_figures_are_properties(run: Run) -> None:
    suite = ET.fromstring(junit(run))[0]
    found = {str(entry.get("name")): str(entry.get("value")) for entry in suite.iter("property")}
    assert float(found["robust_accuracy"]) == 0.25 and float(found["claimed_accuracy"]) == pytest.approx(0.7)
    assert (found["verdict"], found["threat"], found["n"], found["seed"]) == ("masked", "Linf(0.2)", "40", "7")
    assert suite.get("timestamp") == "2020-01-02T03:04:05+00:00" and float(str(suite.get("time"))) > 0


def test_images_that_ended_in_an_error_are_an_error(story: Callable[..., Any]) -> None:
    run = story(errors=frozenset({1007, 1009})).play()
    document = junit(run, fail_under=1.0, errors={1007: "pgd-10, restart 0: ValueError: <no>"})
    [error] = cases(document)["robust accuracy"]
    assert error.tag == "error" and error.get("message") == "2 images ended in an error, so there is no headline."
    assert error.text == "Image 1007: pgd-10, restart 0: ValueError: <no>"
    assert ET.fromstring(document).get("errors") == "1"


def test_a_check_that_did_not_apply_was_skipped(story: Callable[..., Any]) -> None:
    finding = FindingEntry(check="eight_bit", status="not_applicable", summary="No files.")
    document = junit(story(findings=[finding]).play())
    skipped = cases(document)["eight_bit"].find("skipped")
    assert skipped is not None and skipped.get("message") == "No files."
    assert ET.fromstring(document)[0].get("skipped") == "1"


@pytest.mark.parametrize("status", ["fail", "warn", "ok"])
def test_no_text_breaks_the_document(story: Callable[..., Any], status: str) -> None:
    finding = FindingEntry(check=NASTY, status=status, summary=NASTY, next_step=NASTY, evidence={NASTY: NASTY})
    run = story(findings=[finding], reasons=[NASTY], changes={"name": NASTY}).play()
    found = cases(junit(run))
    assert list(found) == ["robust accuracy", READ]
    assert found[READ].get("classname") == f"unmask.{READ}"
    assert READ in str(found["robust accuracy"].findtext("system-out"))
    [said] = found[READ]
    assert said.get("message") == READ if status == "fail" else READ in str(said.text)
    assert READ in str(said.text)


def test_it_is_written_whole_into_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    path = write_junit(run, tmp_path / "reports" / "audit.xml", fail_under=0.9)
    assert path.read_bytes() == junit(run, fail_under=0.9)
    with pytest.raises(OutputError, match="reports"):
        write_junit(run, tmp_path / "reports")


def test_an_unfinished_run_has_no_tests(story: Callable[..., Any]) -> None:
    with pytest.raises(LedgerError, match="not finished"):
        junit(story().play(until=3))
