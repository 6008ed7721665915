"""Reports: tables, charts and one offline HTML page, all pure functions of recorded runs."""

from unmask.report.junit import write_junit
from unmask.report.page import render, write_report
from unmask.report.table import COLUMNS, NUMERIC, SummaryRow, cells, summary_rows, to_csv, to_latex, to_markdown

__all__ = [
    "COLUMNS",
    "NUMERIC",
    "SummaryRow",
    "cells",
    "render",
    "summary_rows",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_junit",
    "write_report",
]
