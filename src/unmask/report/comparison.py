"""Reproduced tables and figures as documents: Markdown, CSV, LaTeX and one offline HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from csv import writer
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files as resources
from io import StringIO
from pathlib import PurePosixPath
from string import ascii_lowercase

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unmask.errors import LedgerError
from unmask.ledger.comparison import CellEntry, Comparison
from unmask.report.escaping import latex_text, markdown_text, spreadsheet_text
from unmask.report.order import agrees, published_columns, reading, taus
from unmask.report.words import NONE, clip, number

NOT_RUN = "not run"
DRAWN = "drawn"
CSV_COLUMNS = (
    "name",
    "paper",
    "printed",
    "row",
    "column",
    "modern",
    "published",
    "measured",
    "low",
    "high",
    "n",
    "evaluations",
    "scale",
    "seed",
    "version",
    "recipe",
    "run",
    "doubt",
    "note",
)
PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Shown:
    """One figure as text, in percent.

    `published` is "" in a modern column, `low` and `high` where nothing was measured; `marks` are its notes' letters.
    """

    published: str
    ours: str
    low: str = ""
    high: str = ""
    marks: str = ""
    agrees: bool = False

    @property
    def measured(self) -> bool:
        """Whether there is a figure of ours."""
        return self.ours != NOT_RUN

    @property
    def interval(self) -> str:
        """The 95% interval, or ""."""
        return f"[{self.low}, {self.high}]" if self.low else ""


@dataclass(frozen=True)
class Row:
    """One row: its name, the letters of its notes, and a figure (None: there is none) per column, modern ones last."""

    name: str
    marks: str
    figures: tuple[Shown | None, ...]


@dataclass(frozen=True)
class Training:
    """How a model was trained at the scale, and the rows that are its."""

    rows: str
    recipe: str
    trained: str


@dataclass(frozen=True)
class Grid:
    """A comparison as the texts that its documents show; `taus` stand under the published columns."""

    columns: tuple[str, ...]
    modern: tuple[str, ...]
    rows: tuple[Row, ...]
    taus: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    trainings: tuple[Training, ...]

    @property
    def drawn_only(self) -> bool:
        """Whether there is no figure to print, as for the models of a drawing."""
        return not (self.columns or self.modern)


def markdown(comparison: Comparison) -> str:
    """Return a comparison as a Markdown document: a paragraph, the table, its notes, the trainings and the provenance.

    A figure reads "62.4 → 66.8 [63.8, 69.7]", published and ours with its 95% interval, in percent. Columns in italics
    are not in the paper.
    """
    shown = grid(comparison)
    parts = [
        f"# {markdown_text(comparison.title)}",
        f"{markdown_text(comparison.paper)}, {markdown_text(comparison.printed)} ({markdown_text(comparison.name)}).",
        markdown_text(reading(comparison), 20_000),
    ]
    if not shown.drawn_only:
        names = [markdown_text(column) for column in shown.columns]
        names += [f"*{markdown_text(column)}*" for column in shown.modern]
        lines = [["", *names], ["---", *["---:"] * len(names)]]
        lines += [
            [_markdown_marked(markdown_text(row.name), row.marks), *map(_markdown_figure, row.figures)]
            for row in shown.rows
        ]
        lines += [["Kendall's tau", *shown.taus, *[""] * len(shown.modern)]]
        parts += [markdown_text(caption(comparison)), _markdown_table(lines)]
        parts += [f"<sup>{mark}</sup> {markdown_text(text)}" for mark, text in shown.notes]
    if comparison.drawings:
        parts += ["Drawn: " + ", ".join(markdown_text(drawing) for drawing in comparison.drawings) + "."]
    if shown.trainings:
        lines = [["model", "recipe", "trained at this scale"], ["---"] * 3]
        lines += [[markdown_text(text) for text in astuple(training)] for training in shown.trainings]
        parts += [_markdown_table(lines)]
    parts += [markdown_text(provenance(comparison)), f"    {' '.join(clip(comparison.command, 2000).split())}"]
    return "\n\n".join(parts) + "\n"


def csv(comparison: Comparison) -> str:
    """Return a comparison as CSV with one line per figure under `CSV_COLUMNS`; shares in [0, 1], in full precision."""
    recipes = {entry.row: entry.recipe for entry in comparison.rows}
    stream = StringIO()
    lines = writer(stream, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for cell in comparison.cells:
        fields = comparison.model_dump(include={"name", "paper", "printed", "scale", "seed", "version"}) | dict(cell)
        low, high = cell.interval or (None, None)
        fields |= {"low": low, "high": high, "recipe": recipes.get(cell.row, "")}
        fields["modern"] = "yes" if cell.column in comparison.modern else "no"
        values = [fields[name] for name in CSV_COLUMNS]
        lines.writerow([spreadsheet_text(value) if isinstance(value, str) else value for value in values])
    return stream.getvalue()


def latex(comparison: Comparison) -> str:
    r"""Return a comparison as a LaTeX tabular, with its notes under it, for use in a table environment.

    It needs the package booktabs. Each published column becomes two, "paper" and "ours", and an interval is written as
    limits: $66.8_{63.8}^{69.7}$.
    """
    shown = grid(comparison)
    lines = [r"% needs \usepackage{booktabs}"]
    if not shown.drawn_only:
        lines += _latex_tabular(shown)
    notes = [rf"\textsuperscript{{{mark}}}~{latex_text(text)}" for mark, text in shown.notes]
    if comparison.drawings:
        notes += ["Drawn: " + ", ".join(latex_text(drawing) for drawing in comparison.drawings) + "."]
    notes += _latex_trainings(shown)
    limits = r"Accuracies in \%, ours with the limits of the 95\% interval. " if not shown.drawn_only else ""
    notes += [f"{limits}{latex_text(provenance(comparison))}", rf"\texttt{{{latex_text(comparison.command)}}}"]
    lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
    return "\n".join([*lines, *(rf"{note}\par" for note in notes), r"\end{minipage}"]) + "\n"


def html(*comparisons: Comparison, pictures: Mapping[tuple[str, str], bytes] | None = None) -> str:
    """Return comparisons as one HTML page that needs no network and runs no script, several under an overview.

    `pictures` are the contents of drawings by comparison's name and drawing; those in png and svg are shown, the others
    named. Raises LedgerError where no comparison is given.
    """
    if not comparisons:
        raise LedgerError("A page needs at least one comparison; none was given. Make one: unmask reproduce.")
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            views=[_view(one, f"table-{i}", pictures or {}) for i, one in enumerate(comparisons, start=1)],
            style=Markup(_text("report.css") + _text("comparison.css")),
            policy=POLICY,
            dash=NONE,
        )
    )


# ------------------------------------------------------------------------------------------------------ what is shown


def grid(comparison: Comparison) -> Grid:
    """Return the texts of a comparison's table: every row and column that it or one of its cells names."""
    columns = published_columns(comparison)
    modern = tuple(dict.fromkeys(comparison.modern))
    names = dict.fromkeys([*(entry.row for entry in comparison.rows), *(cell.row for cell in comparison.cells)])
    held = {(cell.row, cell.column): cell for cell in comparison.cells}
    doubts = {name: _row_doubt([held.get((name, column)) for column in columns]) for name in names}
    letters = _letters(comparison, doubts)
    found, decimals = taus(comparison), _decimals(comparison)
    return Grid(
        columns,
        modern,
        tuple(
            Row(
                name,
                letters.get(doubts[name], ""),
                tuple(
                    _shown(held.get((name, column)), column in modern, doubts[name], letters, decimals)
                    for column in (*columns, *modern)
                ),
            )
            for name in names
        ),
        tuple(NONE if (tau := found[column]) is None else f"{tau:.2f}" for column in columns),
        tuple((mark, text) for text, mark in letters.items()),
        _trainings(comparison),
    )


def caption(comparison: Comparison) -> str:
    """Return how the figures of a comparison's table are to be read."""
    beside = "; columns in italics are not in the paper" if comparison.modern else ""
    return f"Published → ours [95% interval], accuracies in percent, at the scale {_quoted(comparison.scale)}{beside}."


def provenance(comparison: Comparison) -> str:
    """Return in a line where and how a comparison was measured: scale, images, seed, hardware and versions."""
    counts = sorted({cell.n for cell in comparison.cells if cell.measured is not None})
    images = "" if not counts else f"{' to '.join(map(number, dict.fromkeys((counts[0], counts[-1]))))} images, "
    summary = f" ({comparison.scale_summary})" if comparison.scale_summary else ""
    machine = [f"{name} {value}" for name, value in comparison.hardware.items()]
    software = [f"unmask {comparison.version}", *(f"{name} {value}" for name, value in comparison.packages.items())]
    parts = [f"Scale {_quoted(comparison.scale)}{summary}", f"{images}seed {comparison.seed}", ", ".join(software)]
    return "; ".join(clip(part, 600) for part in [*parts, ", ".join(machine)] if part) + "."


def _quoted(name: str) -> str:
    return f'"{clip(name, 60)}"'


def _row_doubt(cells: list[CellEntry | None]) -> str:
    """Return the doubt that all published figures of a row share, or ""."""
    doubts = {cell.doubt for cell in cells if cell is not None}
    return doubts.pop() if len(doubts) == 1 else ""


def _letters(comparison: Comparison, doubts: Mapping[str, str]) -> dict[str, str]:
    """Return a letter for every doubt and note, in the order of rows."""
    texts = dict.fromkeys(
        text
        for row, doubt in doubts.items()
        for text in (doubt, *(t for cell in comparison.cells if cell.row == row for t in (cell.doubt, cell.note)))
        if text
    )
    return dict(zip(texts, _marks(), strict=False))


def _marks() -> Iterator[str]:
    yield from ascii_lowercase
    for mark in _marks():
        yield from (mark + letter for letter in ascii_lowercase)


def _shown(
    cell: CellEntry | None, modern: bool, row_doubt: str, letters: Mapping[str, str], decimals: int
) -> Shown | None:
    if cell is None:
        return None
    published = DRAWN if cell.published is None else f"{100 * cell.published:.{decimals}f}"
    low, high = ("", "") if cell.interval is None else (f"{100 * limit:.1f}" for limit in cell.interval)
    noted = [text for text in (cell.doubt if cell.doubt != row_doubt else "", cell.note) if text]
    return Shown(
        "" if modern else published,
        NOT_RUN if cell.measured is None else f"{100 * cell.measured:.1f}",
        low,
        high,
        ",".join(dict.fromkeys(letters[text] for text in noted)),
        not modern and not cell.doubt and agrees(cell),
    )


def _decimals(comparison: Comparison) -> int:
    """Return how many decimals of a percentage the paper prints in this table: 1 or 2."""
    published = [cell.published for cell in comparison.cells if cell.published is not None]
    return 1 if all(f"{100 * share:.2f}".endswith("0") for share in published) else 2


def _trainings(comparison: Comparison) -> tuple[Training, ...]:
    """Return how the models were trained, each training once, with the rows that share it."""
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in comparison.rows:
        alike.setdefault((entry.recipe, entry.trained), []).append(entry.row)
    return tuple(Training(", ".join(rows), recipe, trained) for (recipe, trained), rows in alike.items())


# ----------------------------------------------------------------------------------------------------------- Markdown


def _markdown_table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_figure(figure: Shown | None) -> str:
    if figure is None:
        return NONE
    ours = _markdown_marked(" ".join(part for part in (figure.ours, figure.interval) if part), figure.marks)
    return f"{figure.published} → {ours}" if figure.published else ours


def _markdown_marked(text: str, marks: str) -> str:
    return f"{text}<sup>{marks}</sup>" if marks else text


# -------------------------------------------------------------------------------------------------------------- LaTeX


def _latex_tabular(shown: Grid) -> list[str]:
    columns, modern = len(shown.columns), len(shown.modern)
    heads = [rf"\multicolumn{{2}}{{c}}{{{latex_text(column)}}}" for column in shown.columns]
    heads += [rf"\textit{{{latex_text(column)}}}" for column in shown.modern]
    # The wider gap, which a rule must not cross, parts what the paper has from what it does not.
    gap = r"@{\hspace{2em}}" if modern else ""
    trims = ["lr"] * (columns - 1) + ["lr{2em}" if modern else "lr"]
    rules = [rf"\cmidrule({trim}){{{2 * i + 2}-{2 * i + 3}}}" for i, trim in enumerate(trims[:columns])]
    halves = ["paper & ours"] * columns + ["ours"] * modern
    taus = [rf"\multicolumn{{2}}{{c}}{{{latex_text(tau)}}}" for tau in shown.taus] + [""] * modern
    return [
        r"{\renewcommand{\arraystretch}{1.35}%",
        rf"\begin{{tabular}}{{l{'rr' * columns}{gap}{'r' * modern}}}",
        r"\toprule",
        _latex_line(["", *heads]),
        *rules,
        _latex_line(["", *halves]),
        r"\midrule",
        *(
            _latex_line([_latex_marked(latex_text(row.name), row.marks), *_latex_figures(shown, row)])
            for row in shown.rows
        ),
        r"\midrule",
        _latex_line([r"Kendall's $\tau$", *taus]),
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def _latex_trainings(shown: Grid) -> list[str]:
    alike: dict[str, list[str]] = {}
    for training in shown.trainings:
        alike.setdefault(training.trained, []).append(training.rows)
    told = [latex_text(trained) for trained in alike]
    if len(told) > 1:
        told = [f"{text} ({latex_text(', '.join(rows))})" for text, rows in zip(told, alike.values(), strict=True)]
    return [f"Trained at this scale: {'; '.join(told)}."] if told else []


def _latex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_figures(shown: Grid, row: Row) -> list[str]:
    published = [
        "-- & --" if figure is None else f"{figure.published} & {_latex_ours(figure)}"
        for figure in row.figures[: len(shown.columns)]
    ]
    return published + ["--" if figure is None else _latex_ours(figure) for figure in row.figures[len(shown.columns) :]]


def _latex_ours(figure: Shown) -> str:
    value = f"${figure.ours}_{{{figure.low}}}^{{{figure.high}}}$" if figure.low else figure.ours
    return _latex_marked(value, figure.marks)


def _latex_marked(text: str, marks: str) -> str:
    return rf"{text}\textsuperscript{{{marks}}}" if marks else text


# --------------------------------------------------------------------------------------------------------------- HTML


@dataclass(frozen=True)
class View:
    """What the page shows of one comparison; `pictures` are drawings as names and data URLs ("": only named)."""

    anchor: str
    name: str
    title: str
    source: str
    scale: str
    reading: str
    caption: str
    grid: Grid
    measured: str
    tau: str
    pictures: tuple[tuple[str, str], ...]
    provenance: str
    command: str


def _view(comparison: Comparison, anchor: str, pictures: Mapping[tuple[str, str], bytes]) -> View:
    measured = sum(cell.measured is not None for cell in comparison.cells)
    drawn = [(drawing, pictures.get((comparison.name, drawing))) for drawing in comparison.drawings]
    return View(
        anchor=anchor,
        name=clip(comparison.name, 60),
        title=clip(comparison.title, 200),
        source=clip(f"{comparison.paper}, {comparison.printed}", 200),
        scale=clip(comparison.scale, 60),
        reading=clip(reading(comparison), 20_000),
        caption=caption(comparison),
        grid=grid(comparison),
        measured=f"{measured:,} of {len(comparison.cells):,}" if comparison.cells else NONE,
        tau=_spread([tau for tau in taus(comparison).values() if tau is not None]),
        pictures=tuple((clip(drawing, 200), _data_url(drawing, content)) for drawing, content in drawn),
        provenance=provenance(comparison),
        command=clip(comparison.command, 2000),
    )


def _spread(found: list[float]) -> str:
    if not found:
        return NONE
    return " to ".join(dict.fromkeys((f"{min(found):.2f}", f"{max(found):.2f}")))


def _data_url(drawing: str, content: bytes | None) -> str:
    kind = PICTURES.get(PurePosixPath(drawing).suffix.lower())
    return "" if content is None or kind is None else f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("unmask.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _text(name: str) -> str:
    return (resources("unmask.report") / "templates" / name).read_text(encoding="utf-8")
