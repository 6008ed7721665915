"""Shafahi et al. 2018: every printed figure, what is measured for it, and how the models are trained."""

from __future__ import annotations

import pytest

from unmask.audit import STUDIES
from unmask.audit.plan import claim_attack
from unmask.audit.studies import Settings
from unmask.recipes import RECIPES, Recipe, find_recipe
from unmask.recipes.recipe import Claim
from unmask.recipes.tables import EXPERIMENTS, Accuracy, Attacked, Figure, Measure, Predicted, Table
from unmask.report.figures.recorded import KINDS
from unmask.threat import Linf
from unmask.training import ConstantRate, CropAndFlip, GaussianNoise, Optimizer, PgdAdversary, StepRate

# Rows, and the sum of the printed percentages by column.
SUMS = {
    "Table 1": (4, [171.85, 161.85, 111.70]),
    "Table 2": (13, [1262.37, 1252.97, 770.28, 783.58, 984.48, 991.80]),
    "Table 3": (8, [798.15, 724.67, 386.86, 353.10, 551.92, 556.68]),
    "Table 4": (9, [613.33, 619.65, 620.99, 627.45, 637.61, 643.57]),
    "Table 5": (3, [298.37, 207.95, 87.84, 70.90, 61.65, 60.59]),
    "Table 6": (40, [3844.80, 3819.62, 1968.77, 2009.47, 3028.96, 3096.46]),
    "Table 7": (20, [1987.30, 1808.78, 855.67, 779.90, 1330.47, 1297.44]),
    "Table 8": (20, [1297.32, 1312.11, 1314.98, 1325.70, 1349.64, 1363.24]),
    "Table 9": (6, [25.92]),
    "Table 10": (9, [453.91]),
    "Table 11": (5, [219.94]),
}
ROWS = """
Table 1  | MNIST adv trained         | 95.25 95.41 56.73
Table 2  | 0.95 0 0.3 2M             | 100 99.25 83.60 85.39 85.39 87.22
Table 2  | Madry et al. (2017) adv tr. | 100 98.8 93.20 93.9 96.08 96.81
Table 3  | 0 10 20 160k              | 99.92 92.68 52.55 48.78 76.37 75.79
Table 4  | 0 10 20 80k               | 70.27 70.78 71.29 71.86 72.47 73.30
Table 5  | PGD-2 adv trained         | 99.96 67.94 20.08 17.08 16.49 16.50
Table 6  | 0 0 0.5 400k              | 99.99 99.09 11.24 17.52 87.28 89.44
Table 6  | 0 0 0.5 400k (second)     | 100 99.23 11.75 19.64 87.57 89.71
Table 6  | 0 0 0.3 400k (second)     | 100 99.42 2.90 1.06 78.67 80.67
Table 7  | 0.95 0 30 160k            | 99.64 90.70 53.93 40.68 64.77 70.38
Table 8  | Madry et al. (2017)       | 63.39 64.38 63.39 64.38 67.00 67.25
Table 9  | 100 steps of 4/255, eps 150/255 | 0.13
Table 10 | 1 restart                 | 52.3
Table 11 | 1000 steps                | 40.94
"""
MEASURES: dict[str, dict[str, Measure]] = {
    "table1": {
        "x-ent": Attacked(1, start="clean"),
        "cw": Attacked(1, start="clean", loss="margin"),
        "Equation 4": Predicted(),
    },
    "table6": {
        "train": Accuracy("train"),
        "test": Accuracy("test"),
        "x-ent": Attacked(40, 0.01),
        "cw": Attacked(40, 0.01, "margin"),
        "black-box fgsm": Attacked(1, 0.3, "margin", "clean", transferred=True),
        "black-box pgd": Attacked(40, 0.01, "margin", transferred=True),
    },
    "table7": {
        "train": Accuracy("train"),
        "test": Accuracy("test"),
        "pgd-20 x-ent": Attacked(20, 2 / 255),
        "pgd-20 cw": Attacked(20, 2 / 255, "margin"),
        "fgsm x-ent": Attacked(1, 8 / 255, start="clean"),
        "fgsm cw": Attacked(1, 8 / 255, "margin", "clean"),
    },
    "table8": {
        "pgd-7 x-ent": Attacked(7, 2 / 255, start="clean", transferred=True),
        "pgd-7 cw": Attacked(7, 2 / 255, "margin", "clean", transferred=True),
        "pgd-7 + rand x-ent": Attacked(7, 2 / 255, transferred=True),
        "pgd-7 + rand cw": Attacked(7, 2 / 255, "margin", transferred=True),
        "fgsm x-ent": Attacked(1, 8 / 255, start="clean", transferred=True),
        "fgsm cw": Attacked(1, 8 / 255, "margin", "clean", transferred=True),
    },
    "table5": {
        "train": Accuracy("train"),
        "test": Accuracy("test"),
        **{f"pgd-{steps}": Attacked(steps, 2 / 255) for steps in (7, 20, 100, 200)},
    },
}
ADVERSARIES = {
    "mnist/adversarial": (Linf("0.3"), 40, 0.01),
    "mnist/adversarial-weak": (Linf("0.3"), 2, 0.2),
    "cifar10/adversarial": (Linf("8/255"), 7, 2 / 255),
    "cifar10/adversarial-weak": (Linf("8/255"), 2, 5 / 255),
    "cifar100/adversarial-weak": (Linf("8/255"), 2, 5 / 255),
}
OURS = [name for name in RECIPES if name.startswith("001/")]
REGULARISED = [name for name in OURS if "sigma" in name]
TABLES = {name: one for name, one in EXPERIMENTS.items() if name.startswith("001/") and isinstance(one, Table)}
FIGURES = {name: one for name, one in EXPERIMENTS.items() if name.startswith("001/") and isinstance(one, Figure)}


def claims() -> list[Claim]:
    return [claim for name in OURS for claim in find_recipe(name).claims]


def weights(recipe: Recipe) -> dict[str, float]:
    return {term.name: term.weight for term in recipe.training.objective.terms}


def settings(name: str) -> tuple[str, str, float, float, int]:
    """Return data, defence, its strength, sigma and k of a regularised model, read off its name."""
    _, data, rest = name.split("/")
    defence, noise = rest.split("-sigma-")
    (kind, _, strength), (sigma, k) = defence.partition("-"), noise.split("-")
    return data, kind, float(strength or 0), float(sigma), int(k.replace("k", "000").replace("M", "000000"))


class TestFigures:
    @pytest.mark.parametrize("printed", SUMS)
    def test_every_row_is_there_with_the_printed_values(self, printed: str) -> None:
        rows, sums = SUMS[printed]
        found = TABLES[f"001/{printed.lower().replace(' ', '')}"].rows()
        assert len(found) == rows
        columns = zip(*([claim.value for claim in made] for _, made in found.values()), strict=True)
        assert [100 * sum(column) for column in columns] == pytest.approx(sums)

    @pytest.mark.parametrize("line", ROWS.strip().splitlines())
    def test_rows_are_those_of_the_tables(self, line: str) -> None:
        printed, row, figures = (part.strip() for part in line.split("|"))
        _, found = TABLES[f"001/{printed.lower().replace(' ', '')}"].rows()[row]
        assert [100 * claim.value for claim in found if claim.value is not None] == pytest.approx(
            [float(figure) for figure in figures.split()]
        )

    @pytest.mark.parametrize(("short", "full"), [("table2", "table6"), ("table3", "table7"), ("table4", "table8")])
    def test_the_short_tables_repeat_rows_of_the_full_ones(self, short: str, full: str) -> None:
        whole = TABLES[f"001/{full}"].rows()
        for row, (recipe, found) in TABLES[f"001/{short}"].rows().items():
            again, same = whole[row]
            assert again.name == recipe.name
            assert [(claim.column, claim.value, claim.doubt) for claim in found] == [
                (claim.column, claim.value, claim.doubt) for claim in same
            ]

    def test_only_broken_and_borrowed_figures_are_in_doubt(self) -> None:
        doubtful = {(claim.table, claim.row, claim.column) for claim in claims() if claim.doubt}
        borrowed = [column for column in MEASURES["table8"] if column.startswith("pgd-7")]
        assert doubtful == {
            *(("Table 7", "0.9 0 30 80k", column) for column in MEASURES["table7"]),
            *(("Table 8", "0.9 0 30 80k", column) for column in MEASURES["table8"]),
            ("Table 8", "0.2 0 40 80k", "pgd-7 + rand cw"),
            *((table, "Madry et al. (2017)", column) for table in ("Table 4", "Table 8") for column in borrowed),
        }

    @pytest.mark.parametrize("number", [9, 10, 11])
    def test_the_analogues_on_mnist_show_the_figures_of_cifar10_and_say_so(self, number: int) -> None:
        original, analogue = TABLES[f"001/table{number}"], TABLES[f"001/table{number}-mnist"]
        assert analogue.printed == f"Table {number} (MNIST analogue)"
        assert "CIFAR-10 figure" in analogue.reading
        assert "Table 7" in original.reading
        assert "Table 6" in analogue.reading
        for (row, (there, published)), (same, (here, shown)) in zip(
            original.rows().items(), analogue.rows().items(), strict=True
        ):
            assert row == same
            assert (there.name, here.name) == ("001/cifar10/lsq-10-sigma-30-160k", "001/mnist/lsq-0.5-sigma-0.5-100k")
            assert [claim.value for claim in published] == [claim.value for claim in shown]


class TestMeasures:
    def test_every_figure_is_measured_and_every_measure_has_figures(self) -> None:
        by_printed = {table.printed: table for table in TABLES.values()}
        used: dict[str, set[str]] = {}
        for claim in claims():
            table = by_printed[claim.table]
            table.measure(claim)
            used.setdefault(table.name, set()).add(claim.row if table.by == "row" else claim.column)
        assert used == {name: set(table.measures) for name, table in TABLES.items()}

    @pytest.mark.parametrize("name", MEASURES)
    def test_columns_are_measured_by_the_attacks_of_the_paper(self, name: str) -> None:
        assert TABLES[f"001/{name}"].measures == MEASURES[name]

    @pytest.mark.parametrize(("short", "full"), [("table2", "table6"), ("table3", "table7"), ("table4", "table8")])
    def test_the_short_tables_are_measured_as_the_full_ones(self, short: str, full: str) -> None:
        assert TABLES[f"001/{short}"].measures == TABLES[f"001/{full}"].measures

    @pytest.mark.parametrize("name", ["001/table9", "001/table9-mnist"])
    def test_eps_grows_to_the_whole_range_of_pixels(self, name: str) -> None:
        assert list(TABLES[name].measures.values()) == [
            Attacked(steps, size / 255, eps=f"{eps}/255")
            for steps, size, eps in (
                (30, 2, 50), (40, 2, 60), (50, 3, 100), (50, 4, 150), (100, 4, 150), (200, 2, 255),
            )
        ]  # fmt: skip

    @pytest.mark.parametrize(("name", "steps", "size"), [("table10", 20, 2 / 255), ("table10-mnist", 40, 0.01)])
    def test_restarts_grow_to_nine(self, name: str, steps: int, size: float) -> None:
        expected = [Attacked(steps, size, restarts=count) for count in range(1, 10)]
        assert list(TABLES[f"001/{name}"].measures.values()) == expected

    @pytest.mark.parametrize(("name", "size"), [("table11", 2 / 255), ("table11-mnist", 0.01)])
    def test_steps_grow_to_a_thousand_on_the_margin(self, name: str, size: float) -> None:
        expected = [Attacked(steps, size, "margin") for steps in (20, 40, 100, 400, 1000)]
        assert list(TABLES[f"001/{name}"].measures.values()) == expected


class TestTraining:
    def test_there_is_a_model_for_every_row_and_for_the_figures(self) -> None:
        counts = {data: sum(f"/{data}/" in name for name in OURS) for data in ("mnist", "cifar10", "cifar100")}
        assert counts == {"mnist": 37 + 1 + 3, "cifar10": 19 + 3, "cifar100": 3}

    @pytest.mark.parametrize("name", OURS)
    def test_it_is_madry_s(self, name: str) -> None:
        recipe = find_recipe(name)
        training = recipe.training
        shared = (recipe.data, recipe.architecture, recipe.held_out, recipe.threat, training.batch_size, training.ema)
        if name.startswith("001/mnist/"):
            assert shared == ("mnist", "lenet-madry", 5_000, Linf("0.3"), 50, None)
            assert (training.optimizer, training.schedule) == (Optimizer("adam", 1e-4), ConstantRate())
        else:
            assert shared == (name.split("/")[1], "wrn-28-10", 0, Linf("8/255"), 128, None)
            assert training.optimizer == Optimizer("sgd", 0.1, {"momentum": 0.9}, weight_decay=2e-4)
            assert training.schedule == StepRate((0.5, 0.75), 0.1)
            assert training.augmentations[0] == CropAndFlip(padding=2)
        claim_attack(recipe.usual_attack, recipe.threat)

    @pytest.mark.parametrize("name", REGULARISED)
    def test_settings_are_those_of_the_name_and_of_the_row(self, name: str) -> None:
        data, kind, strength, sigma, k = settings(name)
        recipe = find_recipe(name)
        entropy, *_ = recipe.training.objective.terms
        assert entropy.settings["label_smoothing"] == (strength if kind == "ls" else 0)
        assert entropy.settings["convention"] == "all_classes"
        # Equation 5 is a sum over the batch; for SGD it is divided by the size of the batch.
        per = 1 if data == "mnist" else 128
        squeezing = {"frobenius_logit_squeezing": strength / per} if kind == "lsq" else {}
        assert weights(recipe) == {"cross_entropy": 1, **squeezing}
        assert entropy.settings["reduction"] == ("sum" if squeezing and data == "mnist" else "mean")
        noise = GaussianNoise(sigma if data == "mnist" else sigma / 255, clip=False)
        augmentations = recipe.training.augmentations[0 if data == "mnist" else 1 :]
        assert augmentations == ((noise,) if sigma else ())
        steps_per_epoch = 1_100 if data == "mnist" else 391
        assert abs(recipe.training.epochs * steps_per_epoch - k) <= steps_per_epoch / 2
        for row in {claim.row.removesuffix(" (second)") for claim in recipe.claims if claim.column == "test"}:
            alpha, beta, printed_sigma, printed_k = row.split()
            assert {"ls": float(alpha), "lsq": float(beta)}.get(kind, 0) == strength
            assert (float(printed_sigma), name.rsplit("-", 1)[1]) == (sigma, printed_k)

    @pytest.mark.parametrize("name", ["mnist/natural", "cifar10/natural"])
    def test_natural_training_is_cross_entropy_without_noise(self, name: str) -> None:
        recipe = find_recipe(f"001/{name}")
        assert weights(recipe) == {"cross_entropy": 1}
        assert not [one for one in recipe.training.augmentations if isinstance(one, GaussianNoise)]

    @pytest.mark.parametrize("name", ADVERSARIES)
    def test_adversarial_training_sees_adversarial_images_only(self, name: str) -> None:
        recipe = find_recipe(f"001/{name}")
        assert weights(recipe) == {"adversarial_cross_entropy": 1}
        assert recipe.training.objective.adversary == PgdAdversary(*ADVERSARIES[name])

    @pytest.mark.parametrize("name", OURS)
    def test_black_box_examples_are_crafted_on_the_model_of_the_paper(self, name: str) -> None:
        data = name.split("/")[1]
        crafted_on = {"mnist": "natural", "cifar10": "adversarial", "cifar100": "adversarial-weak"}
        surrogate = find_recipe(name).surrogate
        assert surrogate == f"001/{data}/{crafted_on[data]}"
        assert surrogate in RECIPES


class TestDrawnFigures:
    def test_all_eleven_are_there(self) -> None:
        names = {f"001/figure{number}" for number in ("1", "2a", "2b", *range(3, 12))}
        assert set(FIGURES) == names

    @pytest.mark.parametrize("name", FIGURES)
    def test_its_study_is_what_its_kind_draws_and_takes_its_settings(self, name: str) -> None:
        figure = FIGURES[name]
        assert figure.study in KINDS[figure.kind]
        assert set(figure.settings) <= set(STUDIES[figure.study].options)
        Settings(**figure.settings)

    @pytest.mark.parametrize("name", FIGURES)
    def test_its_models_are_recipes_of_one_data_set(self, name: str) -> None:
        recipes = FIGURES[name].recipes()
        assert len({recipe.data for recipe in recipes.values()}) == 1
        assert {recipe.name for recipe in recipes.values()} <= set(OURS)

    def test_noise_and_defence_are_drawn_alone_and_together(self) -> None:
        without, together = FIGURES["001/figure8"].recipes(), FIGURES["001/figure3"].recipes()
        assert list(without) == ["natural", "noise", "squeezing", "squeezing and noise"]
        assert list(together) == ["natural", "noise", "smoothing", "smoothing and noise"]
        for recipes in (without, together):
            noisy = [bool(recipe.training.augmentations) for recipe in recipes.values()]
            assert noisy == [False, True, False, True]
            *_, alone, both = recipes.values()
            assert alone.training.objective.describe() == both.training.objective.describe()

    def test_surfaces_are_those_of_eight_images(self) -> None:
        assert FIGURES["001/figure5"].settings == {"directions": ("random", "random"), "images": 8}
        assert FIGURES["001/figure9"].settings == {"directions": ("random", "adversarial"), "images": 8}
