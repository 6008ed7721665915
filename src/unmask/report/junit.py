"""An audit as JUnit XML, which build servers read: one test case for the robust accuracy, one per finding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from unmask.errors import LedgerError
from unmask.files import make_folder, write_atomic
from unmask.ledger import FindingEntry, ResultEntry, Run
from unmask.report import words

# All but the characters that XML 1.0 can hold, which ElementTree would write as they are.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(
    run: Run, path: Path, *, fail_under: float | None = None, errors: Mapping[int, str] | None = None
) -> Path:
    """Write a finished run as JUnit XML to `path`, whole or not at all, and return its path.

    See `junit`. Raises LedgerError for an unfinished run, OutputError where the file cannot be written.
    """
    document = junit(run, fail_under=fail_under, errors=errors)
    make_folder(path.parent)
    write_atomic(path, document)
    return path


def junit(run: Run, *, fail_under: float | None = None, errors: Mapping[int, str] | None = None) -> bytes:
    """Return a finished run as JUnit XML.

    The test case "robust accuracy" fails below `fail_under`, and is an error where an image ended in one; `errors` says
    what happened, by the image's id. Every finding is a test case that is called like its check: a failed check is a
    failure, what a warning says is its output, and a check that did not apply was skipped. Raises LedgerError for an
    unfinished run.
    """
    if run.result is None:
        raise LedgerError(f"The run {run.spec.name} is not finished; the same audit goes on. Write its tests then.")
    root = ET.Element("testsuites", name="unmask")
    suite = ET.SubElement(root, "testsuite", name=_clean(f"unmask audit {run.spec.name}"))
    suite.set("timestamp", run.spec.created)
    suite.set("time", f"{run.result.seconds:.3f}")
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(run, run.result).items():
        ET.SubElement(properties, "property", name=name, value=_clean(value))
    classname = _clean(f"unmask.{run.spec.name}")
    _add_accuracy(ET.SubElement(suite, "testcase", classname=classname), run.result, fail_under, errors or {})
    for finding in run.findings:
        _add_finding(ET.SubElement(suite, "testcase", classname=classname, name=_clean(finding.check)), finding)
    for element in (root, suite):
        for attribute, tag in {"tests": "testcase", "failures": "failure", "errors": "error"}.items():
            element.set(attribute, str(len(suite.findall(f".//{tag}"))))
    suite.set("skipped", str(len(suite.findall(".//skipped"))))
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _properties(run: Run, result: ResultEntry) -> dict[str, str]:
    spec = run.spec
    claimed = {} if result.claimed_accuracy is None else {"claimed_accuracy": str(result.claimed_accuracy)}
    return {
        "verdict": result.verdict.label,
        "clean_accuracy": str(result.clean_accuracy),
        **claimed,
        "robust_accuracy": str(result.robust_accuracy),
        "interval": " ".join(map(str, result.interval)),
        "data": f"{spec.data.name} {spec.data.split}".strip(),
        "n": str(spec.data.n),
        "threat": spec.terms,
        "budget": spec.budget,
        "seed": str(spec.seed),
        "version": spec.version,
        **({} if run.path is None else {"run_dir": str(run.path)}),
    }


def _add_accuracy(case: ET.Element, result: ResultEntry, fail_under: float | None, errors: Mapping[int, str]) -> None:
    case.set("name", "robust accuracy")
    case.set("time", f"{result.seconds:.3f}")
    said = [f"Verdict: {result.verdict.label}.", *result.verdict.reasons]
    if result.headline is None:
        unfinished = result.counts.get("error", 0) + result.counts.get("not_run", 0)
        told = [f"Image {example}: {message}" for example, message in errors.items()]
        _add(case, "error", f"{unfinished} images ended in an error, so there is no headline.", told)
    elif fail_under is not None and result.robust_accuracy < fail_under:
        accuracy = f"{words.percent(result.robust_accuracy)} is below {words.percent(fail_under)}"
        _add(case, "failure", f"Robust accuracy {accuracy}.", [result.headline, *said])
    else:
        _add(case, "system-out", None, [result.headline, *said])


def _add_finding(case: ET.Element, finding: FindingEntry) -> None:
    evidence = [f"{name}: {words.value(value)}" for name, value in finding.evidence.items()]
    said = [*([finding.next_step] if finding.next_step else []), *evidence]
    if finding.status == "fail":
        _add(case, "failure", finding.summary, said)
    elif finding.status == "not_applicable":
        _add(case, "skipped", finding.summary, [])
    else:
        said = said if finding.status == "warn" else []
        _add(case, "system-out", None, [f"{finding.status}: {finding.summary}", *said])


def _add(case: ET.Element, tag: str, message: str | None, lines: list[str]) -> None:
    element = ET.SubElement(case, tag)
    if message is not None:
        element.set("message", _clean(message))
    element.text = _clean("\n".join(lines)) or None


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)
