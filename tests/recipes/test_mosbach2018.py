"""Mosbach et al.'s tables and figures: values as printed, settings as in the public code, and how they are measured."""

from fractions import Fraction

import pytest

from unmask.audit.studies import GRIDS, STUDIES
from unmask.recipes import Recipe, find_recipe
from unmask.recipes.tables import EXPERIMENTS, Accuracy, Attacked, Figure, Table, find_experiments
from unmask.threat import Linf
from unmask.training import ConstantRate, GaussianNoise, Optimizer, ResizedCrop, Saturation, StepRate

MNIST = """
plain       Plain          99.2  0.0  0.0
clp         CLP            98.8 62.4  4.1
lsq         LSQ            98.8 70.6  5.0
plain-alp   Plain + ALP    98.5 96.0 88.9
50-at-alp   50% AT + ALP   98.3 97.2 89.9
50-at       50% AT         99.1 92.7 88.2
100-at-alp  100% AT + ALP  98.4 96.6 85.7
100-at      100% AT        98.9 95.2 88.0
"""
CIFAR10 = """
plain       Plain          83.0  0.0  0.0
clp         CLP            73.9  2.8  0.0
lsq         LSQ            81.7 27.0  1.7
plain-alp   Plain + ALP    71.5 23.6 10.7
50-at-alp   50% AT + ALP   70.4 21.8 10.5
50-at       50% AT         73.8 18.6  7.3
100-at-alp  100% AT + ALP  65.7 19.0  6.4
100-at      100% AT        65.7 16.0  6.7
"""
TINY = """
plain                    Plain                     53.0  3.9  0.4
clp                      CLP                       48.5 12.2  0.7
lsq                      LSQ                       49.4 12.8  0.8
plain-alp-ll             Plain + ALP LL            53.5 17.2  0.8
fine-tuned-plain-alp-ll  Fine-tuned Plain + ALP LL 72.0 31.8  3.6
50-at-ll                 50% AT LL                 46.3 25.1  9.4
50-at-ll-alp-ll          50% AT LL + ALP LL        45.2 26.3 13.5
100-at-ll                100% AT LL                41.2 25.5 16.3
100-at-ll-alp-ll         100% AT LL + ALP LL       37.0 25.4 16.5
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
TINY_WEIGHTS = {
    "plain": {"cross_entropy": 1},
    "clp": {"cross_entropy": 1, "clean_logit_pairing": 0.5},
    "lsq": {"cross_entropy": 1, "logit_squeezing": 0.05},
    "plain-alp-ll": {"cross_entropy": 1, "adversarial_logit_pairing": 0.5},
    "fine-tuned-plain-alp-ll": {"cross_entropy": 1, "adversarial_logit_pairing": 0.5},
    "50-at-ll": {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5},
    "50-at-ll-alp-ll": {"cross_entropy": 0.5, "adversarial_cross_entropy": 0.5, "adversarial_logit_pairing": 0.5},
    "100-at-ll": {"adversarial_cross_entropy": 1},
    "100-at-ll-alp-ll": {"adversarial_cross_entropy": 1, "adversarial_logit_pairing": 0.5},
}


def weights(recipe: Recipe) -> dict[str, float]:
    return {term.name: term.weight for term in recipe.training.objective.terms}


def claims(recipe: Recipe) -> list[tuple[str, str, str, str, float]]:
    return [(claim.paper, claim.table, claim.row, claim.column, claim.value) for claim in recipe.claims]


def rows() -> list:
    tables = {
        "mnist": ("MNIST", MNIST),
        "cifar10": ("CIFAR-10", CIFAR10),
        "tiny-imagenet": ("Tiny ImageNet", TINY),
    }
    return [
        pytest.param(f"000/{data}/{name}", title, " ".join(words[:-3]), words[-3:], id=f"{data}/{name}")
        for data, (title, table) in tables.items()
        for name, *words in (line.split() for line in table.strip().splitlines())
    ]


class TestMnistAndCifar10:
    @pytest.mark.parametrize(("name", "table", "row", "figures"), rows())
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
    @pytest.mark.parametrize(
        ("data", "network", "length"), [("mnist", "lenet", (500, 200)), ("cifar10", "resnet20-v2", (100, 128))]
    )
    def test_the_training_is_the_paper_s(self, data: str, network: str, length: tuple[int, int], row: str) -> None:
        recipe = find_recipe(f"000/{data}/{row}")
        training = recipe.training
        assert (recipe.data, recipe.architecture, recipe.held_out) == (data, network, 0)
        assert training.optimizer == Optimizer("adam", 1e-3, {"eps": 1e-6}, weight_decay=0)
        assert training.schedule == ConstantRate()
        assert ((training.epochs, training.batch_size), training.ema) == (length, None)

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


class TestTinyImageNet:
    @pytest.mark.parametrize("row", TINY_WEIGHTS)
    def test_the_weights_are_those_of_the_objective(self, row: str) -> None:
        assert weights(find_recipe(f"000/tiny-imagenet/{row}")) == TINY_WEIGHTS[row]

    @pytest.mark.parametrize("row", TINY_WEIGHTS)
    def test_every_cross_entropy_smooths_its_labels(self, row: str) -> None:
        terms = find_recipe(f"000/tiny-imagenet/{row}").training.objective.terms
        assert {term.settings["label_smoothing"] for term in terms if "cross_entropy" in term.name} == {0.1}

    @pytest.mark.parametrize("row", [row for row in TINY_WEIGHTS if not row.startswith("fine")])
    def test_the_training_is_the_public_code_s(self, row: str) -> None:
        recipe = find_recipe(f"000/tiny-imagenet/{row}")
        training = recipe.training
        assert (recipe.data, recipe.architecture, recipe.threat) == ("tiny-imagenet", "resnet50-v2", Linf("16/255"))
        assert training.optimizer == Optimizer("adam", 1e-3, weight_decay=1e-4)
        assert (training.batch_size, training.ema) == (256, 0.9999)
        assert abs(training.epochs * 100_000 / 256 - 40_000) < 100_000 / 256
        noise = (GaussianNoise(16 / 255, clip=False),) if row in ("clp", "lsq") else ()
        assert training.augmentations == (ResizedCrop((0.5, 1.0), (0.75, 1.33), True), Saturation(0.5, 2.0), *noise)

    def test_the_rate_falls_tenfold_at_epochs_80_and_90(self) -> None:
        training = find_recipe("000/tiny-imagenet/plain").training
        assert isinstance(training.schedule, StepRate)
        factors = [training.schedule.factor(epoch, training.epochs) for epoch in (0, 79.99, 80, 89.99, 90, 101.9)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])

    def test_the_adversary_steps_towards_the_least_likely_class(self) -> None:
        for row, terms in TINY_WEIGHTS.items():
            adversary = find_recipe(f"000/tiny-imagenet/{row}").training.objective.adversary
            assert (adversary is not None) == any(name.startswith("adversarial") for name in terms)
            if adversary is not None:
                assert (adversary.steps, adversary.step_size, adversary.aim) == (10, 2 / 255, "least_likely")

    def test_only_the_released_model_is_no_target(self) -> None:
        doubted = {row for row in TINY_WEIGHTS for one in find_recipe(f"000/tiny-imagenet/{row}").claims if one.doubt}
        assert doubted == {"fine-tuned-plain-alp-ll"}
        tuned, plain = (
            find_recipe(f"000/tiny-imagenet/{row}").training for row in ("fine-tuned-plain-alp-ll", "plain")
        )
        assert tuned.optimizer.lr < plain.optimizer.lr
        assert tuned.epochs < plain.epochs


class TestTables:
    @pytest.mark.parametrize(
        ("name", "count", "baseline", "strongest"),
        [
            ("mnist", 8, Attacked(40, 2.55 / 255), Attacked(200, 50 / 255, restarts=10_000)),
            ("cifar10", 8, Attacked(10, 2 / 255), Attacked(400, 4 / 255, restarts=100)),
            (
                "tiny-imagenet",
                9,
                Attacked(10, 2 / 255, aim="least_likely"),
                Attacked(400, 4 / 255, restarts=100, aim="least_likely"),
            ),
        ],
    )
    def test_rows_and_measures(self, name: str, count: int, baseline: Attacked, strongest: Attacked) -> None:
        table = EXPERIMENTS[f"000/{name}"]
        assert isinstance(table, Table)
        assert len(table.rows()) == count
        for recipe, claimed in table.rows().values():
            assert [table.measure(claim) for claim in claimed] == [Accuracy(), baseline, strongest]
            assert recipe.surrogate == f"000/{name}/plain"


class TestFigures:
    @pytest.mark.parametrize(
        ("name", "models"),
        [
            ("surfaces", ["Plain", "CLP", "LSQ", "50% AT + ALP"]),
            ("heatmaps", ["CLP", "LSQ", "50% AT + ALP"]),
            ("histograms", ["CLP"]),
        ],
    )
    def test_models_are_the_mnist_rows_of_these_names(self, name: str, models: list[str]) -> None:
        figure = EXPERIMENTS[f"000/figure-{name}"]
        assert isinstance(figure, Figure)
        drawn = {label: (recipe.data, recipe.claims[0].row) for label, recipe in figure.recipes().items()}
        assert drawn == {label: ("mnist", label) for label in models}
        assert list(drawn) == models

    def test_settings_are_the_paper_s(self) -> None:
        heatmaps, histograms = (EXPERIMENTS[f"000/figure-{name}"] for name in ("heatmaps", "histograms"))
        assert isinstance(heatmaps, Figure)
        assert isinstance(histograms, Figure)
        step_sizes, steps = GRIDS[heatmaps.settings["grid"]](Linf("76.5/255"))
        assert (len(step_sizes), steps[0], steps[-1]) == (37, 40, 400)
        assert histograms.settings == {"restarts": 1000}


@pytest.mark.parametrize("one", find_experiments("000"), ids=lambda one: one.name)
def test_every_experiment_is_read_and_every_figure_s_study_heeds_its_settings(one: Table | Figure) -> None:
    assert 150 < len(one.reading) < 700
    if isinstance(one, Figure):
        assert set(one.settings) <= set(STUDIES[one.study].options)
