"""What a check found: a status, the figures behind it, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jinja2 import Environment

Status = Literal["ok", "warn", "fail", "not_applicable"]

# In a notebook: the colour stands beside the word, so that nothing hangs on it, and no text is coloured.
COLOURS = {"ok": "#009e73", "warn": "#e69f00", "fail": "#d55e00", "not_applicable": "#888888"}
LONGEST, MOST = 200, 12
SHOWN = Environment(autoescape=True).from_string("""\
<div style="border-left: 4px solid {{ colour }}; padding: 0 0.7em; margin: 0.5em 0">
<div><b>{{ finding.check }}</b>: {{ finding.status.replace("_", " ") }}</div>
<div>{{ finding.summary }}</div>
{% if finding.next_step %}<div><i>Next:</i> {{ finding.next_step }}</div>{% endif %}
{% if evidence %}<details><summary>Evidence</summary>
<table style="border-collapse: separate; border-spacing: 0.7em 0.1em">
{% for name, value in evidence %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></details>{% endif %}
</div>""")


@dataclass(frozen=True)
class Finding:
    """One check's outcome. `evidence` holds plain numbers, strings and lists; passes are example passes in all."""

    check: str
    status: Status
    summary: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    next_step: str = ""
    forwards: int = 0
    backwards: int = 0

    def _repr_html_(self) -> str:
        """Return what a notebook shows: status, sentence, next step, and the evidence folded away; all escaped."""
        evidence = [(name, _short(value)) for name, value in self.evidence.items()]
        return SHOWN.render(finding=self, colour=COLOURS[self.status], evidence=evidence)


class Findings(tuple[Finding, ...]):
    """Findings in the order of their checks; a notebook shows one below the other, what went wrong first."""

    def _repr_html_(self) -> str:
        worst_first = sorted(self, key=lambda finding: ("fail", "warn", "ok", "not_applicable").index(finding.status))
        return "\n".join(finding._repr_html_() for finding in worst_first)


def _short(value: object) -> str:
    """Return a value as text of at most `LONGEST` characters; of a list, `MOST` entries."""
    if isinstance(value, list | tuple):
        entries = [_short(entry) for entry in value[:MOST]] + (["…"] if len(value) > MOST else [])
        text = f"[{', '.join(entries)}]"
    else:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
