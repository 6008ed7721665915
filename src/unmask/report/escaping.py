"""Recorded texts in the languages of documents, so that none can break a table or become markup."""

from __future__ import annotations

import re
import unicodedata

from unmask.report.words import clip

# Braces keep a bracket from being read as an option, a hyphen from joining the next one.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "-": "{-}",
    "`": r"\textasciigrave{}",
    "–": "--",  # noqa: RUF001
    "—": "---",
    "…": r"\dots{}",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",  # noqa: RUF001
    "±": r"$\pm$",
    "α": r"$\alpha$",  # noqa: RUF001
    "β": r"$\beta$",
    "ε": r"$\epsilon$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",  # noqa: RUF001
    "τ": r"$\tau$",
}


def markdown_text(text: str, limit: int = 2000) -> str:
    """Return text as one line of Markdown that shows it as it is, in a table's cell or at the start of a paragraph."""
    shown = clip(text, limit)
    for mark in "\\`*_[]|~$":
        shown = shown.replace(mark, f"\\{mark}")
    line = " ".join(shown.replace("&", "&amp;").replace("<", "&lt;").split())
    return re.sub(r"^(\d*)([#>+=.)-])", r"\1\\\2", line)


def latex_text(text: str, limit: int = 2000) -> str:
    r"""Return text as one line of LaTeX that any engine compiles.

    Accented letters lose their accents, and signs that neither ASCII nor `\to` and its like can show become "?".
    """
    line = " ".join(clip(text, limit).split())
    return "".join(_LATEX.get(sign) or _plain(sign) for sign in line)


def spreadsheet_text(text: str) -> str:
    """Return text as a cell that no spreadsheet runs as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _plain(sign: str) -> str:
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters if letters.isalnum() or letters == sign else "?"
