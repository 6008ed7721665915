"""Kannan et al.'s tables: values as printed, settings as the paper or the public code gives them, and the measures."""

import pytest

from unmask.models import ARCHITECTURES
from unmask.recipes import RECIPES, Recipe, find_recipe
from unmask.recipes.tables import EXPERIMENTS, Accuracy, Attacked, Table, find_experiments
from unmask.threat import Linf
from unmask.training import (
    EnsembleAdversary,
    GaussianNoise,
    Optimizer,
    PgdAdversary,
    StaircaseRate,
)

PUBLISHED = """
table1  M-PGD                 white box 93.2 / black box 96.0 / clean 98.5
table1  ALP                   white box 96.4 / black box 97.5 / clean 98.8
table2  M-PGD                 white box 44.4 / black box 55.4 / clean 96.9
table2  ALP                   white box 46.9 / black box 56.2 / clean 96.0
table3  Regular training      white box top 1 0.7 / white box top 5 4.4
table3  Tramèr et al. (2018)  white box top 1 1.3 / white box top 5 6.5
table3  Kurakin et al. (2017a)  white box top 1 1.5 / white box top 5 5.5
table3  M-PGD                 white box top 1 3.9 / white box top 5 10.3
table3  ALP                   white box top 1 27.9 / white box top 5 55.4
table4  M-PGD                 black box top 1 36.5 / black box top 5 62.3
table4  ALP                   black box top 1 46.7 / black box top 5 74.0
table4  Tramèr et al. (2018)  black box top 1 47.1 / black box top 5 74.3
table5  InceptionV3           white box top 1 27.9 / white box top 5 55.4
table5  ResNet-101            white box top 1 30.2 / white box top 5 55.8
table6  InceptionV3           black box top 1 46.7 / black box top 5 74.0
table6  ResNet-101            black box top 1 36.0 / black box top 5 62.2
table7  M-PGD                 white box 93.2 / black box 96.0 / clean 98.8
table7  Logit squeezing       white box 86.4 / black box 96.8 / clean 99.0
table8  M-PGD                 white box 44 / black box 55 / clean 97
table8  CLP                   white box 33 / black box 45 / clean 96
table9  EAT                   white box 1.3 / black box 48.3 / clean 75.8
table9  CLP                   white box 33 / black box 45 / clean 96
table10 Mixup                 white box top 1 0.1 / white box top 5 1.5
table10 Label smoothing       white box top 1 1.6 / white box top 5 10.0
table10 ALP                   white box top 1 28.2 / white box top 5 49.8
figure1 noise only            white box 25
eat-transfer Tramèr et al. (2018)  step_ll 66.6 / iter_ll 48.3
"""
KANNAN = [name for name in RECIPES if name.startswith("002/")]
TABLES = [one for one in find_experiments("002") if isinstance(one, Table)]


def weights(recipe: Recipe) -> dict[str, float]:
    return {term.name: term.weight for term in recipe.training.objective.terms}


def parsed() -> dict[tuple[str, str], dict[str, float]]:
    found = {}
    for line in PUBLISHED.strip().splitlines():
        table, rest = line.split(maxsplit=1)
        first, *others = rest.split(" / ")
        start = next(at for at in ("  ", " white", " black", " step_ll") if at in first)
        row, cell = first.split(start, 1)
        cells = [(start + cell).strip(), *others]
        found[table, row] = {column: float(value) for column, value in (one.rsplit(" ", 1) for one in cells)}
    return found


class TestTables:
    def test_the_figures_are_those_of_the_paper(self) -> None:
        claimed = {
            (table.name.removeprefix("002/"), row): {claim.column: pytest.approx(100 * claim.value) for claim in claims}
            for table in TABLES
            for row, (_, claims) in table.rows().items()
            if claims[0].value is not None
        }
        assert claimed == parsed()

    def test_figure_1_is_drawn_for_both_penalties_and_four_weights(self) -> None:
        rows = EXPERIMENTS["002/figure1"].rows()
        drawn = [row for row, (_, (claim,)) in rows.items() if claim.value is None]
        assert drawn == [f"{name} {weight}" for name in ("CLP", "LSQ") for weight in ("0.1", "0.2", "0.5", "1")]
        assert list(rows) == ["noise only", *drawn]
        for row in drawn:
            recipe, _ = rows[row]
            penalty = {"CLP": "clean_logit_pairing", "LSQ": "logit_squeezing"}[row.split()[0]]
            assert weights(recipe) == {"cross_entropy": 1, penalty: float(row.split()[1])}
        assert all(recipe.training.augmentations == (GaussianNoise(0.5),) for recipe, _ in rows.values())

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
    def test_every_claim_is_measured_and_every_transfer_has_a_surrogate(self, table: Table) -> None:
        assert 150 < len(table.reading) < 700
        for recipe, claims in table.rows().values():
            for claim in claims:
                measure = table.measure(claim)
                assert isinstance(measure, Accuracy) == (claim.column == "clean")
                if isinstance(measure, Attacked):
                    assert measure.transferred == (
                        claim.column.startswith("black box") or table.name == "002/eat-transfer"
                    )
                    assert measure.top == (5 if claim.column.endswith("top 5") else 1)
            assert recipe.surrogate in RECIPES

    def test_attacks_are_the_paper_s(self) -> None:
        white = {table.name: next(iter(table.measures.values())) for table in TABLES}
        assert white["002/table1"] == white["002/table7"] == white["002/figure1"] == Attacked(40, 0.01)
        assert white["002/table2"] == white["002/table8"] == Attacked(10, 3 / 255)
        for number in (3, 5, 9, 10):
            assert white[f"002/table{number}"] == Attacked(10, 2 / 255, aim="random")

    def test_only_what_the_paper_got_wrong_or_quotes_is_no_target(self) -> None:
        doubted = {
            (claim.table, claim.row, claim.column)
            for name in KANNAN
            for claim in find_recipe(name).claims
            if claim.doubt
        }
        assert doubted == {
            *(("Table 9", "CLP", column) for column in ("white box", "black box", "clean")),
            ("Section 5.3.4", "Tramèr et al. (2018)", "step_ll"),
        }


class TestMnist:
    @pytest.mark.parametrize(("name", "pairing"), [("m-pgd", 0), ("alp", 1)])
    def test_network_and_attack_are_madry_s(self, name: str, pairing: float) -> None:
        recipe = find_recipe(f"002/mnist/{name}")
        halves = {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5}
        assert weights(recipe) == halves | ({"adversarial_logit_pairing": 1} if pairing else {})
        assert (recipe.architecture, recipe.threat) == ("lenet-madry", Linf("0.3"))
        adversary = recipe.training.objective.adversary
        assert isinstance(adversary, PgdAdversary)
        assert (adversary.steps, adversary.step_size, adversary.aim) == (40, 0.01, "untargeted")
        assert recipe.training.augmentations == ()

    def test_the_pairing_is_the_public_code_s_mean_over_classes(self) -> None:
        *_, pairing = find_recipe("002/mnist/alp").training.objective.terms
        assert pairing.settings == {"distance": "l2", "over_classes": "mean"}


class TestSvhn:
    @pytest.mark.parametrize(
        ("name", "penalty"),
        [("m-pgd", {}), ("alp", {"adversarial_logit_pairing": 0.5}), ("clp", {"clean_logit_pairing": 0.5})],
    )
    def test_settings_are_the_paper_s(self, name: str, penalty: dict[str, float]) -> None:
        recipe = find_recipe(f"002/svhn/{name}")
        assert (recipe.data, recipe.architecture, recipe.threat) == ("svhn", "revnet-9", Linf("12/255"))
        adversary = recipe.training.objective.adversary
        if name == "clp":
            assert adversary is None
            assert weights(recipe) == {"cross_entropy": 1, **penalty}
            assert [type(one) for one in recipe.training.augmentations] == [GaussianNoise]
        else:
            assert adversary == PgdAdversary(Linf("12/255"), steps=10, step_size=3 / 255)
            assert weights(recipe) == {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5, **penalty}
            assert recipe.training.augmentations == ()


class TestImageNet:
    @pytest.mark.parametrize("name", [name for name in KANNAN if "/imagenet/" in name])
    def test_the_training_is_the_paper_s(self, name: str) -> None:
        recipe = find_recipe(name)
        training = recipe.training
        data, architecture = ("imagenet-224", "resnet101") if "resnet101" in name else ("imagenet", "inception-v3")
        assert (recipe.data, recipe.architecture, recipe.threat) == (data, architecture, Linf("16/255"))
        assert ARCHITECTURES[architecture].input_shape[1] == {"imagenet": 299, "imagenet-224": 224}[data]
        settings = {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}
        assert training.optimizer == Optimizer("rmsprop", 0.045, settings, weight_decay=1e-4)
        assert training.schedule == StaircaseRate(0.94, 2)
        assert (training.ema, training.batch_size, training.accumulate) == (0.9999, 1600, 50)

    @pytest.mark.parametrize(("name", "pairing"), [("m-pgd", {}), ("alp", {"adversarial_logit_pairing": 0.5})])
    def test_pgd_aims_at_random_classes_and_both_halves_are_smoothed(
        self, name: str, pairing: dict[str, float]
    ) -> None:
        recipe = find_recipe(f"002/imagenet/{name}")
        assert weights(recipe) == {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5, **pairing}
        assert recipe.training.objective.adversary == PgdAdversary(Linf("16/255"), 10, 2 / 255, aim="random")
        terms = recipe.training.objective.terms[:2]
        assert [term.settings["label_smoothing"] for term in terms] == [0.1, 0.1]

    @pytest.mark.parametrize("name", ["step-ll", "eat"])
    def test_single_step_defences_take_one_step_of_eps_from_the_image(self, name: str) -> None:
        adversary = find_recipe(f"002/imagenet/{name}").training.objective.adversary
        attack = adversary.attack if isinstance(adversary, EnsembleAdversary) else adversary
        assert attack == PgdAdversary(Linf("16/255"), 1, 16 / 255, aim="least_likely", start="clean")

    def test_the_ensemble_s_fixed_models_are_recipes_without_an_adversary(self) -> None:
        adversary = find_recipe("002/imagenet/eat").training.objective.adversary
        assert isinstance(adversary, EnsembleAdversary)
        fixed = [find_recipe(name) for name in adversary.surrogates]
        assert [recipe.training.objective.adversary for recipe in fixed] == [None, None]
        assert [recipe.architecture for recipe in fixed] == ["inception-v3", "resnet101"]

    def test_mixup_and_label_smoothing_are_single_settings(self) -> None:
        mixup, smoothing = (
            find_recipe(f"002/imagenet/resnet101-{name}").training for name in ("mixup", "label-smoothing")
        )
        assert (mixup.mixup, smoothing.mixup) == (0.2, None)
        (plain,), (smooth,) = mixup.objective.terms, smoothing.objective.terms
        assert plain.settings["label_smoothing"] == 0
        assert (smooth.settings["label_smoothing"], smooth.settings["convention"]) == (0.1, "wrong_classes")
