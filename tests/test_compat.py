"""AutoAttack's call shape: what comes back is what scripts written for it expect, and the audit's."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from unmask.compat import ATTACKS, AutoAttack
from unmask.errors import AuditError, DataError, ModelError, ThreatError
from unmask.losses import predictions

N, CLASSES, EPS = 40, 4, 2 / 255
GENERATOR = torch.Generator().manual_seed(3)
WEIGHTS = torch.randn(CLASSES, 25, generator=GENERATOR)
X = 0.3 + 0.4 * torch.rand(N, 1, 5, 5, generator=GENERATOR)
Y = ((X - 0.5).flatten(1) @ WEIGHTS.T).argmax(1)
Y[:3] = (Y[:3] + 1) % CLASSES


def linear(x: Tensor) -> Tensor:
    return (x - 0.5).flatten(1) @ WEIGHTS.to(x).T


def distance_to_error(order: float) -> Tensor:
    """Return how far (N,) each image is from another class, in the norm whose dual is `order`."""
    logits = linear(X)
    length = torch.linalg.vector_norm(WEIGHTS[None] - WEIGHTS[Y][:, None], ord=order, dim=2)
    gaps = (logits.gather(1, Y[:, None]) - logits) / length.clamp(min=1e-9)
    return gaps.scatter(1, Y[:, None], torch.inf).amin(1)


def adversary(model=linear, **settings) -> AutoAttack:
    return AutoAttack(model, **{"eps": EPS, "verbose": False, "device": "cpu", **settings})


def custom(*attacks: str, **settings) -> AutoAttack:
    return adversary(version="custom", attacks_to_run=attacks, **settings)


@pytest.mark.parametrize(("norm", "eps", "dual"), [("Linf", EPS, 1), ("L2", 0.03, 2), ("L1", 0.06, float("inf"))])
def test_the_audit_answers_in_the_references_form(norm: str, eps: float, dual: float) -> None:
    evaluation = adversary(norm=norm, eps=eps)
    x_adv, y_adv = evaluation.run_standard_evaluation(X, Y, bs=16, return_labels=True)
    distance = distance_to_error(dual)
    robust, wrong = distance > eps, distance < 0
    assert 0.2 < robust.float().mean() < 0.9  # else nothing is measured
    assert evaluation.result is not None
    assert evaluation.result.robust_accuracy == pytest.approx(robust.float().mean().item())
    assert torch.equal(evaluation.result.survived, robust)
    # What no attack changed is the image itself: misclassified ones, and all that held.
    assert torch.equal((x_adv == X).flatten(1).all(1), robust | wrong)
    assert evaluation.threat.contains(x_adv, X).all()
    assert torch.equal(y_adv, predictions(linear(x_adv)))
    assert torch.equal(y_adv == Y, robust)


def test_without_labels_there_is_one_tensor() -> None:
    found = custom("apgd-ce").run_standard_evaluation(X[:4], Y[:4])
    assert isinstance(found, Tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_come_back_as_given(dtype: torch.dtype) -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == dtype
            return linear(x)

    x, y = X.to(dtype).requires_grad_(), Y.int()
    x_adv, y_adv = custom("apgd-ce", model=Strict()).run_standard_evaluation(x, y, return_labels=True)
    assert x_adv.dtype == dtype and y_adv.dtype == torch.int32
    assert not x_adv.requires_grad and x_adv.shape == x.shape
    assert torch.equal(predictions(linear(x_adv)).int(), y_adv)
    held = (y_adv == y).numpy()
    assert 0 < held.sum() < N and torch.equal(x_adv[held], x.detach()[held])


@pytest.mark.parametrize(
    ("version", "budget"), [("standard", "standard"), ("plus", "exhaustive"), ("rand", "autoattack-rand")]
)
def test_versions_are_budgets(version: str, budget: str) -> None:
    evaluation = adversary(version=version, eps=0.5, seed=5)  # so wide that all fall at once
    evaluation.run_standard_evaluation(X, Y)
    assert evaluation.result is not None
    spec = evaluation.result.run.spec
    assert (spec.budget, spec.claim, spec.seed) == (budget, "pgd-40", 5)
    assert evaluation.result.robust_accuracy == 0


def test_a_list_of_attacks_runs_those_alone_in_their_order() -> None:
    evaluation = custom("fab-t", "apgd-dlr")
    evaluation.run_standard_evaluation(X[:8], Y[:8])
    assert evaluation.result is not None
    plan = [(entry.attack, entry.restarts) for entry in evaluation.result.run.spec.plan]
    assert plan == [("clean", 1), ("fab-t", 1), ("apgd-dlr", 5)]
    assert evaluation.result.claimed_accuracy is None


def test_a_list_given_later_counts_too() -> None:
    evaluation = adversary()
    evaluation.attacks_to_run = ["apgd-t"]
    evaluation.run_standard_evaluation(X[:8], Y[:8])
    assert evaluation.result is not None
    assert [entry.attack for entry in evaluation.result.run.spec.plan] == ["clean", "apgd-t"]


def test_each_attack_by_itself() -> None:
    evaluation = custom("fab-t", "apgd-t")
    found = evaluation.run_standard_evaluation_individual(X, Y, batch_size=16, return_labels=True)
    assert list(found) == list(evaluation.results) == ["fab-t", "apgd-t"]
    robust = distance_to_error(1) > EPS
    for x_adv, y_adv in found.values():  # each reaches a linear model's optimum, so neither got survivors alone
        assert torch.equal(predictions(linear(x_adv)), y_adv)
        assert torch.equal(y_adv == Y, robust)
    assert evaluation.attacks_to_run == ["fab-t", "apgd-t"]


def test_clean_accuracy_leaves_the_model_in_its_mode() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -linear(x) if self.training else linear(x)

    model = Dropping().train()
    evaluation = adversary(model)
    assert evaluation.clean_accuracy(X, Y.int(), bs=7) == (N - 3) / N
    evaluation.run_standard_evaluation(X[:4], Y[:4])
    assert model.training


def test_what_is_printed_and_logged(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    log = tmp_path / "log.txt"
    custom("apgd-t", verbose=True, log_path=log).run_standard_evaluation(X, Y)
    printed = capsys.readouterr().out
    robust = (distance_to_error(1) > EPS).float().mean().item()
    assert f"initial accuracy: {(N - 3) / N:.2%}" in printed
    assert f"robust accuracy after APGD-T: {robust:.2%}" in printed
    assert f"robust accuracy: {robust:.2%}" in printed.splitlines()
    assert log.read_text() == printed
    custom("apgd-ce").run_standard_evaluation(X[:4], Y[:4])
    assert capsys.readouterr().out == ""


def test_a_state_path_keeps_the_record(tmp_path) -> None:
    passes = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal passes
        passes += len(x)
        return linear(x)

    first = custom("fab-t", model=counted).run_standard_evaluation(X, Y, state_path=tmp_path / "run")
    spent, passes = passes, 0
    again = custom("fab-t", model=counted).run_standard_evaluation(X, Y, state_path=tmp_path / "run")
    assert torch.equal(first, again) and passes < spent / 3
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("eps", "shown"), [(8 / 255, "Linf(8/255)"), (0.3, "Linf(0.3)"), ("4/255", "Linf(4/255)"), (0.0317, "Linf(0.0317)")]
)
def test_eps_is_taken_for_what_it_is(eps: float | str, shown: str) -> None:
    assert str(adversary(eps=eps).threat) == shown


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"norm": "L3"}, ThreatError, "norm 'L3'. Known: l1, l2, linf"),
        ({"norm": "Linf", "eps": -1.0}, ThreatError, "eps"),
        ({"version": "standart"}, AuditError, "version 'standart'. Did you mean 'standard'"),
        ({"version": "custom", "attacks_to_run": ["apgd"]}, AuditError, "attack of AutoAttack 'apgd'.*apgd-ce"),
        ({"attacks_to_run": ["apgd-ce"]}, AuditError, "To run apgd-ce: version='custom'"),
        ({"is_tf_model": True}, ModelError, "from_numpy.*access='scores'"),
    ],
)
def test_what_cannot_be_built(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        adversary(**settings)


@pytest.mark.parametrize(
    ("evaluation", "x", "y", "error", "message"),
    [
        (lambda: adversary(version="custom"), X, Y, AuditError, "needs attacks_to_run"),
        (lambda: custom("square", "fab", norm="L1"), X, Y, AuditError, r"Leave it out.*attacks_to_run=\['fab'\]"),
        (lambda: adversary(device="cuda:99"), X, Y, ModelError, "cuda:99"),
        (adversary, 255 * X, Y, DataError, "divide by 255"),
        (adversary, X.numpy(), Y, DataError, "expected a tensor"),
        (adversary, X, Y.float(), DataError, "int64"),
        (adversary, X, Y[:5], DataError, "one class number per image"),
        (lambda: adversary(lambda x: linear(x).softmax(1)), X, Y, ModelError, "from_probabilities"),
    ],
)
def test_what_cannot_be_evaluated(evaluation, x, y, error, message) -> None:
    with pytest.raises(error, match=message):
        evaluation().run_standard_evaluation(x, y)


def test_a_model_that_fails_on_the_way_has_no_robust_accuracy() -> None:
    def failing(x: Tensor) -> Tensor:
        if x.requires_grad and ((x.detach() - X[9]).flatten(1).abs().amax(1) < 2 * EPS).any():
            raise RuntimeError("no such image")
        return linear(x)

    evaluation = custom("apgd-ce", model=failing)
    with pytest.raises(AuditError, match=r"Image 9: apgd-ce.*no such image"):
        evaluation.run_standard_evaluation(X[:10], Y[:10])
    assert evaluation.result is not None and evaluation.result.headline is None


def test_parts_of_the_reference_that_do_not_exist_say_so() -> None:
    evaluation = adversary()
    with pytest.raises(AttributeError, match=r"'apgd'.*budget="):
        evaluation.apgd.n_restarts = 2
    assert not hasattr(evaluation, "anything")


def test_the_device_is_the_models() -> None:
    evaluation = AutoAttack(nn.Sequential(nn.Flatten(), nn.Linear(25, CLASSES)), verbose=False)
    assert evaluation.clean_accuracy(X, Y) <= 1


@pytest.mark.parity
def test_a_script_for_pyautoattack_runs_and_agrees() -> None:
    reference = pytest.importorskip("pyautoattack").AutoAttack
    theirs, ours = (list(inspect.signature(method).parameters) for method in (reference, AutoAttack))
    assert set(theirs) <= set(ours)
    settings = {"norm": "Linf", "eps": EPS, "seed": 0, "device": "cpu", "attacks": ["apgd-ce"], "version": "custom"}
    x_adv, y_adv = reference(linear, **settings).run_standard_evaluation(X, Y, batch_size=16)
    x_own, y_own = AutoAttack(linear, **settings).run_standard_evaluation(X, Y, batch_size=16, return_labels=True)
    assert (x_own.shape, x_own.dtype, x_own.device) == (x_adv.shape, x_adv.dtype, x_adv.device)
    assert (y_own.shape, y_own.dtype, y_own.device) == (y_adv.shape, y_adv.dtype, y_adv.device)
    assert torch.equal(y_own == Y, y_adv == Y)
    assert torch.equal((x_own == X).flatten(1).all(1), (x_adv == X).flatten(1).all(1))


def test_the_references_arguments_come_in_its_order() -> None:
    names = "model norm eps seed verbose attacks_to_run version is_tf_model device log_path"
    assert " ".join(inspect.signature(AutoAttack).parameters).startswith(names)
    assert sorted(ATTACKS) == ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
    for method in (AutoAttack.run_standard_evaluation, AutoAttack.run_standard_evaluation_individual):
        assert list(inspect.signature(method).parameters)[1:5] == ["x_orig", "y_orig", "bs", "return_labels"]
