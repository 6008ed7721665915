"""The charts as Vega-Lite specifications, built with Altair; their colours are CSS variables and follow the page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from unmask.report.curves import Curve, Histogram, Histograms, Plot
from unmask.report.studies import Bins, Heat

Spec = dict[str, Any]

COLOURS = 8
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

CONFIG: Spec = {
    "background": "transparent",
    "font": _FONT,
    "padding": {"left": 2, "right": 8, "top": 6, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--hairline)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelOverlap": True,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
    "legend": {"labelColor": "var(--ink)", "labelFontSize": 12, "symbolStrokeWidth": 2.5, "labelLimit": 240},
    "text": {"fontSize": 11, "fill": "var(--ink)"},
}


@cache
def javascript() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version that this Altair writes for."""
    snippet = "window.vegaEmbed = vegaEmbed;"
    return vl_convert.javascript_bundle(snippet, alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0])


def _over(rows: list[Spec]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=rows))


def line_chart(plot: Plot) -> Spec:
    """Return the Vega-Lite specification of a plot with at least one curve, as wide as the page gives it room."""
    values = [row for curve in plot.curves for row in _rows(curve)]
    names = [curve.name for curve in plot.curves]
    base = _over(values).encode(
        x=alt.X("x:Q", title=plot.x_title, scale=_x_scale(plot), axis=_x_axis(plot)),
        y=alt.Y("accuracy:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5)),
        tooltip=_tooltip(many=len(names) > 1),
    )
    line: alt.Chart = base.mark_line(interpolate="step-after" if plot.stepwise else "linear", strokeWidth=2)
    dots: alt.Chart = base.mark_circle(size=34, opacity=1)
    if len(names) > 1:
        line = line.encode(color=_colour(names), strokeDash=_dash(names))
        dots = dots.encode(color=_colour(names))
    else:
        line, dots = line.encode(color=alt.value("var(--accent)")), dots.encode(color=alt.value("var(--accent)"))
    layers = [line, dots] if len(values) <= 120 else [line]
    return _finished(alt.layer(*layers, *_marks(plot)), plot.title, height=240)


def _rows(curve: Curve) -> Iterator[Spec]:
    for x, accuracy, point in zip(curve.x, curve.accuracy, curve.points, strict=True):
        yield {"x": x, "accuracy": accuracy, "point": point, "name": curve.name}


def _x_scale(plot: Plot) -> alt.Scale:
    if plot.log:
        return alt.Scale(type="log", nice=False, padding=8)
    return alt.Scale(nice=False, zero=True)


def _x_axis(plot: Plot) -> alt.Axis:
    if plot.log:
        return alt.Axis(format=",~r", tickCount=6, labelFlush=False)
    whole = all(x.is_integer() for curve in plot.curves for x in curve.x)
    return alt.Axis(tickCount=6, tickMinStep=1, format="d") if whole else alt.Axis(tickCount=6)


def _tooltip(many: bool) -> list[alt.Tooltip]:
    shown = [
        alt.Tooltip("point:N", title="at"),
        alt.Tooltip("accuracy:Q", title="accuracy", format=".1%"),
        alt.Tooltip("x:Q", title="x", format=",.4~r"),
    ]
    return [alt.Tooltip("name:N", title="curve"), *shown] if many else shown


def _colour(names: list[str]) -> alt.Color:
    colours = [f"var(--series-{i % COLOURS + 1})" for i in range(len(names))]
    return alt.Color("name:N", title=None, legend=_legend(), scale=alt.Scale(domain=names, range=colours))


def _dash(names: list[str]) -> alt.StrokeDash:
    dashes = [_DASHES[i % len(_DASHES)] for i in range(len(names))]
    return alt.StrokeDash("name:N", title=None, legend=_legend(), scale=alt.Scale(domain=names, range=dashes))


def _legend() -> alt.Legend:
    return alt.Legend(orient="bottom", direction="vertical", symbolType="stroke", symbolSize=300)


def _marks(plot: Plot) -> Iterator[alt.Chart]:
    for mark in plot.marks:
        data = _over([{"x": mark.x, "accuracy": mark.accuracy, "text": mark.text}])
        if mark.accuracy is None:
            yield data.mark_rule(strokeDash=[3, 3], stroke="var(--muted)").encode(x="x:Q")
            yield data.mark_text(align="left", dx=5, y=8).encode(x="x:Q", text="text:N")
        else:
            ring = data.mark_point(size=130, stroke="var(--ink)", strokeWidth=1.5, filled=False)
            yield ring.encode(x="x:Q", y="accuracy:Q")
            # Below the point where there is no room above it, and towards the side that has more room.
            down, left = (18 if mark.accuracy > 0.9 else -13), _is_right(mark.x, plot)
            text = data.mark_text(align="right" if left else "left", dx=-4 if left else 4, dy=down)
            yield text.encode(x="x:Q", y="accuracy:Q", text="text:N")


def _is_right(x: float, plot: Plot) -> bool:
    points = [point for curve in plot.curves for point in curve.x]
    low, high = min(points), max(points)
    return x * x > low * high if plot.log else 2 * x > low + high


def histogram_chart(panel: Histogram, group: Histograms) -> Spec:
    """Return the histogram of one image's final losses with the line of the error guarantee in red."""
    pairs = zip(group.edges[:-1], group.edges[1:], panel.shares, strict=True)
    values = [{"low": low, "high": high, "share": share} for low, high, share in pairs if share > 0]
    most = max(share for other in group.panels for share in other.shares)
    bars = (
        _over(values)
        .mark_bar(fill="var(--accent)", binSpacing=0.5)
        .encode(
            x=alt.X(
                "low:Q",
                bin="binned",
                title=None,
                scale=alt.Scale(domain=[group.edges[0], group.edges[-1]], nice=False, zero=False),
                axis=alt.Axis(tickCount=4, format="~g"),
            ),
            x2="high:Q",
            y=alt.Y(
                "share:Q",
                title=None,
                scale=alt.Scale(domain=[0, most], nice=False),
                axis=alt.Axis(format="%", tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("low:Q", title="loss from", format=".3~g"),
                alt.Tooltip("high:Q", title="to", format=".3~g"),
                alt.Tooltip("share:Q", title="restarts", format=".1%"),
            ],
        )
    )
    line = _over([{"x": group.guarantee}]).mark_rule(stroke="var(--guarantee)", strokeWidth=2)
    name = f"Losses of image {panel.example}"
    return _finished(alt.layer(bars, line.encode(x="x:Q")), name, height=110)


def bins_chart(bins: Bins) -> Spec:
    """Return the histogram of one quantity over the images, its marked value as a dashed line."""
    pairs = zip(bins.edges[:-1], bins.edges[1:], bins.shares, strict=True)
    values = [{"low": low, "high": high, "share": share} for low, high, share in pairs if share > 0]
    domain = alt.Scale(domain=[bins.edges[0], bins.edges[-1]], nice=False, zero=False)
    bars = (
        _over(values)
        .mark_bar(fill="var(--accent)", binSpacing=0.5)
        .encode(
            x=alt.X("low:Q", bin="binned", title=None, scale=domain, axis=alt.Axis(tickCount=5, format="~g")),
            x2="high:Q",
            y=alt.Y("share:Q", title=None, axis=alt.Axis(format="%", tickCount=3)),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".3~g"),
                alt.Tooltip("high:Q", title="to", format=".3~g"),
                alt.Tooltip("share:Q", title="images", format=".1%"),
            ],
        )
    )
    marks = [_over([{"x": bins.mark}]).mark_rule(strokeDash=[4, 3], stroke="var(--ink)").encode(x="x:Q")]
    return _finished(alt.layer(bars, *(marks if bins.mark is not None else [])), bins.title, height=130)


def heat_chart(heat: Heat) -> Spec:
    """Return the accuracy by steps and step size as cells on one scale, 0 to 100%, with the two marked settings."""
    cells = [
        {"steps": steps, "size": size, "accuracy": accuracy, "percent": 100 * accuracy}
        for size, row in zip(heat.step_sizes, heat.accuracy, strict=True)
        for steps, accuracy in zip(heat.steps, row, strict=True)
    ]
    across = alt.X("steps:N", title="steps", sort=list(heat.steps), axis=alt.Axis(labelAngle=0))
    up = alt.Y("size:N", title="step size", sort=list(reversed(heat.step_sizes)))
    tooltip = [
        alt.Tooltip("accuracy:Q", title="accuracy", format=".1%"),
        alt.Tooltip("steps:N", title="steps"),
        alt.Tooltip("size:N", title="step size"),
    ]
    legend = alt.Legend(format="%", orient="right", gradientLength=140, tickCount=3)
    colour = alt.Color("accuracy:Q", title=None, legend=legend, scale=alt.Scale(scheme="viridis", domain=[0, 1]))
    base = _over(cells).encode(x=across, y=up, tooltip=tooltip)
    layers: list[alt.Chart] = [base.mark_rect().encode(color=colour)]
    if len(heat.steps) <= 10 and len(heat.step_sizes) <= 12:
        # Viridis is dark below about 60%.
        ink = alt.condition("datum.accuracy < 0.6", alt.value("#fff"), alt.value("#000"))
        layers.append(base.mark_text(fontSize=11).encode(text=alt.Text("percent:Q", format=".0f"), color=ink))
    for shape, place in (("circle", heat.usual), ("square", heat.lowest)):
        if place is not None:
            at = _over([{"size": heat.step_sizes[place[0]], "steps": heat.steps[place[1]]}])
            for stroke, width in (("#000", 3.5), ("#fff", 1.5)):
                mark = at.mark_point(shape=shape, size=900, stroke=stroke, strokeWidth=width, filled=False)
                layers.append(mark.encode(x=across, y=up))
    return _finished(alt.layer(*layers), "Accuracy by steps and step size", height=300)


def _finished(chart: alt.LayerChart | alt.FacetChart, description: str, height: int) -> Spec:
    sized = chart.properties(
        width="container",
        height=height,
        description=description,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    spec: Spec = sized.to_dict()
    del spec["config"]  # Altair's defaults; the page gives CONFIG once for all charts
    return spec
