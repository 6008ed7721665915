"""The report: one offline HTML file, a pure function of the runs it shows."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unmask import files
from unmask.errors import LedgerError
from unmask.ledger import Run
from unmask.ledger.diagnosis import Diagnosis
from unmask.ledger.queries import attack_table
from unmask.report import charts, words
from unmask.report.curves import Histograms, Plot, together
from unmask.report.gallery import Gallery, gallery_beside
from unmask.report.paired import paired
from unmask.report.relief import relief_chart
from unmask.report.studies import of_runs
from unmask.report.table import SummaryRow, attacks_to_csv, attacks_to_latex, summary_rows, to_csv, to_latex
from unmask.report.views import MOST_ATTACKS, RunView, incomparable, run_view

MOST_NUMBERS = 60
GALLERY_SCRIPTS = ("filters.js", "gallery.js")
SCRIPTS = ("tabs.js", "tables.js", *GALLERY_SCRIPTS, "downloads.js", "relief.js", "charts.js")

_MARKUP = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&"})

Specs = dict[str, charts.Spec]


def write_report(runs: Sequence[Run], path: Path, diagnoses: Sequence[Diagnosis] = ()) -> Path:
    """Write the report of one or several runs to the HTML file `path`, whole or not at all, and return its path.

    `diagnoses` are shown with the runs of their models. A run with more images than the page shows gets a page of them
    beside it, `<name>-images-1.html` and so on. Raises LedgerError for damaged runs, none at all or a diagnosis of
    another model, OutputError where a file cannot be written.
    """
    larger = [gallery_beside(run) for run in runs]
    beside = ["" if found is None else f"{path.stem}-images-{i}.html" for i, found in enumerate(larger, start=1)]
    page = render(runs, diagnoses, beside)
    files.make_folder(path.parent)
    _write(path, page)
    for row, name, found in zip(summary_rows(runs), beside, larger, strict=True):
        if found is not None:
            _write(path.with_name(name), render_gallery(row.name, found))
    return path


def _write(path: Path, page: str) -> None:
    # A lone surrogate is the one character of a recorded text that a file cannot hold.
    files.write_atomic(path, page.encode("utf-8", "replace"))


def render(runs: Sequence[Run], diagnoses: Sequence[Diagnosis] = (), beside: Sequence[str] = ()) -> str:
    """Return the report of one or several runs as an HTML page that needs no network and runs no script but its own.

    `diagnoses` are shown with the runs of their models. `beside`: for each run the name of the file with more of its
    images, "" for none. Raises LedgerError for damaged runs, none at all, or a diagnosis of another model.
    """
    if not runs:
        raise LedgerError("A report needs at least one run; none was given. Name one or several run directories.")
    rows, studied = summary_rows(runs), of_runs(runs, diagnoses)
    views = [
        run_view(run, row, f"run-{i}", findings)
        for i, (run, row, findings) in enumerate(zip(runs, rows, studied, strict=True), start=1)
    ]
    shared = _shared_plots(views)
    pairs, pairs_hidden = paired(runs, rows)
    specs = _plot_specs("all", shared)
    for view in views:
        specs |= _specs(view)
    scripts = [charts.javascript(), "\n".join(map(_text, SCRIPTS))]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            views=views,
            shared=shared,
            pairs=pairs,
            pairs_hidden=pairs_hidden,
            differences=incomparable(runs),
            beside=beside or [""] * len(runs),
            style=Markup(_text("report.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            data=_for_script({"config": charts.CONFIG, "specs": specs, "files": _downloads(runs, rows)}),
        )
    )


def render_gallery(name: str, found: Gallery) -> str:
    """Return the images of the run called `name` as an HTML page of their own."""
    scripts = ["\n".join(map(_text, GALLERY_SCRIPTS))]
    return (
        _environment()
        .get_template("gallery.html.j2")
        .render(
            name=name,
            gallery=found,
            style=Markup(_text("report.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
        )
    )


def _downloads(runs: Sequence[Run], rows: Sequence[SummaryRow]) -> dict[str, dict[str, str]]:
    """Return the files that the page offers, by their keys in the template."""
    found = {"summary": {"name": "summary", "csv": to_csv(rows), "tex": to_latex(rows)}}
    for place, (run, row) in enumerate(zip(runs, rows, strict=True), start=1):
        table = attack_table(run)[:MOST_ATTACKS]
        texts = {"csv": attacks_to_csv(table), "tex": attacks_to_latex(table, len(run.ids))}
        found[f"run-{place}-attacks"] = {"name": f"{row.name} attacks", **texts}
    return found


def _shared_plots(views: Sequence[RunView]) -> tuple[Plot, ...]:
    """Return the plots that show all runs at once: accuracy against cost and against eps."""
    if len(views) < 2:
        return ()
    names = [view.summary.name for view in views]
    return tuple(together([view.plots[i] for view in views], names) for i in range(2))


def _plot_specs(anchor: str, plots: Sequence[Plot]) -> Specs:
    return {f"{anchor}-plot-{i}": charts.line_chart(plot) for i, plot in enumerate(plots) if plot.curves}


def _specs(view: RunView) -> Specs:
    """Return the charts of one run by the keys of their places in the template."""
    anchor, found = view.anchor, view.studies
    heat = {f"{anchor}-heat": charts.heat_chart(found.heat)} if found.heat is not None else {}
    return {
        **_plot_specs(anchor, view.plots),
        **_histogram_specs(anchor, view.histograms),
        **heat,
        **{f"{anchor}-relief-{i}": relief_chart(relief) for i, relief in enumerate(found.reliefs)},
        **{f"{anchor}-bins-{i}": charts.bins_chart(bins) for i, bins in enumerate(found.bins)},
        **_plot_specs(f"{anchor}-study", view.study_plots),
    }


def _histogram_specs(anchor: str, group: Histograms) -> Specs:
    return {f"{anchor}-losses-{i}": charts.histogram_chart(panel, group) for i, panel in enumerate(group.panels)}


# ------------------------------------------------------------------------------------------------- into the template


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unmask.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "bound", "points", "number", "signed_points", "chance", "first"):
        environment.filters[name] = getattr(words, name)
    environment.globals.update(interval=words.interval, dash=words.NONE, most_numbers=MOST_NUMBERS)
    return environment


@cache
def _text(name: str) -> str:
    return (resources("unmask.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: nothing is fetched, and no script runs but these, known by their hashes."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _for_script(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in, whatever its strings hold."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_MARKUP))
