"""Reproducing a table and a figure: on the digits, at the scale of seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unmask.audit import verify
from unmask.data.tiny_imagenet import prepare
from unmask.errors import DataError, RecipeError
from unmask.ledger import load_run
from unmask.ledger.comparison import Comparison, load_comparison
from unmask.models import load_model
from unmask.recipes import RECIPES, Recipe, find_recipe
from unmask.recipes.recipe import published, register
from unmask.recipes.scales import SCALES, Scale, find_scale
from unmask.recipes.tables import EXPERIMENTS, Accuracy, Attacked, Audited, Figure, Predicted, Table, experiment
from unmask.reproduction import estimate, make_plan, reproduce
from unmask.reproduction.cache import model_folder
from unmask.threat import Linf
from unmask.training import PgdAdversary

PAPER, PRINTED = "Nobody et al.", "Table 1"
MEASURES = {
    "train": Accuracy("train"),
    "clean": Accuracy(),
    "top 5": Accuracy(top=5),
    "pgd": Attacked(steps=40, step_size=0.01),
    "aimed": Attacked(steps=3, aim="random", top=5),
    "black box": Attacked(steps=40, transferred=True),
    "equation 4": Predicted(),
}
VALUES = {"train": 99.0, "clean": 98.0, "top 5": 99.9, "pgd": 12.5, "aimed": 50.0, "black box": 70.0, "equation 4": 3.0}


def _row(name: str, row: str, like: str = "digits-plain", table: str = PRINTED) -> Recipe:
    claims = published(PAPER, table, row, VALUES)
    return replace(find_recipe(like), name=name, claims=claims, surrogate="nobody/plain")


@pytest.fixture
def table() -> Iterator[Table]:
    """Two tables that share a model, and a figure of it, known for the length of a test."""
    recipes = [
        _row("nobody/plain", "Plain"),
        _row("nobody/clp", "CLP", "digits-clp"),
        _row("nobody/again", "Plain", table="T2"),
    ]
    for recipe in recipes:
        register(recipe)
    one = experiment(
        Table("nobody/table1", PAPER, PRINTED, "A table", MEASURES, "Reading.", modern={"audit": Audited("quick")})
    )
    experiment(Table("nobody/table2", PAPER, "T2", "Another", MEASURES, "Reading.", modern={}))
    experiment(Figure("nobody/figure1", PAPER, "F", "A figure", "linearised", "logits", {"CLP": "nobody/clp"}, "Seen."))
    yield one
    for recipe in recipes:
        del RECIPES[recipe.name]
    for name in ("nobody/table1", "nobody/table2", "nobody/figure1"):
        del EXPERIMENTS[name]


class TestReproduce:
    def test_every_published_figure_is_measured_and_traceable(self, table: Table, tmp_path: Path) -> None:
        (found,) = reproduce(table.name, scale="smoke", root=tmp_path)
        assert found == load_comparison(tmp_path / "smoke" / table.name)
        assert (found.columns, found.modern) == (list(VALUES), ["audit"])
        assert [row.row for row in found.rows] == ["Plain", "CLP"]
        for cell in found.cells:
            assert cell.published == (None if cell.column == "audit" else round(VALUES[cell.column] / 100, 4))
            assert cell.measured is not None and cell.interval is not None
            assert cell.n == 8 and cell.interval[0] <= cell.measured <= cell.interval[1]
            folder = tmp_path / "smoke" / table.name / cell.run
            if cell.column != "equation 4":
                run = load_run(folder)
                assert (run.spec.data.split, run.spec.top) == (
                    "train" if cell.column == "train" else "test",
                    5 if cell.column in ("top 5", "aimed") else 1,
                )
                assert not verify(run, load_model(run.spec.model.source).model).refuted

    def test_what_is_there_is_neither_trained_nor_measured_again(self, table: Table, tmp_path: Path) -> None:
        first = reproduce(table.name, scale="smoke", root=tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert reproduce(table.name, scale="smoke", root=tmp_path) == first
        changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
        assert changed == {"comparison.json"}

    def test_tables_that_share_a_model_train_it_once(self, table: Table, tmp_path: Path) -> None:
        chosen = [EXPERIMENTS["nobody/table1"], EXPERIMENTS["nobody/table2"]]
        plan = make_plan(chosen, find_scale("smoke"), root=tmp_path)
        assert sorted((model.recipe.name, model.seed) for model in plan.models.values()) == [
            ("nobody/clp", 0),
            ("nobody/plain", 0),
            ("nobody/plain", 1),  # the surrogate: no model attacks itself
        ]
        cost = estimate(plan)
        assert (cost.models, cost.measures) == (3, len(plan.measures)) and cost.seconds > 0
        for one in chosen:
            reproduce(one.name, scale="smoke", root=tmp_path)
        assert {folder.name for folder in (tmp_path / "models").iterdir()} == {folder.name for folder in plan.models}
        assert estimate(plan).evaluations == 0

    def test_rows_that_train_alike_are_attacked_in_balls_of_their_own(self, table: Table, tmp_path: Path) -> None:
        wide = replace(find_recipe("nobody/plain"), name="nobody/wide", threat=Linf("0.5"))
        register(replace(wide, claims=published(PAPER, PRINTED, "Wide", VALUES)))
        try:
            (found,) = reproduce(table.name, scale="smoke", root=tmp_path, modern=())
        finally:
            del RECIPES["nobody/wide"]
        models = {row.row: row.model for row in found.rows}
        assert models["Plain"] == models["Wide"] != models["CLP"]
        runs = {cell.row: cell.run for cell in found.cells if cell.column == "pgd"}
        threats = {row: load_run(tmp_path / "smoke" / table.name / run).spec.threat.eps for row, run in runs.items()}
        assert (threats["Plain"], threats["Wide"]) == ("0.2", "0.5")

    def test_the_recorded_command_asks_for_the_same_again(self, table: Table, tmp_path: Path) -> None:
        (found,) = reproduce(
            table.name, scale="smoke", root=tmp_path, modern=(), seed=3, instead={"cifar10": "my images.npz"}
        )
        assert found.command == (
            "unmask reproduce nobody/table1 --scale smoke --seed 3 --modern none --data 'cifar10=my images.npz'"
        )

    def test_unknown_columns_are_refused(self, table: Table, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="some of audit, AutoAttack, transfer"):
            reproduce(table.name, scale="smoke", root=tmp_path, modern=("audits",))

    def test_processes_share_the_work_to_the_same_figures(self, tmp_path: Path) -> None:
        alone = reproduce("000/figure-histograms", scale="smoke", root=tmp_path / "one")
        shared = reproduce("000/figure-histograms", scale="smoke", root=tmp_path / "two", workers=2)
        assert [one.rows for one in alone] == [one.rows for one in shared]
        drawn = [tmp_path / root / "smoke/000/figure-histograms/figure.png" for root in ("one", "two")]
        assert drawn[0].read_bytes() == drawn[1].read_bytes()

    def test_rows_that_are_attacks_are_measured_by_the_row(self, tmp_path: Path) -> None:
        (found,) = reproduce("001/table10-mnist", scale="smoke", root=tmp_path)
        assert (found.by, found.columns, found.modern) == ("row", ["accuracy"], [])
        assert len(found.cells) == 9 and len({cell.run for cell in found.cells}) == 2  # 1 restart, and 2 at this scale

    def test_the_fixed_models_of_an_ensemble_are_trained_first(self, tmp_path: Path) -> None:
        plan = make_plan([EXPERIMENTS["002/eat-transfer"]], find_scale("smoke"), root=tmp_path)
        order = [model.recipe.name for model in plan.models.values()]
        assert order.index("002/imagenet/regular") < order.index("002/imagenet/eat")

    def test_unknown_names_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="000/mnist"):
            reproduce("000/minst", root=tmp_path)
        with pytest.raises(RecipeError, match="small"):
            reproduce("000/mnist", scale="smal", root=tmp_path)

    def test_absent_data_are_refused_before_anything_is_trained(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="--scale smoke"):
            reproduce("000/mnist", scale="small", root=tmp_path / "runs", data_dir=tmp_path)
        assert not (tmp_path / "runs").exists()

    def test_the_digits_stand_in_for_absent_data_at_smoke(self, tmp_path: Path) -> None:
        plan = make_plan([EXPERIMENTS["000/cifar10"]], find_scale("smoke"), root=tmp_path, data_dir=tmp_path)
        assert {(model.recipe.data, model.recipe.architecture) for model in plan.models.values()} == {
            ("digits", "digits-cnn")
        }


class TestScales:
    @pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: str(scale.name))
    @pytest.mark.parametrize("name", sorted(name for name in RECIPES if name[:3] in ("000", "001", "002")))
    def test_every_recipe_of_the_seeds_has_every_scale(self, scale: Scale, name: str) -> None:
        recipe = find_recipe(name)
        scaled = scale.recipe(recipe)
        assert (scaled.name, scaled.data, scaled.threat) == (recipe.name, recipe.data, recipe.threat)
        assert scaled.training.epochs <= max(recipe.training.epochs, 12)
        if scale.name == "paper":
            assert scaled == recipe

    def test_a_small_adversary_takes_few_large_steps(self) -> None:
        objective = find_scale("small").recipe(find_recipe("000/mnist/100-at")).training.objective
        assert isinstance(objective.adversary, PgdAdversary)
        assert (objective.adversary.steps, objective.adversary.step_size) == (7, pytest.approx(0.1))

    def test_what_trains_alike_is_kept_in_one_folder(self, tmp_path: Path) -> None:
        recipe = find_recipe("digits-plain")
        twin = replace(recipe, name="twin", summary="another", threat=Linf(0.1), surrogate="digits-clp")
        other = replace(recipe, training=replace(recipe.training, epochs=1))
        assert model_folder(tmp_path, recipe, 0) == model_folder(tmp_path, twin, 0)
        assert model_folder(tmp_path, recipe, 0) != model_folder(tmp_path, recipe, 1)
        assert model_folder(tmp_path, recipe, 0) != model_folder(tmp_path, other, 0)


def _real(*parts: str) -> Path:
    path = Path(os.environ.get("UNMASK_DATA", "missing"), *parts)
    if not path.exists():
        pytest.skip(f"{path} is not here (set UNMASK_DATA to the folder that holds it)")
    return path


def _all_measured(found: list[Comparison], data: str) -> None:
    for one in found:
        assert all(cell.measured is not None for cell in one.cells)
        assert all(f" on {data}" in row.trained for row in one.rows), one.rows


class TestRealFormats:
    def test_cifar10_from_an_npz_file(self, tmp_path: Path) -> None:
        path = _real("cifar10", "cifar10_lossless_subset.npz")
        found = reproduce(
            ["000/cifar10", "001/table3"],
            scale="smoke",
            root=tmp_path,
            modern=("transfer",),
            instead={"cifar10": str(path)},
        )
        _all_measured(found, str(path))

    def test_svhn_from_an_npz_file(self, tmp_path: Path) -> None:
        with np.load(_real("svhn", "svhn_train_first1083.npz")) as images:
            x, y = images["x"], images["y"]
        path = tmp_path / "svhn.npz"
        np.savez(path, x_train=x[:100], y_train=y[:100], x_test=x[100:150], y_test=y[100:150])
        _all_measured(
            reproduce("002/table2", scale="smoke", root=tmp_path, modern=(), instead={"svhn": str(path)}), str(path)
        )

    @pytest.mark.slow
    def test_tiny_imagenet_from_its_zip_stands_in_for_imagenet_too(self, tmp_path: Path) -> None:
        prepare(_real("tiny-imagenet", "tiny-imagenet-200.zip"), tmp_path)
        found = reproduce(
            ["000/tiny-imagenet", "002/table3", "002/table5"],
            scale="smoke",
            root=tmp_path,
            data_dir=tmp_path,
            modern=(),
            instead={"imagenet": "tiny-imagenet", "imagenet-224": "tiny-imagenet"},
        )
        _all_measured(found, "tiny-imagenet")
