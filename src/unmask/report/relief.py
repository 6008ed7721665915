"""The loss around an image as contours, in Vega: Vega-Lite and Altair know none."""

from __future__ import annotations

from typing import Any

from unmask.report.studies import Relief

Spec = dict[str, Any]

LEVELS = 14


def relief_chart(relief: Relief) -> Spec:
    """Return a Vega specification of the loss as contours: the image in the middle, the ball dashed, ln K in red.

    Vega-Lite knows no contours. The values stand in the data set "loss", rows from above, for who draws them otherwise.
    """
    flat = [value for row in relief.loss for value in row]
    low, high = min(flat), max(flat)
    span = [relief.axis[0], relief.axis[-1]]
    grid = {"width": len(relief.axis), "height": len(relief.axis), "values": flat}
    levels = [low + (high - low) * level / LEVELS for level in range(LEVELS)]
    # The transform takes a value to stand in the middle of its cell, half a cell off the lattice point that it is for.
    cells = len(relief.axis) - 1
    half = [{"signal": f"-{side} / {2 * cells}"} for side in ("width", "height")]
    place = {"scale": {"expr": f"[width / {cells}, height / {cells}]"}, "translate": half}

    def contours(name: str, thresholds: list[float]) -> Spec:
        return {
            "name": name,
            "source": "loss",
            "transform": [{"type": "isocontour", "thresholds": thresholds, **place}],
        }

    def lines(name: str, look: Spec) -> Spec:
        return {
            "type": "path",
            "aria": False,
            "clip": True,
            "from": {"data": name},
            "encode": {"enter": look},
            "transform": [{"type": "geopath", "field": "datum.contour"}],
        }

    def axis(orient: str, scale: str, title: str) -> Spec:
        return {"orient": orient, "scale": scale, "title": title, "tickCount": 5, "grid": False, "domain": True}

    return {
        "description": f"Loss around {relief.title}, as contours",
        "padding": 5,
        "autosize": {"type": "fit", "contains": "padding"},
        "signals": [
            {
                "name": "width",
                "init": "containerSize()[0]",
                "on": [{"events": {"source": "window", "type": "resize"}, "update": "containerSize()[0]"}],
            },
            {"name": "height", "update": "width"},
        ],
        "data": [
            {"name": "loss", "values": [grid]},
            contours("contours", levels),
            contours("sure", [relief.guarantee]),
        ],
        "scales": [
            {"name": "x", "type": "linear", "domain": span, "range": "width", "nice": False, "zero": False},
            {"name": "y", "type": "linear", "domain": span, "range": "height", "nice": False, "zero": False},
            {"name": "colour", "type": "linear", "domain": [low, high], "range": {"scheme": "viridis"}},
        ],
        "axes": [axis("bottom", "x", relief.names[0]), axis("left", "y", relief.names[1])],
        "marks": [
            lines(
                "contours", {"fill": {"scale": "colour", "field": "contour.value"}, "stroke": {"value": "#ffffff60"}}
            ),
            lines("sure", {"stroke": {"value": "var(--guarantee)"}, "strokeWidth": {"value": 2}}),
            {
                "type": "rect",
                "aria": False,
                "clip": True,
                "encode": {
                    "enter": {
                        "x": {"scale": "x", "value": -relief.eps},
                        "x2": {"scale": "x", "value": relief.eps},
                        "y": {"scale": "y", "value": relief.eps},
                        "y2": {"scale": "y", "value": -relief.eps},
                        "stroke": {"value": "#ffffff"},
                        "strokeDash": {"value": [4, 3]},
                    }
                },
            },
            {
                "type": "symbol",
                "aria": False,
                "encode": {
                    "enter": {
                        "x": {"scale": "x", "value": 0},
                        "y": {"scale": "y", "value": 0},
                        "size": {"value": 50},
                        "fill": {"value": "#ffffff"},
                        "stroke": {"value": "#000000"},
                    }
                },
            },
        ],
    }
