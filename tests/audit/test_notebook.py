"""In a notebook a result shows its verdict, attacks and findings as HTML, and runs nothing that a model put in."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from unmask import Linf, audit
from unmask.audit import AuditResult
from unmask.diagnostics import Finding, Findings

HOSTILE = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Collects the text and the tags of a fragment, and holds that every tag that was opened is closed."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.text, self.tags, self._open = "", set[str](), list[str]()
        self.feed(fragment)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def result() -> AuditResult:
    weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    x = torch.rand(24, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return audit(lambda x: x.flatten(1) @ weights, x, (x.flatten(1) @ weights).argmax(1), Linf(0.1), budget="quick")


class TestResult:
    def test_it_shows_headline_verdict_attacks_and_findings(self, result: AuditResult) -> None:
        shown = Reader(result._repr_html_())
        assert result.headline is not None and result.headline in shown.text
        assert f"Verdict: {result.verdict.label}." in shown.text
        assert all(reason in shown.text for reason in result.verdict.reasons)
        assert all(finding.check in shown.text for finding in result.findings)
        tried = {event for event in result.run.events["attack"].tolist()}
        assert "pgd-40" in tried and all(attack in shown.text for attack in tried)

    def test_without_a_headline_or_findings_it_says_so(self, result: AuditResult) -> None:
        shown = Reader(replace(result, headline=None, findings=Findings())._repr_html_())
        assert "No headline: an image ended in an error" in shown.text
        assert "details" not in shown.tags

    def test_what_models_and_files_say_is_escaped(self, result: AuditResult) -> None:
        verdict = replace(result.verdict, reasons=(HOSTILE,), change=(HOSTILE,))
        hostile = replace(result, headline=HOSTILE, verdict=verdict, findings=Findings([finding()]))
        shown = Reader(hostile._repr_html_())
        assert "script" not in shown.tags
        assert shown.text.count(HOSTILE) == 3 + finding()._repr_html_().count("&lt;script&gt;")


def finding(**changes: Any) -> Finding:
    return replace(Finding(HOSTILE, "warn", HOSTILE, {HOSTILE: HOSTILE}, HOSTILE), **changes)


class TestFindings:
    def test_a_finding_is_escaped(self) -> None:
        shown = Reader(finding()._repr_html_())
        assert shown.text.count(HOSTILE) == 5
        assert "script" not in shown.tags

    def test_what_went_wrong_comes_first(self) -> None:
        found = Findings(finding(check=status, status=status) for status in ("not_applicable", "ok", "fail", "warn"))
        text = Reader(found._repr_html_()).text
        places = [text.index(word) for word in ("fail", "warn", "ok", "not_applicable")]
        assert places == sorted(places)
        assert found == tuple(found)

    def test_no_evidence_and_no_next_step_leave_no_trace(self) -> None:
        shown = Reader(Finding("determinism", "ok", "The same.")._repr_html_())
        assert "Next" not in shown.text and "details" not in shown.tags

    def test_a_value_of_a_megabyte_is_cut(self) -> None:
        shown = finding(evidence={"share": 1 / 3, "list": list(range(300_000))})._repr_html_()
        assert "0.3333" in shown and "[0, 1, 2, " in shown and len(shown) < 2000
