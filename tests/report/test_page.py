"""The page is true, complete, harmless and the same every time."""

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from unittest.mock import ANY

import pytest

from unmask.errors import LedgerError, OutputError
from unmask.ledger import FindingEntry, ModelEntry, PlanEntry, load_run
from unmask.ledger.queries import attack_table
from unmask.report import render, summary_rows, to_csv, write_report
from unmask.report.table import attacks_to_csv


@pytest.fixture(scope="module")
def page(run, read):
    return read(render([run]))


def chart_data(page):
    [data] = [script for script in page.scripts if script.startswith("{")]
    return json.loads(data)


# ------------------------------------------------------------------------------------------------------ what it says


def test_a_finished_run_is_told_in_one_sentence(page):
    assert "Claimed 70.0% (pgd-10), measured at most 25.0% [14.2, 40.2] under Linf(0.2)" in page.text
    assert "on 40 images." in page.text
    assert "masked" in page.texts
    assert "The usual attack overlooks 45.0% of the images." in page.texts
    assert "every one through the whole plan" in page.texts
    assert "What would change the verdict: Another model." in page.text


def test_the_bars_are_as_long_as_the_figures_and_said_in_words(page):
    styles = [attributes["style"] for attributes in page.all("span") if "fill" in (attributes.get("class") or "")]
    assert styles == ["--at:95.000%", "--at:70.000%", "--at:25.000%"]
    [whisker] = [attributes["style"] for attributes in page.all("span") if attributes.get("class") == "whisker"]
    low, high = (float(part) for part in re.findall(r"([\d.]+)%", whisker))
    assert (low, high) == (pytest.approx(14.2, abs=0.05), pytest.approx(40.2, abs=0.05))
    labels = [attributes.get("aria-label") for attributes in page.all("div")]
    said = "clean accuracy 95.0%, claimed accuracy 70.0%, measured accuracy 25.0%, 95% interval [14.2, 40.2]"
    assert said in labels


def test_findings_come_with_evidence_and_next_step_the_serious_ones_first(page):
    classes = [attributes.get("class") or "" for attributes in page.all("li")]
    assert [name for name in classes if name.startswith("finding ")] == ["finding fail", "finding warn", "finding ok"]
    assert "Do not report the claimed figure." in page.texts
    assert "0.3, 0.6" in page.texts
    assert "1,600 evaluations" in page.texts


def test_the_attack_table_shows_individual_and_cumulative_breaks(page):
    start = page.texts.index("Attacks")
    cells = page.texts[start : page.texts.index("Curves")]
    row = cells[cells.index("margin") :][:7]
    assert row == ["margin", "search", "3", "28", "16", "57.1%", "30.0%"]


def test_provenance_names_what_decided_the_figures(page):
    for word in ("runs/digits-clp", "a1b2c3", "d4e5f6", "151,306", "2.15.0", "A Processor", "7", "kept in memory"):
        assert word in page.texts
    command = "unmask audit runs/digits-clp --data digits --split test -n 40 --norm linf --eps 0.2"
    assert any(text.startswith(command) for text in page.texts)
    assert "the usual attack" in page.texts  # the description of a planned attack


def test_the_commands_name_the_folder_and_quote_it(story, tmp_path, read):
    folder = tmp_path / "a run's folder"
    story(n=6).play(folder)
    texts = read(render([load_run(folder)])).texts
    quoted = f"'{tmp_path}/a run'\"'\"'s folder'"
    assert f"unmask verify {quoted}" in texts
    assert f"unmask report {quoted}" in texts


def test_weights_of_a_module_are_given_as_an_option(story, read):
    model = ModelEntry(source="my_models:net with weights net.pt", fingerprint="f")
    texts = read(render([story(n=6, changes={"model": model}).play()])).texts
    assert any("audit my_models:net --weights net.pt --data digits" in text for text in texts)


def test_an_audit_of_python_objects_has_no_command_that_repeats_it(story, read, tmp_path):
    make = story(n=6)
    make.changes = {"data": make.data(name="images", split="")}
    texts = read(render([make.play(tmp_path / "run")])).texts
    assert not any(text.startswith("unmask audit") for text in texts)
    assert any(text.startswith("unmask verify") and text.endswith("--model MODULE:FUNCTION") for text in texts)


# -------------------------------------------------------------------------------------------------- unfinished, failed


def test_an_unfinished_run_has_a_notice_and_no_headline(story, read):
    text = read(render([story().play(until=3)])).text
    assert "There is no headline yet. 18 of 40 examples have not been through the whole plan" in text
    assert "22 broken 18 not run" in text
    assert "22 of them through the whole plan" in text
    assert "≤ 45.0%" in text
    assert "measured at most" not in text
    assert "masked" not in text


def test_a_run_with_errors_has_a_notice_and_no_headline(story, read):
    text = read(render([story(errors=frozenset({1007, 1009})).play()])).text
    assert "2 of 40 examples ended in an error" in text
    assert "2 in error" in text
    assert "measured at most" not in text


def test_what_is_absent_is_said_in_a_sentence(story, read):
    clean = story().plan[0]
    page = read(render([story(plan=(clean,), findings=()).play()]))
    for sentence in (
        "No check was made on this run yet.",
        "Fewer than two rounds recorded how many passes they cost.",
        "This run holds no eps curve: its check was not made.",
        "This audit was made without a claimed attack.",
        "No attack of this audit was started more than once.",
        "This run holds no losses over restarts: their check was not made.",
        "No attack broke an image.",
    ):
        assert sentence in page.texts
    assert chart_data(page)["specs"] == {}


def test_no_run_at_all_is_an_error():
    with pytest.raises(LedgerError, match="at least one run"):
        render([])


# -------------------------------------------------------------------------------------------------------- several runs


def test_several_runs_are_compared(run, story, read):
    other = story(breaks=(0.0, 0.05, 0.05, 0.0, 0.0, 0.0), changes={"name": "digits-at"}, label="robust").play()
    page = read(render([run, other]))
    assert "Comparison" in page.texts
    assert "2 audits by unmask" in page.texts
    assert [a["href"] for a in page.all("a") if a["href"].startswith("#run")] == ["#run-1", "#run-2"]
    assert {"run-1", "run-2"} <= {attributes.get("id") for attributes in page.all("article")}
    specs = chart_data(page)["specs"]
    assert specs["all-plot-0"]["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["digits-clp", "digits-at"]
    assert "These runs differ" not in page.text


def test_runs_that_cannot_be_compared_say_so(run, story, read):
    make = story()
    make.changes = {"data": make.data(fingerprint="other"), "budget": "quick"}
    text = read(render([run, make.play()])).text
    assert "These runs differ in their images, budgets" in text


def test_one_run_has_no_comparison(page):
    assert "Comparison" not in page.texts
    assert "An audit by unmask" in page.texts


def test_what_is_downloaded_is_the_table_shown(run, read):
    files = chart_data(read(render([run, run])))["files"]
    assert files["summary"] == {"name": "summary", "csv": to_csv(summary_rows([run, run])), "tex": ANY}
    assert files["run-1-attacks"]["csv"] == attacks_to_csv(attack_table(run))
    assert files["run-2-attacks"]["name"] == "digits-clp (2) attacks"


# --------------------------------------------------------------------------------------------------------- diagnoses


def test_a_diagnosis_stands_beside_the_run_of_its_model(run, diagnosis, story, read):
    other = story(changes={"name": "digits-at", "model": ModelEntry(source="s", fingerprint="another")}).play()
    page = read(render([run, other], [diagnosis]))
    assert page.texts.count("Diagnosis") == 1
    assert page.texts.index("Diagnosis") < page.texts.index("digits-at", page.texts.index("Diagnosis"))
    specs = set(chart_data(page)["specs"])
    kinds = {key.removeprefix("run-1-").rstrip("-0123456789") for key in specs if key.startswith("run-1")}
    assert kinds == {"plot", "losses", "heat", "relief", "bins", "study-plot"}
    assert not {key for key in specs if key.startswith(("run-2-heat", "run-2-relief", "run-2-bins"))}
    assert "PGD leaves less with larger steps." in page.texts


def test_a_diagnosis_of_a_model_that_was_not_audited_is_refused(story, diagnosis):
    stranger = story(changes={"model": ModelEntry(source="s", fingerprint="another")}).play()
    with pytest.raises(LedgerError, match=r"a diagnosis of a model .* that none of the given runs audited"):
        render([stranger], [diagnosis])


def test_a_run_without_a_diagnosis_has_no_such_part(page):
    assert "Diagnosis" not in page.texts


# ------------------------------------------------------------------------------------------------ offline and harmless


def test_nothing_is_fetched(page):
    for name, attributes in page.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            address = attributes.get(key)
            assert address is None or address.startswith(("data:", "#")), (name, address)
    assert not {name for name, _ in page.elements} & {"iframe", "object", "embed", "base", "form"}


def test_the_policy_allows_the_page_s_own_scripts_and_nothing_else(run, page):
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    kinds = [attributes.get("type") for attributes in page.all("script")]
    assert kinds == ["application/json", None, None]
    running = [script for script, kind in zip(page.scripts, kinds, strict=True) if kind is None]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in running]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_style_fetches_nothing(run):
    [style] = re.findall(r"<style>(.*?)</style>", render([run]), re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_no_text_of_a_ledger_becomes_markup(hostile, read):
    html = render([hostile, hostile])
    page = read(html)
    assert len(page.scripts) == 3
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert all((a["src"] or "").startswith("data:") for a in page.all("img"))
    assert "{{ 7*7 }}" in page.text
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "alert(1)" in json.dumps(chart_data(page))
    assert "<script>alert" not in html
    assert "onerror=alert(2)>" not in html


def test_a_huge_text_is_cut(story):
    changes = {"name": "n" * 3_000_000, "hardware": {"cpu": "c" * 3_000_000}}
    findings = [FindingEntry(check="x", status="ok", summary="s" * 3_000_000, evidence={"e": ["v" * 3_000_000] * 50})]
    assert len(render([story(n=6, changes=changes, findings=findings).play()])) < 1_100_000


def test_many_findings_and_attacks_are_counted_and_not_listed(story, read):
    plan = [PlanEntry(attack="clean", role="clean")] + [
        PlanEntry(attack=f"attack-{i}", role="search") for i in range(200)
    ]
    findings = [FindingEntry(check=f"check-{i}", status="ok", summary="fine") for i in range(100)]
    text = read(render([story(n=4, plan=plan, breaks=[0.0] * 201, findings=findings).play()])).text
    assert "101 more attacks are in the ledger" in text
    assert "40 more findings are in the ledger" in text
    assert "141 more entries are in the ledger" in text


# --------------------------------------------------------------------------------------------------- form and structure


def test_headings_descend_one_level_at_a_time(run, story, read):
    for runs in ([run], [run, story().play(until=2)]):
        levels = [int(name[1]) for name, _ in read(render(runs)).elements if re.fullmatch(r"h[1-6]", name)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_pictures_tables_and_regions_are_named(run, read):
    page = read(render([run, run]))
    assert page.all("img")
    assert all(attributes.get("alt") for attributes in page.all("img"))
    wide = [a for a in page.all("table") if "wide" in (a.get("class") or "").split()]
    assert len(page.all("caption")) >= len(wide) == 4  # summary, pairs, and the attacks of both runs
    assert all(a.get("aria-label") for a in page.all("div") if a.get("role"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)


def test_every_chart_has_its_place_and_its_numbers(page):
    places = [a["data-chart"] for _, a in page.elements if "data-chart" in a]
    assert sorted(places) == sorted(chart_data(page)["specs"])
    assert len(places) == 4 + 2
    assert page.texts.count("Numbers") == 4
    assert "margin, restart 2" in page.texts


def test_the_page_is_a_pure_function_of_the_runs(run, story, tmp_path):
    assert render([run]) == render([run])
    story().play(tmp_path / "run")
    assert render([load_run(tmp_path / "run")]) == render([load_run(tmp_path / "run")])


def test_the_page_stays_small(run):
    html = render([run, run, run, run])
    without_images = re.sub(r'"data:image/png;base64,[^"]*"', '""', html)
    assert len(without_images.encode()) < 1_500_000


# ---------------------------------------------------------------------------------------------------------- the writer


def test_the_report_is_written_whole_into_new_folders(run, tmp_path):
    path = tmp_path / "new" / "folder" / "report.html"
    assert write_report([run], path) == path
    assert path.read_text(encoding="utf-8") == render([run], beside=["report-images-1.html"])
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["report-images-1.html", "report.html"]


def test_all_images_stand_in_a_file_beside_the_page(run, read, tmp_path):
    write_report([run], tmp_path / "r.html")
    main, images = (read((tmp_path / name).read_text()) for name in ("r.html", "r-images-1.html"))
    assert "r-images-1.html" in [a["href"] for a in main.all("a")]
    outcomes = Counter(a["data-outcome"] for _, a in images.elements if "data-outcome" in a)
    assert outcomes == {"broken": 28, "survived": 10}  # all but the two that were wrong from the start
    [policy] = [a["content"] for a in images.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_a_run_whose_images_are_all_shown_has_no_file_beside(story, tmp_path):
    write_report([story(n=6).play()], tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_an_output_error(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder"):
        with pytest.raises(OutputError, match="Cannot write"):
            write_report([run], path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_an_old_report_stays_where_the_new_one_fails(run, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(LedgerError):
        write_report([], path)
    assert path.read_text() == "old"


def test_a_character_that_no_file_can_hold_is_replaced(run, tmp_path):
    odd = replace(run, spec=run.spec.model_copy(update={"name": "a\ud800b"}))
    assert "a?b" in write_report([odd], tmp_path / "report.html").read_text(encoding="utf-8")
