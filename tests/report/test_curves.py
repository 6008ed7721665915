"""The data behind the charts agrees with the ledger's own queries, and says so where there is none."""

import math

import numpy as np
import pytest

from unmask.ledger import FindingEntry, PlanEntry, ThreatEntry
from unmask.ledger.queries import accuracy_by_restart, accuracy_by_step, attack_table, cost
from unmask.report import curves


def with_evidence(story, check, **changes):
    """Return a run whose finding `check` has other evidence."""
    findings = [
        finding.model_copy(update={"evidence": finding.evidence | changes}) if finding.check == check else finding
        for finding in story().findings
    ]
    return story(findings=findings).play()


def test_accuracy_by_round_agrees_with_the_attack_table(run):
    found = curves.accuracy_by_round(run)
    assert found[[0, 1, 4, 5]] == pytest.approx([row.accuracy_after for row in attack_table(run)])


def test_cost_plot_ends_at_the_whole_cost_and_marks_the_claim(run):
    plot = curves.cost_plot(run)
    [curve], [mark] = plot.curves, plot.marks
    assert curve.x[0] == 1.0
    assert curve.x[-1] == pytest.approx(cost(run).evaluations / 40)
    assert curve.accuracy[-1] == pytest.approx(0.25)
    assert list(curve.x) == sorted(curve.x)
    assert (mark.x, mark.accuracy, mark.text) == (curve.x[1], pytest.approx(0.7), "after pgd-10")
    assert curve.points[2:4] == ("margin", "margin, restart 2")


def test_cost_plot_marks_autoattack_where_it_was_run_whole(story):
    clean, *_ = story().plan
    suite = [PlanEntry(attack=name, role="search") for name in ("apgd-ce", "apgd-t", "fab-t", "square")]
    later = PlanEntry(attack="margin", role="search")
    run = story(plan=(clean, *suite, later), breaks=(0.0, 0.2, 0.1, 0.1, 0.1, 0.1)).play()
    [mark] = curves.cost_plot(run).marks
    assert (mark.text, mark.accuracy) == ("after AutoAttack", pytest.approx(0.5))
    partial = story(plan=(clean, *suite[1:], later), breaks=(0.0, 0.1, 0.1, 0.1, 0.1)).play()
    assert curves.cost_plot(partial).marks == ()


def test_cost_plot_of_a_run_that_has_hardly_begun(story):
    plot = curves.cost_plot(story().play(until=0))
    assert plot.curves == ()
    assert plot.missing


def test_step_plot_agrees_with_the_query(run):
    [curve] = curves.step_plot(run).curves
    assert curve.accuracy == pytest.approx(accuracy_by_step(run, "pgd-10"))
    assert curve.x == tuple(range(11))


def test_step_plot_without_claim_or_steps(story):
    clean, claim, *_ = story().plan
    assert "without a claimed attack" in curves.step_plot(story(plan=(clean,)).play()).missing
    silent = claim.model_copy(update={"settings": {}})
    plot = curves.step_plot(story(plan=(clean, silent), breaks=(0.05, 0.0)).play())
    assert "recorded no steps" in plot.missing


def test_restart_plot_begins_where_the_attack_begins(run):
    plot = curves.restart_plot(run)
    [curve] = plot.curves
    assert curve.accuracy == pytest.approx([0.7, *accuracy_by_restart(run, "margin")])
    assert curve.x == (0, 1, 2, 3)
    assert plot.x_title == "restarts of margin"


def test_restart_plot_without_restarts(story):
    plot = curves.restart_plot(story(plan=story().plan[:2]).play())
    assert "more than once" in plot.missing


def test_a_long_curve_is_thinned_and_still_draws_the_same_line(story):
    restarts = 400
    plan = (PlanEntry(attack="clean", role="clean"), PlanEntry(attack="a", role="search", restarts=restarts))
    breaks = [0.0] + [0.1 if number in (1, 200, 399) else 0.0 for number in range(restarts)]
    run = story(n=10, plan=plan, breaks=breaks).play()
    [curve] = curves.restart_plot(run).curves
    assert len(curve.x) <= curves.MOST_POINTS
    whole = np.concatenate([[1.0], accuracy_by_restart(run, "a")])
    drawn = [curve.accuracy[int(np.searchsorted(curve.x, k, side="right")) - 1] for k in range(restarts + 1)]
    assert drawn == pytest.approx(whole)


def test_more_changes_than_points_keep_both_ends():
    accuracy = np.linspace(1, 0, 5000)
    kept = curves._telling(range(5000), accuracy)
    assert len(kept) <= curves.MOST_POINTS
    assert (kept[0], kept[-1]) == (0, 4999)


def test_eps_plot_draws_the_finding_and_marks_the_audited_size(run):
    plot = curves.eps_plot(run)
    [curve], [mark] = plot.curves, plot.marks
    assert curve.x == (0.0, 0.1, 0.2, 0.4)
    assert curve.accuracy == (1.0, 0.8, 0.35, 0.0)
    assert (mark.x, mark.accuracy) == (0.2, None)
    assert plot.caption == "cosine_pgd, on 40 images."


def test_an_eps_far_beyond_the_others_is_told_not_drawn(story):
    run = with_evidence(story, "eps_curve", eps=[0.0, 0.01, 0.03, 1.0], accuracy=[1.0, 0.8, 0.4, 0.02])
    plot = curves.eps_plot(run)
    assert plot.curves[0].x == (0.0, 0.01, 0.03)
    assert "at eps 1, 2.0% survive" in plot.caption
    assert plot.marks == ()  # 0.2, the audited size, lies beyond the axis as well


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": None},
        {"eps": [0.0, 0.1]},
        {"eps": [0.0, "x", 0.2, 0.4]},
        {"eps": [0.4, 0.2, 0.1, 0.0]},
        {"accuracy": [1.0, 0.8, 0.35, 7.0]},
        {"accuracy": {"a": 1}},
        {"eps": [0.0, 0.1, 0.2, 10**400]},
        {"eps": [True, True, True, True]},
    ],
)
def test_an_eps_curve_of_another_form_is_not_drawn(story, changes):
    plot = curves.eps_plot(with_evidence(story, "eps_curve", **changes))
    assert plot.curves == ()
    assert "not of the expected form" in plot.missing


def test_histograms_share_one_axis_that_reaches_the_guarantee(run):
    found = curves.histograms(run)
    first, second = found.panels
    assert found.guarantee == math.log(10)
    assert found.edges[0] == 0.0
    assert found.edges[-1] > 2.5
    assert sum(first.shares) == pytest.approx(1)
    assert sum(second.shares) == pytest.approx(1)
    assert (first.example, first.kind, first.reached, first.restarts) == (1003, "depends on the restart", 2, 4)
    assert second.reached == 0


def test_a_loss_that_was_not_finite_is_left_out(story):
    run = with_evidence(story, "restart_losses", losses=[[0.1, None, 2.4], [None]])
    [panel] = curves.histograms(run).panels
    assert (panel.example, panel.restarts) == (1003, 2)


@pytest.mark.parametrize("changes", [{"guarantee": None}, {"losses": []}, {"ids": "1003"}, {"losses": [3, 4]}])
def test_losses_of_another_form_are_not_drawn(story, changes):
    found = curves.histograms(with_evidence(story, "restart_losses", **changes))
    assert found.panels == ()
    assert "not of the expected form" in found.missing


def test_many_images_are_counted_and_not_drawn(story):
    changes = {"ids": list(range(30)), "losses": [[1.0, 2.0]] * 30, "kinds": ["not found"] * 30}
    found = curves.histograms(with_evidence(story, "restart_losses", **changes))
    assert (len(found.panels), found.hidden) == (curves.MOST_PANELS, 30 - curves.MOST_PANELS)


def test_without_findings_each_chart_says_why_it_is_absent(story):
    run = story(findings=()).play()
    assert "check was not made" in curves.eps_plot(run).missing
    assert "check was not made" in curves.histograms(run).missing


def test_a_finding_without_evidence_draws_nothing(story):
    empty = FindingEntry(check="eps_curve", status="not_applicable", summary="There are no images to attack.")
    assert curves.eps_plot(story(findings=[empty]).play()).curves == ()


@pytest.mark.parametrize(
    ("text", "size"), [("8/255", 8 / 255), ("0.3", 0.3), ("12", 12.0), ("1/0", None), ("nan", None), ("a/b", None)]
)
def test_an_exact_eps_as_a_number(text, size):
    assert curves._as_float(text) == size


def test_curves_of_several_runs_carry_their_names(run, story):
    plots = [curves.eps_plot(one) for one in (run, story(findings=()).play(), run)]
    found = curves.together(plots, ["a", "b", "c"])
    assert [curve.name for curve in found.curves] == ["a", "c"]
    assert found.marks == ()
    alone = curves.together(plots[:2], ["a", "b"])
    assert alone.curves == ()
    assert "Fewer than two" in alone.missing


def test_an_audited_eps_of_another_form_is_not_marked(story):
    assert curves.eps_plot(story(changes={"threat": ThreatEntry(norm="linf", eps="?")}).play()).marks == ()
