"""Sphinx configuration: Markdown pages, and one API page per room, written from the package itself."""

import importlib
import pkgutil
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

project = "unmask"
author = "The unmask authors"
copyright = f"2026, {author}"
release = version = installed_version(project)

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# The notebook is kept without outputs and run anew with every build, which fails where a cell does.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# Docstrings are prose with code in single backticks (see `escape_prose`).
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "unmask"

NO_LIBRARY = {"cli", "__main__"}


def parts(package: ModuleType) -> list[str]:
    """Return the public modules of a package, but for those that an export of the same name hides (`attacks.pgd`)."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    return [name for name in names if isinstance(getattr(package, name, None), ModuleType | None)]


def directive(module: str, exclude: list[str]) -> str:
    """Return the reST that documents a module, less the names that stand elsewhere on the page."""
    lines = [f".. automodule:: {module}"]
    if exclude:
        lines.append(f"   :exclude-members: {', '.join(exclude)}")
    return "\n".join(lines)


def page(room: str) -> str:
    """Return the reST page of a room: what it exports first, then what its parts hold besides."""
    name = f"unmask.{room}"
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", ()))
    blocks = [f"{name}\n{'=' * len(name)}", directive(name, [])]
    for part in parts(module) if hasattr(module, "__path__") else ():
        blocks += [f"{name}.{part}\n{'-' * len(f'{name}.{part}')}", directive(f"{name}.{part}", exported)]
    return "\n\n".join(blocks) + "\n"


def write_api_pages(app: Sphinx) -> None:
    """Write docs/api/<room>.rst for every room of the library; a page that did not change keeps its date."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    package = importlib.import_module("unmask")
    rooms = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in NO_LIBRARY]
    for room in rooms:
        path, text = folder / f"{room}.rst", page(room)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for stale in set(folder.glob("*.rst")) - {folder / f"{room}.rst" for room in rooms}:
        stale.unlink()


def escape_markup(line: str) -> str:
    """Escape what reST would read as markup, outside backticks."""
    spans = re.split(r"(`[^`]*`)", line)
    return "".join(span if span.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", span) for span in spans)


def escape_prose(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let docstrings say `(B, *shape)` or `|x|_1` without backticks: their prose holds no markup but these."""
    lines[:] = [escape_markup(line) for line in lines]


def setup(app: Sphinx) -> None:
    """Hook in the API pages before Sphinx looks for its sources, and the reading of docstrings."""
    app.connect("builder-inited", write_api_pages)
    app.connect("autodoc-process-docstring", escape_prose)
