"""What the page draws of a diagnosis agrees with its evidence; evidence of another form is left out."""

import json

import pytest
import vl_convert

from unmask.report import charts
from unmask.report.curves import eps_plot, study_plots
from unmask.report.relief import relief_chart
from unmask.report.studies import of_runs, studies, with_findings


@pytest.fixture
def findings(diagnosis):
    return list(diagnosis.findings.values())


def changed(finding, **evidence):
    return finding.model_copy(update={"evidence": finding.evidence | evidence})


def of(diagnosis, study, **evidence):
    """Return what is drawn of one study with other evidence."""
    return studies([changed(diagnosis.findings[study], **evidence)], "linf")


def test_the_heatmap_keeps_its_cells_and_marks_two_of_them(findings):
    heat = studies(findings, "linf").heat
    assert heat.accuracy[2] == (0.4, 0.6)
    assert (heat.usual, heat.lowest) == ((0, 1), (2, 0))
    assert heat.caption.startswith("From 40.0% to 90.0%")
    svg = vl_convert.vegalite_to_svg({**charts.heat_chart(heat), "width": 400})
    assert all(f">{share}<" in svg for share in (90, 80, 70, 50, 40, 60))


def test_a_surface_runs_to_the_right_along_its_first_direction(findings):
    relief, flat = studies(findings, "linf").reliefs
    # Rows from above: the second direction at its greatest first.
    assert relief.loss == ((0.3, 1.3, 2.4), (0.2, 1.2, 2.2), (0.1, 1.1, 2.1))
    assert (relief.title, relief.names) == ("image 1003", ("random", "adversarial"))
    assert set(flat.loss[0]) == {0.5}


def drawn(relief):
    spec = relief_chart(relief)
    spec["signals"] = [{"name": "width", "value": 200}, {"name": "height", "value": 200}]
    return vl_convert.vega_to_svg(spec)


def test_contours_mark_the_guarantee_where_the_surface_reaches_it(findings):
    relief, flat = studies(findings, "linf").reliefs
    assert drawn(relief).count('stroke="var(--guarantee)"') == 1
    assert "NaN" not in drawn(flat)
    assert json.dumps(relief_chart(flat))


def test_a_surface_with_a_hole_is_left_out(diagnosis):
    surface = diagnosis.findings["surface"]
    holed = [[[None, 0.2, 0.3], *surface.evidence["loss"][0][1:]], surface.evidence["loss"][1]]
    assert [relief.title for relief in of(diagnosis, "surface", loss=holed).reliefs] == ["image 1005"]


def test_histograms_hold_every_image_or_say_how_many_not(findings):
    bins = studies(findings, "linf").bins
    assert [part.title for part in bins] == ["Logit gap", "Gradient gap", "Linearised eps", "Cosine of the gradients"]
    assert [round(sum(part.shares), 6) for part in bins] == [1.0, 1.0, 0.75, 1.0]
    assert [part.left_out for part in bins] == [0, 0, 1, 0]
    assert [part.mark for part in bins] == [None, None, 0.2, None]
    svg = vl_convert.vegalite_to_svg({**charts.bins_chart(bins[2]), "width": 200})
    assert 'stroke="var(--ink)"' in svg


@pytest.mark.parametrize(
    ("study", "evidence"),
    [
        ("heatmap", {"accuracy": [[0.5]]}),
        ("heatmap", {"usual": "</script>"}),
        ("heatmap", {"steps": list(range(1, 2001)), "accuracy": [[0.5] * 2000] * 3}),
        ("surface", {"axis": [0.2, 0.0, -0.2]}),
        ("surface", {"loss": [[["<b>"] * 3] * 3] * 2}),
        ("linearised", {"logit_gap": "all of them"}),
    ],
)
def test_evidence_of_another_form_or_size_is_left_out(diagnosis, study, evidence):
    found = of(diagnosis, study, **evidence)
    assert (found.heat, found.reliefs, found.bins) == (None, (), ())


def test_a_diagnosis_goes_before_the_audit_s_own_check(run, diagnosis, findings):
    longer = changed(run.findings[0], eps=[0.0, 0.1, 0.3], accuracy=[1.0, 0.9, 0.1], n=500)
    [curve] = eps_plot(with_findings(run, [*findings, longer])).curves
    assert curve.accuracy == (1.0, 0.9, 0.1)
    assert eps_plot(with_findings(run, findings)) == eps_plot(run)


def test_curves_of_studies_are_drawn_over_their_counts(run, diagnosis, findings):
    [plot] = study_plots(with_findings(run, findings))
    assert (plot.x_title, plot.log) == ("steps of PGD", True)
    assert (plot.curves[0].x, plot.curves[0].accuracy) == ((1.0, 10.0, 100.0), (0.9, 0.6, 0.4))
    spoiled = changed(diagnosis.findings["step-curve"], steps=[0, 10, 100])
    assert study_plots(with_findings(run, [spoiled])) == ()


def test_findings_go_to_the_runs_of_their_model(run, story, diagnosis, findings):
    assert of_runs([run, run], [diagnosis]) == [findings, findings]
    assert of_runs([run], []) == [[]]
