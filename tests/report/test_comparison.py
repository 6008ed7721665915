"""A reproduced table is shown whole in every form, and no name in it can break one."""

import csv as spreadsheet
import io
import re

import pytest

from unmask.errors import LedgerError
from unmask.ledger.comparison import CellEntry, Comparison, RowEntry
from unmask.report.comparison import CSV_COLUMNS, csv, grid, html, latex, markdown
from unmask.report.order import order_sentence, reading, taus

HOSTILE = "<script>alert(1)</script> [x](y) | `b` \\input{z} 50% & _a_ $m$ {{ 7*7 }} #1 ^~ \n\n# é漢"
BARE = {"title": "Accuracy on MNIST", "paper": "A paper", "printed": "Table 1", "scale": "small", "seed": 7}
REST = {"scale_summary": "minutes", "reading": "What it shows.", "command": "unmask reproduce a/b", "version": "0.1.0"}


def comparison(cells=(), columns=("clean", "strong"), modern=("audit",), **changes):
    rows = [RowEntry(row=row, recipe=f"r/{row}", model="m", trained="2 epochs") for row in rows_of(cells)]
    values = {"name": "a/b", "rows": rows, "cells": list(cells), "columns": list(columns), "modern": list(modern)}
    return Comparison(**(BARE | REST | values | changes))


def rows_of(cells):
    return dict.fromkeys(cell.row for cell in cells)


def column(name, published, measured, **fields):
    return [
        CellEntry(row=f"row{i}", column=name, published=p, measured=m, n=500, **fields)
        for i, (p, m) in enumerate(zip(published, measured, strict=True))
    ]


def tau(published, measured):
    return taus(comparison(column("clean", published, measured), columns=["clean"]))["clean"]


@pytest.fixture
def table():
    return comparison(
        [
            CellEntry(row="plain", column="clean", published=0.992, measured=0.9904, interval=(0.977, 0.996), n=500),
            CellEntry(row="plain", column="strong", published=None, measured=0.0, interval=(0.0, 0.008), n=500),
            CellEntry(row="plain", column="audit", measured=1 / 3, interval=(0.29, 0.38), n=500, run="../measures/x"),
            CellEntry(row="clp", column="clean", published=0.624, note="needs 2M steps"),
            CellEntry(row="clp", column="strong", published=0.041, measured=0.05, interval=(0.03, 0.07), n=100),
            CellEntry(row="lsq", column="clean", published=0.5, measured=0.9, n=500, doubt="a misprint"),
            CellEntry(
                row="lsq", column="strong", published=0.5, measured=0.9, n=500, doubt="a misprint", note="one seed"
            ),
        ]
    )


class TestTaus:
    def test_same_order_is_one_and_the_reverse_minus_one(self):
        assert tau([0.1, 0.2, 0.3], [0.5, 0.6, 0.9]) == pytest.approx(1)
        assert tau([0.1, 0.2, 0.3], [0.9, 0.6, 0.5]) == pytest.approx(-1)

    def test_one_of_six_pairs_swapped_is_four_sixths(self):
        assert tau([0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.2, 0.4]) == pytest.approx(4 / 6)

    def test_ties_count_as_in_tau_b(self):
        # Two concordant pairs and one tied in the measured figures: 2 / sqrt(3 * 2).
        assert tau([0.1, 0.2, 0.3], [0.5, 0.5, 0.9]) == pytest.approx(2 / 6**0.5)

    @pytest.mark.parametrize(
        ("published", "measured"),
        [([0.1, 0.2], [0.1, 0.2]), ([0.1, 0.2, 0.3], [0.0, 0.0, 0.0]), ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3])],
    )
    def test_too_few_figures_and_constant_ones_have_none(self, published, measured):
        assert tau(published, measured) is None

    def test_drawn_unmeasured_and_doubted_figures_do_not_count(self):
        kept = column("clean", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
        spoilt = [
            CellEntry(row="drawn", column="clean", measured=0.9),
            CellEntry(row="absent", column="clean", published=0.9),
            CellEntry(row="doubted", column="clean", published=0.0, measured=1.0, doubt="a misprint"),
        ]
        assert taus(comparison(kept + spoilt, columns=["clean"])) == {"clean": pytest.approx(1)}

    def test_modern_columns_have_no_order_to_agree_with(self, table):
        assert list(taus(table)) == ["clean", "strong"]

    def test_rows_that_are_attacks_are_ordered_too(self):
        cells = column("accuracy", [0.5, 0.4, 0.3], [0.6, 0.5, 0.1])
        assert taus(comparison(cells, columns=["accuracy"], modern=[], by="row")) == {"accuracy": pytest.approx(1)}


class TestOrderSentence:
    def test_agreeing_columns_are_listed_with_their_tau(self):
        cells = column("clean", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
        cells += column("strong", [0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.2, 0.4])
        said = order_sentence(comparison(cells))
        assert said == "The order of the rows agrees with the paper: tau 1.00 (clean), 0.67 (strong)."

    def test_the_pair_that_swapped_most_is_named_first(self):
        said = order_sentence(comparison(column("clean", [0.1, 0.5, 0.9], [0.8, 0.5, 0.1]), columns=["clean"]))
        assert said.startswith("The order of the 3 rows differs from the paper's under clean: tau -1.00; most of all ")
        first, second = re.findall(r'"(\w+)" no longer leads "(\w+)"', said)
        assert (first, second) == (("row2", "row0"), ("row2", "row1"))
        assert "(published 90.0 and 10.0, ours 10.0 and 80.0)" in said

    def test_an_order_that_ties_alone_spoil_names_no_pair(self):
        published = [i / 10 for i in range(8)]
        said = order_sentence(comparison(column("clean", published, [0.0] * 7 + [0.2]), columns=["clean"]))
        # Seven concordant pairs of 28, the others tied: 7 / sqrt(28 * 7).
        assert said.endswith("under clean: tau 0.50; ties, not changes of place, are why.")

    def test_columns_that_cannot_be_ordered_are_named(self, table):
        assert order_sentence(table).startswith("No order can be compared, for want of three figures")
        assert order_sentence(table).endswith(": clean, strong.")


def test_the_paragraph_counts_the_figures_within_the_interval(table):
    assert reading(table).startswith("What it shows. No order")
    assert reading(table).endswith("2 of 2 published figures lie within the 95% interval of ours.")


class TestGrid:
    def test_every_row_and_column_is_there_and_what_is_absent_is_none(self, table):
        shown = grid(table)
        assert (shown.columns, shown.modern) == (("clean", "strong"), ("audit",))
        assert [row.name for row in shown.rows] == ["plain", "clp", "lsq"]
        assert [row.figures[2] is None for row in shown.rows] == [False, True, True]

    def test_a_doubt_that_a_whole_row_shares_marks_the_row(self, table):
        rows = {row.name: row for row in grid(table).rows}
        notes = dict(grid(table).notes)
        assert notes[rows["lsq"].marks] == "a misprint"
        assert [notes.get(figure.marks) for figure in rows["lsq"].figures[:2]] == [None, "one seed"]
        assert notes[rows["clp"].figures[0].marks] == "needs 2M steps"

    def test_decimals_are_the_papers(self, table):
        assert grid(table).rows[0].figures[0].published == "99.2"
        finer = column("clean", [0.9989, 0.5], [0.1, 0.2])
        assert [row.figures[0].published for row in grid(comparison(finer)).rows] == ["99.89", "50.00"]

    def test_notes_beyond_z_have_two_letters(self):
        cells = [CellEntry(row=f"row{i}", column="clean", published=0.5, note=f"note {i}") for i in range(28)]
        assert [mark for mark, _ in grid(comparison(cells)).notes][25:] == ["z", "aa", "ab"]


class TestMarkdown:
    def test_published_and_ours_stand_side_by_side(self, table):
        text = markdown(table)
        assert "|  | clean | strong | *audit* |" in text
        assert "| plain | 99.2 → 99.0 [97.7, 99.6] | drawn → 0.0 [0.0, 0.8] | 33.3 [29.0, 38.0] |" in text
        assert "| clp | 62.4 → not run<sup>a</sup> | 4.1 → 5.0 [3.0, 7.0] | – |" in text  # noqa: RUF001
        assert "<sup>a</sup> needs 2M steps" in text

    def test_provenance_and_command_are_told(self, table):
        text = markdown(table.model_copy(update={"hardware": {"cores": "2"}, "packages": {"torch": "2.15.0"}}))
        line = 'Scale "small" (minutes); 100 to 500 images, seed 7; unmask 0.1.0, torch 2.15.0; cores 2.'
        assert line in text
        assert text.endswith("\n    unmask reproduce a/b\n")

    def test_models_that_share_a_training_are_told_once(self):
        rows = [RowEntry(row=row, recipe="r", model="m", trained="2 epochs") for row in ("5 steps", "9 steps")]
        assert "| 5 steps, 9 steps | r | 2 epochs |" in markdown(comparison(rows=rows))


class TestCsv:
    def test_one_line_per_figure_in_full_precision(self, table):
        lines = list(spreadsheet.DictReader(io.StringIO(csv(table))))
        assert tuple(lines[0]) == CSV_COLUMNS
        assert len(lines) == len(table.cells)
        audit = next(line for line in lines if line["column"] == "audit")
        assert float(audit["measured"]) == 1 / 3
        assert (audit["modern"], audit["published"], audit["run"]) == ("yes", "", "../measures/x")
        assert (audit["recipe"], audit["scale"], audit["seed"]) == ("r/plain", "small", "7")

    def test_no_cell_is_run_as_a_formula(self):
        cells = [CellEntry(row="=1+1", column="clean", published=0.5)]
        [line] = spreadsheet.DictReader(io.StringIO(csv(comparison(cells))))
        assert line["row"] == "'=1+1"


class TestLatex:
    def test_every_line_has_as_many_cells_as_the_tabular(self, table):
        text = latex(table)
        assert r"\begin{tabular}{lrrrr@{\hspace{2em}}r}" in text
        body = text[text.index(r"\midrule") : text.rindex(r"\midrule")].splitlines()[1:]
        assert [line.count(" & ") for line in body] == [5, 5, 5]
        assert r"plain & 99.2 & $99.0_{97.7}^{99.6}$ & drawn & $0.0_{0.0}^{0.8}$ & $33.3_{29.0}^{38.0}$ \\" in text
        assert r"62.4 & not run\textsuperscript{a}" in text

    def test_each_way_of_training_is_told_once_with_its_rows(self):
        trained = {"a_1": "2 epochs", "b": "2 epochs", "c": "9 epochs"}
        rows = [RowEntry(row=row, recipe=f"r/{row}", model="m", trained=how) for row, how in trained.items()]
        text = latex(comparison(rows=rows))
        assert r"Trained at this scale: 2 epochs (a\_1, b); 9 epochs (c).\par" in text
        assert r"Trained at this scale: 2 epochs.\par" in latex(comparison(rows=rows[:2]))

    def test_no_rule_is_drawn_where_the_paper_has_no_column(self):
        cells = [CellEntry(row="plain", column="audit", measured=0.5)]
        assert "cmidrule" not in latex(comparison(cells, columns=[]))


class TestHtml:
    def test_one_page_without_scripts_or_addresses(self, table, read):
        page = html(table)
        assert "<script" not in page
        assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
        [policy] = [meta["content"] for meta in read(page).all("meta") if "http-equiv" in meta]
        assert "default-src 'none'" in policy and "script-src" not in policy

    def test_every_figure_is_said(self, table, read):
        page = read(html(table))
        for text in ("99.2", "99.0", "[97.7, 99.6]", "drawn", "not run", "needs 2M steps", "a misprint", "r/plain"):
            assert text in page.texts, text
        assert "overview" not in [heading.get("id") for heading in page.all("h2")]

    def test_several_comparisons_are_listed_first(self, table, read):
        cells = column("clean", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
        page = read(html(table, comparison(cells, columns=["clean"], name="c/d")))
        start = page.texts.index("Overview")
        assert page.texts[start:].index("c/d") < page.texts[start:].index(reading(table))
        row = page.texts[page.texts.index("c/d") :][:6]
        assert row == ["c/d", "Accuracy on MNIST", "small", "3", "3 of 3", "1.00"]
        assert [link["href"] for link in page.all("a")][1:] == ["#table-1", "#table-2"]

    def test_drawings_are_shown_where_given_and_named_otherwise(self, read):
        figure = comparison(columns=[], modern=[], drawings=["s.svg", "s.pdf", "t.svg"])
        page = read(html(figure, pictures={("a/b", "s.svg"): b"<svg/>", ("a/b", "s.pdf"): b"%PDF"}))
        assert [image["src"] for image in page.all("img")] == ["data:image/svg+xml;base64,PHN2Zy8+"]
        assert {"s.svg", "s.pdf", "t.svg"} <= set(page.texts)

    def test_nothing_to_show_is_refused(self):
        with pytest.raises(LedgerError, match="unmask reproduce"):
            html()


class TestDrawingsOnly:
    @pytest.fixture
    def figure(self):
        rows = [RowEntry(row="CLP", recipe="000/clp", model="m", trained="2 epochs")]
        return comparison(columns=[], modern=[], rows=rows, drawings=["surface.svg"])

    def test_models_and_drawings_are_told_without_a_table_of_figures(self, figure):
        text = markdown(figure)
        assert "Drawn: surface.svg." in text and "| CLP | 000/clp | 2 epochs |" in text
        assert "Kendall" not in text
        assert "tabular" not in latex(figure) and "Drawn: surface.svg." in latex(figure)
        assert csv(figure).splitlines() == [",".join(CSV_COLUMNS)]
        assert "Kendall" not in html(figure)

    def test_there_is_no_order(self, figure):
        assert taus(figure) == {}
        assert reading(figure) == "What it shows."


class TestHostileNames:
    @pytest.fixture
    def hostile(self):
        cells = [CellEntry(row=HOSTILE, column=HOSTILE, published=0.5, measured=0.5, note=HOSTILE, doubt=HOSTILE + "!")]
        names = dict.fromkeys(("title", "paper", "reading", "scale", "scale_summary", "command", "name"), HOSTILE)
        return comparison(cells, columns=[HOSTILE], modern=[], drawings=[HOSTILE], **names)

    def test_markdown_stays_one_document_with_one_table_of_two_columns(self, hostile):
        # A line that begins with four spaces is code.
        lines = [line for line in markdown(hostile).splitlines() if not line.startswith("    ")]
        assert sum(line.startswith("# ") for line in lines) == 1
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {0, 3, 4}
        assert not any("<script" in line or re.search(r"(?<!\\)`", line) for line in lines)

    def test_latex_has_no_command_of_theirs_and_balanced_braces(self, hostile):
        text = latex(hostile)
        assert r"\input" not in text and r"\textbackslash{}input\{z\}" in text
        plain = re.sub(r"\\[{}$&#%_\\]", "", text)
        assert plain.count("{") == plain.count("}")
        assert plain.replace(r"Kendall's $\tau$", "").count("$") == 0
        assert text.isascii()

    def test_html_shows_them_as_text(self, hostile, read):
        page = html(hostile)
        assert "<script" not in page
        assert read(page).text.count("<script>alert(1)</script> [x](y) | `b` \\input{z}") > 5
        assert "{{ 7*7 }}" in page
