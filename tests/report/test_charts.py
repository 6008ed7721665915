"""The specifications draw, hold their own data, and take their colours from the page."""

import json
import re

import pytest
import vl_convert

from unmask.report import charts, curves


def dataset(spec, key):
    """Return the values of one field over all rows of a specification's data."""
    return [row[key] for rows in spec["datasets"].values() for row in rows if key in row]


def drawn(spec):
    """Return the SVG that Vega makes of a specification, at a fixed width."""
    return vl_convert.vegalite_to_svg({**spec, "width": 400, "config": charts.CONFIG})


def test_a_line_chart_draws_its_curve_and_its_mark(run):
    svg = drawn(charts.line_chart(curves.cost_plot(run)))
    assert 'stroke="var(--accent)"' in svg
    assert "after pgd-10" in svg
    assert "evaluations per image" in svg
    assert "NaN" not in svg


def test_the_accuracy_axis_is_always_zero_to_one(run):
    for plot in (curves.cost_plot(run), curves.eps_plot(run), curves.step_plot(run), curves.restart_plot(run)):
        line = charts.line_chart(plot)["layer"][0]
        assert line["encoding"]["y"]["scale"]["domain"] == [0, 1]


def test_several_curves_differ_in_colour_and_in_dash(run):
    plot = curves.together([curves.cost_plot(run)] * 3, ["a", "b", "c"])
    spec = charts.line_chart(plot)
    encoding = spec["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["a", "b", "c"]
    assert len(set(encoding["color"]["scale"]["range"])) == 3
    assert len(set(map(str, encoding["strokeDash"]["scale"]["range"]))) == 3
    svg = drawn(spec)
    assert all(f'stroke="var(--series-{i})"' in svg for i in (1, 2, 3))


def test_a_histogram_draws_the_line_of_the_guarantee(run):
    group = curves.histograms(run)
    spec = charts.histogram_chart(group.panels[0], group)
    assert group.guarantee in dataset(spec, "x")
    svg = drawn(spec)
    assert 'stroke="var(--guarantee)"' in svg
    assert 'fill="var(--accent)"' in svg


def test_all_panels_of_a_group_have_the_same_axes(run):
    group = curves.histograms(run)
    axes = []
    for panel in group.panels:
        encoding = charts.histogram_chart(panel, group)["layer"][0]["encoding"]
        axes.append((encoding["x"]["scale"]["domain"], encoding["y"]["scale"]["domain"]))
    assert axes[0] == axes[1]


def test_specifications_name_no_address_and_do_not_change(run):
    def specs():
        group = curves.histograms(run)
        plots = [charts.line_chart(plot) for plot in (curves.cost_plot(run), curves.eps_plot(run))]
        return json.dumps([*plots, *(charts.histogram_chart(panel, group) for panel in group.panels)])

    assert specs() == specs()
    addresses = set(re.findall(r"https?://[^\"]+", specs()))
    assert addresses <= {f"https://vega.github.io/schema/vega-lite/{charts.alt.SCHEMA_VERSION}.json"}
    assert '"url"' not in specs()


@pytest.mark.parametrize("word", ["</script", "<!--", "\r"])
def test_the_library_can_stand_in_a_script_element(word):
    assert word not in charts.javascript()
    assert "window.vegaEmbed" in charts.javascript()
