"""The papers' rows: figures as printed, and the settings that they were trained with."""

from fractions import Fraction

import pytest

from unmask.recipes import Recipe, find_recipe
from unmask.threat import Linf
from unmask.training import ConstantRate, GaussianNoise, Optimizer

MOSBACH_MNIST = """
plain       Plain          99.2  0.0  0.0
clp         CLP            98.8 62.4  4.1
lsq         LSQ            98.8 70.6  5.0
plain-alp   Plain + ALP    98.5 96.0 88.9
50-at-alp   50% AT + ALP   98.3 97.2 89.9
50-at       50% AT         99.1 92.7 88.2
100-at-alp  100% AT + ALP  98.4 96.6 85.7
100-at      100% AT        98.9 95.2 88.0
"""
MOSBACH_CIFAR10 = """
plain       Plain          83.0  0.0  0.0
clp         CLP            73.9  2.8  0.0
lsq         LSQ            81.7 27.0  1.7
plain-alp   Plain + ALP    71.5 23.6 10.7
50-at-alp   50% AT + ALP   70.4 21.8 10.5
50-at       50% AT         73.8 18.6  7.3
100-at-alp  100% AT + ALP  65.7 19.0  6.4
100-at      100% AT        65.7 16.0  6.7
"""
# alpha, beta, sigma, k; train, test, cross-entropy, CW; black-box FGSM and PGD.
SHAFAHI_MNIST = """
plain-sigma-0.5-100k    0    0   0.5 100k 99.89 98.97  5.18  1.95 84.23 86.21
plain-sigma-0.5-400k    0    0   0.5 400k 99.99 99.09 11.24 17.52 87.28 89.44
lsq-0.5-sigma-0.5-100k  0    0.5 0.5 100k 99.83 99.06 57.57 55.77 85.91 87.48
lsq-0.5-sigma-0.5-400k  0    0.5 0.5 400k 99.96 99.21 72.44 72.39 87.58 89.48
lsq-2.0-sigma-0.5-100k  0    2.0 0.5 100k 99.69 99.05 67.93 66.38 85.09 86.29
lsq-2.0-sigma-0.5-400k  0    2.0 0.5 400k 99.94 99.21 79.13 78.36 87.75 89.47
ls-0.95-sigma-0.5-100k  0.95 0   0.5 100k 99.20 99.01 61.95 60.80 84.83 86.02
ls-0.95-sigma-0.5-400k  0.95 0   0.5 400k 99.82 99.23 74.15 73.19 86.72 87.87
"""
# Clean, adversarial and pairing or squeezing weights of Mosbach et al.'s rows.
WEIGHTS = {
    "plain": {"cross_entropy": 1},
    "clp": {"cross_entropy": 1, "clean_logit_pairing": 0.5},
    "lsq": {"cross_entropy": 1, "logit_squeezing": 0.5},
    "plain-alp": {"cross_entropy": 1, "adversarial_logit_pairing": 1},
    "50-at-alp": {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5, "adversarial_logit_pairing": 1},
    "50-at": {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5},
    "100-at-alp": {"adversarial_cross_entropy": 1, "adversarial_logit_pairing": 1},
    "100-at": {"adversarial_cross_entropy": 1},
}


def weights(recipe: Recipe) -> dict[str, float]:
    return {term.name: term.weight for term in recipe.training.objective.terms}


def claims(recipe: Recipe) -> list[tuple[str, str, str, str, float]]:
    return [(claim.paper, claim.table, claim.row, claim.column, claim.value) for claim in recipe.claims]


def mosbach_rows() -> list:
    tables = {"mnist": ("MNIST", MOSBACH_MNIST), "cifar10": ("CIFAR-10", MOSBACH_CIFAR10)}
    return [
        pytest.param(f"000/{data}/{name}", title, " ".join(words[:-3]), words[-3:], id=f"{data}/{name}")
        for data, (title, table) in tables.items()
        for name, *words in (line.split() for line in table.strip().splitlines())
    ]


class TestMosbach:
    @pytest.mark.parametrize(("name", "table", "row", "figures"), mosbach_rows())
    def test_the_figures_are_those_of_the_table(self, name, table, row, figures) -> None:
        columns = ("accuracy", "baseline", "strongest")
        assert claims(find_recipe(name)) == [
            ("Mosbach et al. 2018", table, row, column, pytest.approx(float(figure) / 100, abs=1e-12))
            for column, figure in zip(columns, figures, strict=True)
        ]

    @pytest.mark.parametrize("row", WEIGHTS)
    @pytest.mark.parametrize("data", ["mnist", "cifar10"])
    def test_the_weights_are_those_of_the_objective(self, data: str, row: str) -> None:
        assert weights(find_recipe(f"000/{data}/{row}")) == WEIGHTS[row]

    @pytest.mark.parametrize("row", WEIGHTS)
    @pytest.mark.parametrize(("data", "network"), [("mnist", "lenet"), ("cifar10", "resnet20-v2")])
    def test_the_training_is_the_public_code_s(self, data: str, network: str, row: str) -> None:
        recipe = find_recipe(f"000/{data}/{row}")
        training = recipe.training
        assert (recipe.data, recipe.architecture, recipe.held_out) == (data, network, 0)
        assert training.optimizer == Optimizer("adam", 1e-3, {"eps": 1e-6}, weight_decay=0)
        assert training.schedule == ConstantRate()
        assert (training.epochs, training.batch_size, training.ema) == (10, 256, None)

    @pytest.mark.parametrize("row", WEIGHTS)
    @pytest.mark.parametrize(("data", "sigma"), [("mnist", 0.5), ("cifar10", 0.06)])
    def test_only_clp_and_lsq_train_on_clipped_noise(self, data: str, sigma: float, row: str) -> None:
        noise = (GaussianNoise(sigma, clip=True),) if row in ("clp", "lsq") else ()
        assert find_recipe(f"000/{data}/{row}").training.augmentations == noise

    @pytest.mark.parametrize(
        ("data", "eps", "steps", "step_size"),
        [("mnist", "76.5/255", 40, 2.55 / 255), ("cifar10", "16/255", 10, 2 / 255)],
    )
    def test_the_adversary_is_the_baseline_attack(self, data, eps, steps, step_size) -> None:
        for row, terms in WEIGHTS.items():
            recipe = find_recipe(f"000/{data}/{row}")
            assert recipe.threat == Linf(eps)
            adversary = recipe.training.objective.adversary
            assert (adversary is not None) == any(name.startswith("adversarial") for name in terms)
            if adversary is not None:
                assert (adversary.steps, adversary.step_size, adversary.aim) == (steps, step_size, "untargeted")
                assert adversary.eval_mode

    def test_76_5_of_255_is_exactly_3_tenths(self) -> None:
        assert find_recipe("000/mnist/100-at").threat.exact_eps == Fraction(3, 10)


class TestShafahi:
    @pytest.mark.parametrize("line", SHAFAHI_MNIST.strip().splitlines())
    def test_figures_and_settings_are_those_of_the_table(self, line: str) -> None:
        name, alpha, beta, sigma, k, *figures = line.split()
        recipe = find_recipe(f"001/mnist/{name}")
        columns = ("train", "test", "x-ent", "cw", "black-box fgsm", "black-box pgd")
        assert claims(recipe)[:6] == [
            (
                "Shafahi et al. 2018",
                "Table 6",
                f"{alpha} {beta} {sigma} {k}",
                column,
                pytest.approx(float(figure) / 100),
            )
            for column, figure in zip(columns, figures, strict=True)
        ]
        entropy, *squeezing = recipe.training.objective.terms
        assert entropy.settings["label_smoothing"] == float(alpha)
        assert entropy.settings["convention"] == "all_classes"
        expected = [] if float(beta) == 0 else [("frobenius_logit_squeezing", float(beta))]
        assert [(term.name, term.weight) for term in squeezing] == expected
        assert entropy.settings["reduction"] == ("sum" if expected else "mean")
        assert recipe.training.augmentations == (GaussianNoise(float(sigma), clip=False),)

    @pytest.mark.parametrize("line", SHAFAHI_MNIST.strip().splitlines())
    def test_the_epochs_are_the_whole_ones_nearest_to_k_iterations(self, line: str) -> None:
        name, *_ = line.split()
        recipe = find_recipe(f"001/mnist/{name}")
        assert (recipe.architecture, recipe.data, recipe.held_out) == ("lenet-madry", "mnist", 5_000)
        assert recipe.training.optimizer == Optimizer("adam", 1e-4)
        assert recipe.training.schedule == ConstantRate()
        assert recipe.training.batch_size == 50
        steps_per_epoch = 55_000 // 50
        k = 1_000 * int(line.split()[4].removesuffix("k"))
        assert abs(recipe.training.epochs * steps_per_epoch - k) <= steps_per_epoch / 2
        assert recipe.threat == Linf("0.3")

    def test_a_row_that_is_printed_twice_claims_both(self) -> None:
        found = claims(find_recipe("001/mnist/plain-sigma-0.5-400k"))
        again = [(row, column, value) for _, _, row, column, value in found[6:]]
        assert again == [
            ("0 0 0.5 400k (second)", column, pytest.approx(value))
            for column, value in (
                ("train", 1.0), ("test", 0.9923), ("x-ent", 0.1175), ("cw", 0.1964),
                ("black-box fgsm", 0.8757), ("black-box pgd", 0.8971),
            )
        ]  # fmt: skip


class TestKannan:
    @pytest.mark.parametrize(
        ("name", "row", "figures", "pairing"),
        [("m-pgd", "M-PGD", (93.2, 96.0, 98.5), 0), ("alp", "ALP", (96.4, 97.5, 98.8), 1)],
    )
    def test_figures_and_settings_are_those_of_table_1(self, name, row, figures, pairing) -> None:
        recipe = find_recipe(f"002/mnist/{name}")
        columns = ("white box", "black box", "clean")
        assert claims(recipe) == [
            ("Kannan et al. 2018", "Table 1", row, column, pytest.approx(figure / 100))
            for column, figure in zip(columns, figures, strict=True)
        ]
        halves = {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5}
        assert weights(recipe) == halves | ({"adversarial_logit_pairing": 1} if pairing else {})
        assert recipe.architecture == "lenet-madry"
        assert recipe.threat == Linf("0.3")
        adversary = recipe.training.objective.adversary
        assert adversary is not None
        assert (adversary.steps, adversary.step_size, adversary.aim) == (40, 0.01, "untargeted")
        assert recipe.training.augmentations == ()

    def test_the_pairing_is_the_public_code_s_mean_over_classes(self) -> None:
        *_, pairing = find_recipe("002/mnist/alp").training.objective.terms
        assert pairing.settings == {"distance": "l2", "over_classes": "mean"}
