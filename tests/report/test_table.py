"""The summary: one true row per run, and texts that no name can break."""

import csv
import io
import re
from dataclasses import fields

import pytest

from unmask.ledger import ThreatEntry
from unmask.ledger.queries import attack_table
from unmask.report.table import (
    COLUMNS,
    NUMERIC,
    SummaryRow,
    attacks_to_csv,
    attacks_to_latex,
    cells,
    summary_rows,
    to_csv,
    to_latex,
    to_markdown,
)


def test_a_finished_run_is_summed_up(run):
    [row] = summary_rows([run])
    assert (row.name, row.verdict, row.n, row.threat) == ("digits-clp", "masked", 40, "Linf(0.2)")
    assert (row.clean, row.claimed, row.measured) == pytest.approx((0.95, 0.7, 0.25))
    assert row.gap == pytest.approx(0.45)
    assert row.low < 0.25 < row.high
    assert row.refusal == ""
    # 40 clean forwards; then 19 passes for each image that stands when a round begins.
    assert row.evaluations == pytest.approx((40 + 19 * (38 + 28 + 18 + 14 + 12)) / 40)


def test_runs_of_one_name_are_numbered(run):
    assert [row.name for row in summary_rows([run, run, run])] == ["digits-clp", "digits-clp (2)", "digits-clp (3)"]


def test_an_unfinished_run_has_no_measured_figure(story):
    [row] = summary_rows([story().play(until=3)])
    assert row.verdict == "unfinished"
    assert (row.measured, row.low, row.high, row.gap) == (None, None, None, None)
    assert "run the same command again" in row.refusal
    [cell] = cells([row])
    assert cell[:6] == ("digits-clp", "unfinished", "≤ 95.0%", "≤ 70.0%", "–", "–")  # noqa: RUF001


def test_a_run_with_errors_has_no_measured_figure(story):
    [row] = summary_rows([story(errors=frozenset({1007})).play()])
    assert row.verdict == "errors"
    assert row.measured is None
    assert "1 of 40 examples ended in an error" in row.refusal


def test_a_run_that_was_not_sealed_has_no_headline_though_every_round_is_there(story):
    [row] = summary_rows([story().play(seal=False)])
    assert row.measured is None
    assert "was not closed" in row.refusal


def test_a_run_without_a_claim_has_no_gap(story):
    plan = story().plan
    [row] = summary_rows([story(plan=(plan[0], plan[3]), breaks=(0.05, 0.5)).play()])
    assert (row.claimed, row.gap) == (None, None)
    assert row.measured == pytest.approx(0.45)


def test_cells_stand_under_their_columns(run):
    [cell] = cells(summary_rows([run]))
    shown = dict(zip(COLUMNS, cell, strict=True))
    assert shown["measured"] == "25.0%"
    assert shown["95% interval"] == "[14.2, 40.2]"
    assert shown["gap"] == "45.0 points"
    assert shown["evaluations"] == "53"
    assert [COLUMNS[column] for column in NUMERIC][-1] == "evaluations"


def test_markdown_keeps_its_shape_whatever_the_names(story):
    hostile = "a|b <script>*x*</script> [y](z) `q`"
    changes = {"name": hostile, "threat": ThreatEntry(norm="l2", eps="0.5|\n| x")}
    text = to_markdown(summary_rows([story(changes=changes).play()]))
    lines = text.splitlines()
    assert len(lines) == 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(COLUMNS) + 1}
    assert "<script>" not in text
    assert r"a\|b &lt;script>\*x\*" in text


def test_csv_reads_back_in_full_precision(run, story):
    rows = summary_rows([run, story().play(until=2)])
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(read[0]) == [field.name for field in fields(SummaryRow)]
    assert float(read[0]["low"]) == rows[0].low
    assert float(read[0]["evaluations"]) == rows[0].evaluations
    assert read[1]["measured"] == ""
    assert read[1]["refusal"] == rows[1].refusal


@pytest.mark.parametrize("name", ["=HYPERLINK('http://x')", "+1", "-1", "@SUM(A1)"])
def test_no_name_becomes_a_formula(story, name):
    [row] = csv.DictReader(io.StringIO(to_csv(summary_rows([story(changes={"name": name}).play()]))))
    assert row["name"] == f"'{name}"


def test_latex_has_a_row_per_run_and_runs_no_command(run, story):
    odd = story(changes={"name": "\\input{/etc/passwd} 5% & more_$x^2$ ~#<>"}).play()
    lines = to_latex(summary_rows([run, odd])).splitlines()
    assert lines[0] == "\\begin{tabular}{llrrrrrrlr}"
    assert [line for line in lines if line.startswith("\\")][-1] == "\\end{tabular}"
    name = lines[5].split(" & ")[0]
    assert name.startswith(r"\textbackslash{}input\{/etc/passwd\} 5\% \& more\_\$x\textasciicircum{}2\$")
    assert lines[4].endswith(r"\\")
    assert all(line.count(" & ") == len(COLUMNS) - 1 for line in (lines[2], lines[4]))


def test_an_attack_table_as_csv_and_latex(run):
    table = attack_table(run)
    rows = list(csv.DictReader(io.StringIO(attacks_to_csv(table))))
    assert [row["attack"] for row in rows] == ["clean", "pgd-10", "margin", "square"]
    assert float(rows[-1]["accuracy_after"]) == pytest.approx(0.25)
    assert "margin & 3 & 28 & 16 & 30.0\\% & " in attacks_to_latex(table, len(run.ids))


def test_an_attack_of_a_huge_or_an_active_name_is_cut_and_quoted(run):
    rows = [row._replace(attack=name) for row, name in zip(attack_table(run), ("=1+1", "a" * 10_000), strict=False)]
    first, second = csv.DictReader(io.StringIO(attacks_to_csv(rows)))
    assert first["attack"] == "'=1+1"
    assert len(second["attack"]) == 60
