"""Tables as TOML text. Reading it is the standard library's `tomllib`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml(table: Mapping[str, Any]) -> str:
    """Return a table of plain values as TOML: plain keys first, then tables and lists of tables under headings."""
    return "\n".join(_lines(table, ())) + "\n"


def inline(value: Any) -> str:
    """Return one plain value as TOML on one line; floats keep every bit."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(name)} = {inline(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return repr(value)


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    headed = {name: value for name, value in table.items() if _is_headed(value)}
    lines = [f"{_key(name)} = {inline(value)}" for name, value in table.items() if name not in headed]
    for name, value in headed.items():
        here = (*path, _key(name))
        title = ".".join(here)
        parts = [(f"[[{title}]]", one) for one in value] if isinstance(value, list) else [(f"[{title}]", value)]
        for heading, part in parts:
            lines += ["", heading, *_lines(part, here)]
    return lines


def _is_headed(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    )


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else inline(name)
