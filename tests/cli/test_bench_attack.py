"""`unmask bench-attack`: somebody's attack over several models, from the command line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unmask.audit.bench import read_figures
from unmask.cli.app import app
from unmask.cli.bench_attack import REFERENCE
from unmask.models import load_model, zoo_names

BENCHED = """
import torch
from unmask.attacks import pgd

def climb(model, x, y, *, threat, generator, steps=5):
    return pgd(model, x, y, threat=threat, generator=generator, steps=steps).x_adv

def still(model, x, y, *, threat, generator):
    return x

def outside(model, x, y, *, threat, generator):
    return 1 - x

def flat(model, x, y, *, threat, generator):
    return x.flatten(1)

def raises(model, x, y, *, threat, generator):
    raise ValueError("cannot")

def not_the_last(model, x, y, *, threat, generator):
    if len(x) != 2 and (y == 9).any():
        raise ValueError("not this one")
    return x

def of_another_shape(model, x, y, eps):
    return x


constant = 3
"""
WORDS = ("-n", 40, "--models", "net", "--eps", "0.15")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benched") / "net"
    done = CliRunner().invoke(app, ["train", "digits-plain", "--epochs", "2", "--run-dir", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def bench(run, small, monkeypatch):
    """Return a function that benches an attack on a small network in an empty folder."""
    shutil.copytree(small, "net")
    Path("benched_attacks.py").write_text(BENCHED)
    monkeypatch.delitem(sys.modules, "benched_attacks", raising=False)
    return lambda attack, *words: run("bench-attack", attack, *WORDS, *words)


def told(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestFigures:
    def test_an_attack_of_ones_own_stands_beside_ours(self, bench):
        found = told(bench("benched_attacks:climb", "--measure", "--json"))
        one = found["models"][0]
        ours, theirs = one["beside"]["standard"], one["beside"]["autoattack-standard"]
        assert ours["robust_accuracy"] <= one["robust_accuracy"] < one["clean_accuracy"]
        assert one["evaluations"] < ours["evaluations"] and one["evaluations"] < theirs["evaluations"]
        assert found["standing"]["standard"]["of"] == found["standing"]["standard"]["cheaper"] == 1

        shown = bench("benched_attacks:climb", "--measure")
        assert shown.exit_code == 0 and "our audit" in shown.output and "cheaper on 1" in shown.output
        assert f"{100 * one['robust_accuracy']:.1f}% at {one['evaluations']:.0f}" in shown.output

    def test_a_setting_changes_the_attack(self, bench):
        short, long = (told(bench("benched_attacks:climb", "--set", f"steps={steps}", "--json")) for steps in (1, 9))
        short, long = short["models"][0], long["models"][0]
        assert long["evaluations"] > short["evaluations"] and long["robust_accuracy"] < short["robust_accuracy"]

    def test_an_attack_of_ours_takes_fractions_and_losses_by_name(self, bench):
        one = told(bench("pgd", "--set", "step_size=2/255", "--set", "loss=margin", "--json"))["models"][0]
        assert one["settings"] == {"step_size": 2 / 255, "loss": "margin"}

    def test_the_same_command_goes_on_and_a_changed_attack_begins_anew(self, bench):
        first = told(bench("benched_attacks:climb", "--json"))
        assert told(bench("benched_attacks:climb", "--json")) == first
        assert len(list(Path("runs").iterdir())) == 1
        with Path("benched_attacks.py").open("a") as module:
            module.write("# changed\n")
        bench("benched_attacks:climb")
        assert len(list(Path("runs").iterdir())) == 2

    def test_every_record_can_be_verified(self, run, bench):
        bench("benched_attacks:climb")
        (record,) = Path("runs").glob("*/*")
        assert run("verify", record).exit_code == 0


class TestReference:
    def test_is_made_by_the_same_command_and_shown(self, bench):
        made = told(bench("standard", "--reference", "mine.json", "--save-reference", "--json"))["models"][0]
        beside = told(bench("benched_attacks:still", "--reference", "mine.json", "--json"))
        assert beside["models"][0]["beside"]["standard"]["evaluations"] == made["evaluations"]
        assert beside["models"][0]["beside"]["autoattack-standard"] is None
        assert beside["standing"]["standard"]["of"] == 1
        assert read_figures(Path("mine.json"))[0].command.startswith("unmask bench-attack standard -n 40")

    def test_of_other_images_is_shown_but_not_compared(self, bench):
        bench("quick", "--reference", "mine.json", "--save-reference")
        words = ("--reference", "mine.json", "-n", 30)
        shown = bench("benched_attacks:still", *words)
        assert "(n = 40)" in shown.output and "give -n 40, or --measure" in shown.output
        assert told(bench("benched_attacks:still", *words, "--json"))["standing"]["quick"]["of"] == 0

    def test_that_comes_with_unmask_is_of_the_packaged_models(self):
        found = read_figures(REFERENCE)
        assert {one.attack for one in found} >= {"standard", "autoattack-standard"}
        assert {one.model for one in found} <= set(zoo_names())
        for one in found:
            card = load_model(one.model).card
            assert one.threat.eps == card["threat"]["eps"] and one.n == 200 and not one.errors
            assert one.robust_accuracy <= one.clean_accuracy

    @pytest.mark.real
    def test_that_comes_with_unmask_fits_the_models_of_today(self, run, bench):
        if not (Path(os.environ.get("UNMASK_DATA", "")) / "MNIST").is_dir():
            pytest.skip("needs MNIST in $UNMASK_DATA")
        found = told(run("bench-attack", "benched_attacks:still", "--json"))
        measured = [one for one in found["models"] if one["beside"]["standard"] is not None]
        assert len(measured) == found["standing"]["standard"]["of"] > 0


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["pdg"], "Did you mean 'pgd'"),
            (["benched_attacks:stil"], "Did you mean 'still'"),
            (["absent_module:attack"], "no module 'absent_module'"),
            (["benched_attacks:constant"], "expected a function"),
            (["benched_attacks:of_another_shape"], "'eps'"),
            (["benched_attacks:still", "--set", "steps=3"], "unexpected keyword argument 'steps'"),
            (["benched_attacks:still", "--set", "steps"], "KEY=VALUE"),
            (["benched_attacks:flat"], "(2, 64)"),
            (["benched_attacks:raises"], "ValueError on the first 2 images: cannot (benched_attacks.py, line 18)"),
            (["transfer"], "surrogates"),
            (["pgd", "--set", "loss=margn"], "Did you mean 'margin'"),
            (["pgd", "--set", "steps=-1"], "steps is -1"),
            (["standard", "--set", "steps=3"], "takes no --set"),
            (["pgd", "--models", "nett"], "nett"),
            (["pgd", "-n", "100000"], "360"),
            (["pgd", "--reference", "absent.json"], "--save-reference"),
            (["pgd", "--reference", "benched_attacks.py"], "holds no figures"),
        ],
    )
    def test_are_answered_before_anything_is_measured(self, bench, words, said):
        result = bench(*words)
        assert result.exit_code == 2, result.output
        assert said in result.output and "Traceback" not in result.output
        assert not Path("runs").exists()

    def test_images_outside_the_ball_are_no_breaks_and_are_told(self, bench):
        result = bench("benched_attacks:outside")
        assert result.exit_code == 0 and "none of them counts as broken" in result.output
        one = told(bench("benched_attacks:outside", "--json"))["models"][0]
        assert one["robust_accuracy"] == one["clean_accuracy"] and one["outside"] == round(40 * one["clean_accuracy"])

    def test_an_attack_that_raises_on_some_has_no_figure(self, bench):
        for _ in range(2):  # also where it is read from the record
            result = bench("benched_attacks:not_the_last")
            assert result.exit_code == 2 and "error on" in result.output and "have no figure" in result.output
        one = json.loads(bench("benched_attacks:not_the_last", "--json").stdout)["models"][0]
        assert one["robust_accuracy"] is None and one["errors"] > 0
