"""What a notebook shows of an audit: the headline, the verdict with its reasons, the attacks, the findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment

from unmask.ledger import queries

if TYPE_CHECKING:
    from unmask.audit.runner import AuditResult

SHOWN = Environment(autoescape=True).from_string("""\
<div>
<p>{{ headline }}</p>
<p>Verdict: <b>{{ verdict.label }}</b>. {{ verdict.reasons | join(" ") }}</p>
{% if verdict.change %}<p>What would change it: {{ verdict.change | join(" ") }}</p>{% endif %}
<table style="border-collapse: separate; border-spacing: 0.7em 0.1em">
<thead><tr><th scope="col">attack</th><th scope="col">restarts</th><th scope="col">tried on</th>
<th scope="col">broke</th><th scope="col">accuracy after</th><th scope="col">evaluations</th></tr></thead>
<tbody>
{% for row in rows %}<tr><th scope="row">{{ row.attack }}</th><td>{{ row.restarts }}</td><td>{{ row.attempted }}</td>
<td>{{ row.broken }}</td><td>{{ "%.1f%%" | format(100 * row.accuracy_after) }}</td>
<td>{{ "{:,}".format(row.forwards + row.backwards) }}</td></tr>
{% endfor %}</tbody>
</table>
{% if findings %}<details><summary>{{ findings | length }} findings, {{ doubts }} of them warn or fail</summary>
{{ findings._repr_html_() | safe }}</details>{% endif %}
</div>""")


def result_html(result: AuditResult) -> str:
    """Return a result as HTML with everything in it escaped; attacks that were never run are left out."""
    return SHOWN.render(
        headline=result.headline or "No headline: an image ended in an error or was not attacked by the whole plan.",
        verdict=result.verdict,
        rows=[row for row in queries.attack_table(result.run) if row.attempted],
        findings=result.findings,
        doubts=sum(finding.status in ("warn", "fail") for finding in result.findings),
    )
