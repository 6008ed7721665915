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
from unmask.report import charts, words
from unmask.report.curves import Histograms, Plot, together
from unmask.report.table import summary_rows
from unmask.report.views import RunView, incomparable, run_view

MOST_NUMBERS = 60

Specs = dict[str, charts.Spec]


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Write the report of one or several runs to the HTML file `path`, whole or not at all, and return its path.

    Raises LedgerError for damaged runs or none at all, OutputError where the file cannot be written.
    """
    page = render(runs)
    files.make_folder(path.parent)
    # A lone surrogate is the one character of a recorded text that a file cannot hold.
    files.write_atomic(path, page.encode("utf-8", "replace"))
    return path


def render(runs: Sequence[Run]) -> str:
    """Return the report of one or several runs as an HTML page that needs no network and runs no script but its own.

    Raises LedgerError for damaged runs or none at all.
    """
    if not runs:
        raise LedgerError("A report needs at least one run; none was given. Name one or several run directories.")
    rows = summary_rows(runs)
    views = [run_view(run, row, f"run-{i}") for i, (run, row) in enumerate(zip(runs, rows, strict=True), start=1)]
    shared = _shared_plots(views)
    specs = _plot_specs("all", shared)
    for view in views:
        specs |= _plot_specs(view.anchor, view.plots) | _histogram_specs(view.anchor, view.histograms)
    scripts = [charts.javascript(), _text("report.js")]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            views=views,
            shared=shared,
            differences=incomparable(runs),
            style=Markup(_text("report.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            data=_for_script({"config": charts.CONFIG, "specs": specs}),
        )
    )


def _shared_plots(views: Sequence[RunView]) -> tuple[Plot, ...]:
    """Return the plots that show all runs at once: accuracy against cost and against eps."""
    if len(views) < 2:
        return ()
    names = [view.summary.name for view in views]
    return tuple(together([view.plots[i] for view in views], names) for i in range(2))


def _plot_specs(anchor: str, plots: Sequence[Plot]) -> Specs:
    return {f"{anchor}-plot-{i}": charts.line_chart(plot) for i, plot in enumerate(plots) if plot.curves}


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
    for name in ("percent", "bound", "points", "number", "first"):
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
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
