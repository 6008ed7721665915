"""Figures for print, drawn from made evidence: what they show, the same bytes each time, and hostile names."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from unmask.errors import LedgerError, OutputError
from unmask.report.figures import (
    FORMATS,
    activations_figure,
    curve_figure,
    gallery_figure,
    heatmap_figure,
    histogram_figure,
    linearised_figure,
    logits_figure,
    save,
    surface_figure,
)
from unmask.report.gallery import broken_places
from unmask.report.pictures import colours

KINDS = ["not found", "easily found", "depends on the restart", "easily found", "many restarts needed"]


def heatmap():
    sizes, steps = [2.5 / 255, 10 / 255, 76.5 / 255], [40, 100, 200, 400]
    accuracy = [[0.8 - 0.2 * i - 0.05 * j for j in range(4)] for i in range(3)]
    return {
        "step_sizes": sizes,
        "steps": steps,
        "accuracy": accuracy,
        "usual": [40, 2.5 / 255],
        "lowest_at": [400, 76.5 / 255],
        "eps": 0.3,
        "n": 20,
    }


def histogram():
    losses = [[0.1, 0.2, 0.3, 0.4], [3.0, 4.0, 5.0, 2.0], [0.5, 0.6, 0.7, 2.9], [3.0, 3.0, 3.0, 3.0], [1.0, 1, 1, 2.4]]
    return {"ids": [3, 17, 204, 999, 5000], "losses": losses, "guarantee": math.log(10), "kinds": KINDS, "restarts": 4}


def surface():
    axis = np.linspace(-0.15, 0.15, 7)
    loss = 2 + 10 * axis[:, None] + 0 * axis[None]
    return {
        "ids": [3, 8],
        "directions": ["random", "adversarial"],
        "axis": axis.tolist(),
        "loss": [loss.tolist(), (3 * loss).tolist()],
        "guarantee": math.log(10),
        "eps": 0.1,
        "n": 2,
    }


def eps_curve():
    return {"eps": [0.0, 8 / 255, 16 / 255, 1.0], "accuracy": [0.9, 0.5, 0.25, 0.0], "n": 20, "attack": "pgd"}


def restart_curve():
    return {"restarts": [1, 10, 100], "accuracy": [0.7, 0.6, 0.5], "steps": 40, "n": 20, "attack": "pgd"}


def linearised(scale: float = 1.0):
    spread = np.linspace(0.1, 2, 40)
    return {
        "n": 40,
        "eps": 0.3,
        "logit_gap": (scale * spread).tolist(),
        "gradient_gap": (5 * scale * spread).tolist(),
        "eps_linear": [None, *(0.1 * spread[1:]).tolist()],
        "cosine": np.linspace(-1, 1, 40).tolist(),
        "logits": {"edges": [-1.0 * scale, 0.0, 1.0 * scale], "counts": [10, 30]},
    }


def activations():
    layers = [{"name": "penultimate", "sums": [4.0, 0.0, 2.0], "silent": 1}, {"name": "logits", "sums": [1.0, 3.0]}]
    return {"n": 2, "layers": layers}


DRAWN = {
    "heatmap": (heatmap_figure, heatmap),
    "histogram": (histogram_figure, histogram),
    "surface": (surface_figure, surface),
    "curve": (curve_figure, restart_curve),
    "linearised": (linearised_figure, linearised),
    "logits": (logits_figure, linearised),
    "activations": (activations_figure, activations),
}
NAMES = ("Plain", "CLP", "50% AT + ALP")
WORDS = {
    "heatmap": ["Plain", "50% AT + ALP", "step size (/255)", "steps", "76.5", "the usual attack", "accuracy under"],
    "histogram": ["Plain", "CLP", "easily found", "image 17: 3/4 beyond the line", "ln 10 = 2.30", "restarts (%)"],
    "surface": ["Plain", "CLP", "image 3", "random (/255)", "adversarial (/255)", "cross-entropy"],
    "curve": ["Plain", "CLP", "restarts", "accuracy (%)", "100"],
    "linearised": ["Plain", "CLP", "logit gap", "gradient gap", "linearised eps (/255)", "cosine of the gradients"],
    "logits": ["Plain", "CLP", "logit", "density"],
    "activations": ["Plain (1 of 3 units silent)", "CLP", "penultimate", "logits", "mean |activation|"],
}


def texts(path: Path) -> list[str]:
    """Return the texts of an SVG, which must be well-formed."""
    return ["".join(element.itertext()) for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("kind", "format"), [*product(DRAWN, FORMATS)])
def test_every_figure_in_every_format(tmp_path, kind, format):
    draw, make = DRAWN[kind]
    for count, columns, inches in ((1, 1, 3.4), (3, 2, 7.0)) if format == "svg" else ((3, 2, 7.0),):
        figure = draw([(name, make()) for name in NAMES[:count]], columns=columns)
        assert figure.get_figwidth() == inches and figure.get_figheight() < 9
        path = save(figure, tmp_path / f"{count}.{format}")
        assert path.stat().st_size > 1000
    starts = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}
    assert path.read_bytes().startswith(starts[format])
    if format == "svg":
        shown = "\n".join(texts(path))
        assert [word for word in WORDS[kind] if word not in shown] == []


def test_a_gallery_shows_broken_images_with_their_classes(tmp_path, run, story):
    figure = gallery_figure([("CLP", run), ("again", run)])
    ids, kept = run.adversarial()
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_figwidth() == 7.0 and len(drawn) == 2 * 3 * 8
    place = broken_places(run, 1)[0]
    assert titles[0] == run.spec.data.classes[run.labels[place]]
    assert np.array_equal(drawn[8], colours(kept[ids.tolist().index(run.ids[place])]))
    assert not np.array_equal(drawn[8], drawn[0])
    assert "CLP" in texts(save(figure, tmp_path / "gallery.svg"))
    with pytest.raises(LedgerError, match="broke no image"):
        gallery_figure([("robust", story(breaks=(1.0,) * len(story().breaks)).play())])


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_figure_is_the_same_bytes_and_holds_no_date(tmp_path, format):
    first, second = (
        save(heatmap_figure([("Plain", heatmap())]), tmp_path / f"{word}.{format}").read_bytes() for word in "ab"
    )
    assert first == second
    assert b"CreationDate" not in first and b"dc:date" not in first


HOSTILE = (r"$\frac{1}{0}$ $x", "<b>&\"'", "_hidden", "%s {}")
UNUSABLE = ("x" * 5000, "two\nlines\tand\x00\x1b[31m", "\ud800 half", "")


@pytest.mark.parametrize("kind", DRAWN)
def test_hostile_names_are_drawn_as_they_are(tmp_path, kind):
    draw, make = DRAWN[kind]
    panels = [(name, make()) for name in (*HOSTILE, *UNUSABLE)]
    shown = " ".join(texts(save(draw(panels), tmp_path / "figure.svg")))
    assert [name for name in HOSTILE if name not in shown] == []
    assert "x" * 150 not in shown and not re.search("[\x00-\x08\x1b]", shown)


def test_the_heatmap_marks_the_usual_setting_where_it_is():
    (axes, _bar) = heatmap_figure([("Plain", heatmap())]).axes
    marks = {line.get_gid(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert marks == {"usual": (0, 0), "lowest": (3, 2)}
    (image,) = axes.images
    assert np.allclose(image.get_array(), 100 * np.array(heatmap()["accuracy"])) and image.get_clim() == (0, 100)
    assert {text.get_text() for text in axes.texts} >= {"80", "25"}
    (axes, _) = heatmap_figure([("Plain", heatmap() | {"lowest_at": heatmap()["usual"]})]).axes
    assert {line.get_gid() for line in axes.lines} == {"usual"}
    between = heatmap() | {"usual": [70, 40 / 255]}
    (axes, _) = heatmap_figure([("Plain", between)]).axes
    mark = next(line for line in axes.lines if line.get_gid() == "usual")
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx((0.5, 1 + 30 / 66.5))


def test_histograms_show_one_image_of_each_kind_and_the_guarantee():
    figure = histogram_figure([("CLP", histogram())], images=4)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split("\n")[0] for title in titles] == [
        "easily found",
        "depends on the restart",
        "many restarts needed",
        "not found",
    ]
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_gid() == "guarantee"]
        assert line.get_xdata()[0] == pytest.approx(math.log(10))
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)


def test_surfaces_lie_the_right_way_round():
    solid, flat, _ = surface_figure([("CLP", surface())], image=8).axes
    assert solid.get_title() == "CLP\nimage 8"
    (mesh,) = [part for part in flat.collections if part.get_array() is not None and part.get_array().size == 49]
    values = np.asarray(mesh.get_array()).reshape(7, 7)
    assert np.allclose(values, values[:1]) and (np.diff(values[0]) > 0).all()
    assert flat.get_xlabel() == "random (/255)"
    assert [line.get_gid() for line in flat.lines] == ["image", "ball"]
    with pytest.raises(LedgerError, match="no image 4"):
        surface_figure([("CLP", surface())], image=4)


def test_curves_share_their_look_and_leave_out_the_unbounded_attack():
    panels = [("Plain", eps_curve()), ("CLP", eps_curve()), ("CLP", restart_curve())]
    figure = curve_figure(panels)
    eps, restarts = figure.axes
    assert [line.get_label() for line in eps.lines] == ["Plain", "CLP"]
    assert eps.lines[0].get_xdata() == pytest.approx([0, 8, 16]) and eps.get_xlabel() == "eps (/255)"
    assert restarts.get_xscale() == "log" and len(restarts.lines[0].get_xdata()) == 0
    assert eps.lines[1].get_color() == restarts.lines[1].get_color() != eps.lines[0].get_color()
    assert eps.lines[1].get_linestyle() == restarts.lines[1].get_linestyle() != eps.lines[0].get_linestyle()


def test_other_norms_are_not_shown_in_255ths():
    panels = [("L2", eps_curve() | {"norm": "l2"})]
    (axes,) = curve_figure(panels).axes
    assert axes.get_xlabel() == "eps (l2)" and axes.lines[0].get_xdata()[1] == pytest.approx(8 / 255)


def test_gaps_of_very_different_size_share_a_logarithmic_axis():
    figure = linearised_figure([("Plain", linearised(100)), ("LSQ", linearised(0.1))])
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log", "linear", "linear"]
    (eps,) = [line for line in figure.axes[2].lines if line.get_gid() == "eps"]
    assert eps.get_xdata()[0] == pytest.approx(76.5)
    outline = next(patch for patch in figure.axes[2].patches if patch.get_gid() == "Plain")
    assert outline.get_data().values.sum() == pytest.approx(100 * 39 / 40)  # one image has no finite eps


def test_units_are_sorted_and_averaged_over_images():
    figure = activations_figure([("Plain", activations())])
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([2, 1, 0])


@pytest.mark.parametrize(
    ("draw", "evidence", "fault"),
    [
        (heatmap_figure, {}, "step_sizes"),
        (heatmap_figure, heatmap() | {"accuracy": [[0.5]]}, "one row per step size"),
        (heatmap_figure, heatmap() | {"steps": [400, 40, 1, 2]}, "ascend"),
        (heatmap_figure, heatmap() | {"accuracy": [[7.0] * 4] * 3}, "accuracy"),
        (histogram_figure, histogram() | {"ids": [1]}, "differ in number"),
        (histogram_figure, histogram() | {"guarantee": None}, "guarantee"),
        (surface_figure, surface() | {"loss": [[[1.0]]]}, "square"),
        (surface_figure, surface() | {"loss": [[[None] * 7] * 7] * 2}, "missing"),
        (curve_figure, {"accuracy": [0.5]}, "exactly one"),
        (curve_figure, eps_curve() | {"eps": [0.0, "x", 1.0, 2.0]}, "eps"),
        (logits_figure, linearised() | {"logits": {"edges": [0.0], "counts": [1]}}, "edges"),
        (activations_figure, {"n": 0, "layers": []}, "n"),
    ],
)
def test_other_evidence_is_refused_by_name(draw, evidence, fault):
    with pytest.raises(LedgerError, match=fault) as caught:
        draw([("Plain", evidence)])
    assert "'Plain'" in str(caught.value)


def test_flat_and_single_values_are_drawn(tmp_path):
    level = surface() | {"loss": [[[0.0] * 7] * 7] * 2}
    same = linearised() | {name: [1.0] * 40 for name in ("logit_gap", "gradient_gap", "eps_linear")}
    nothing = linearised() | {name: [None] * 40 for name in ("logit_gap", "gradient_gap", "eps_linear", "cosine")}
    holes = surface() | {"loss": [[[None] + [1.0] * 6] * 7] * 2}
    huge = histogram() | {"losses": [[3.4e38, 0.0]] * 5}
    one = heatmap() | {"step_sizes": [0.1], "steps": [40], "accuracy": [[0.5]], "usual": [40, 0.1]}
    for number, figure in enumerate(
        (
            surface_figure([("a", level)]),
            surface_figure([("a", holes)]),
            linearised_figure([("a", same), ("b", nothing)]),
            histogram_figure([("a", huge)]),
            heatmap_figure([("a", one)]),
            curve_figure([("a", {"steps": [40], "accuracy": [0.5]})]),
        )
    ):
        assert save(figure, tmp_path / f"{number}.png").stat().st_size > 1000


def test_unknown_formats_and_places_are_refused(tmp_path):
    figure = curve_figure([("Plain", eps_curve())])
    with pytest.raises(OutputError, match="gif"):
        save(figure, tmp_path / "figure.gif")
    with pytest.raises(OutputError, match="absent"):
        save(figure, tmp_path / "absent" / "figure.pdf")
    with pytest.raises(LedgerError, match="nothing to draw"):
        heatmap_figure([])


def test_the_style_sheet_holds_no_error(caplog):
    with caplog.at_level(logging.WARNING):
        curve_figure([("Plain", eps_curve())])
    assert caplog.text == ""


def test_reports_load_no_matplotlib_and_figures_no_torch():
    code = """
import sys
import unmask.report, unmask.cli.app
assert "matplotlib" not in sys.modules
from unmask.report.figures import curve_figure
assert "matplotlib" not in sys.modules
curve_figure([("a", {"steps": [1, 2], "accuracy": [1.0, 0.5]})])
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
