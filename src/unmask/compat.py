"""Another package's call shape, answered by the audit: a script written for AutoAttack changes one import.

from unmask.compat import AutoAttack  # was: from autoattack import AutoAttack

adversary = AutoAttack(model, norm="Linf", eps=8 / 255, version="standard")
x_adv = adversary.run_standard_evaluation(x_test, y_test, bs=250)
print(adversary.result.headline, adversary.result.verdict.label)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from unmask.attacks.square import NORMS
from unmask.audit import PLANS, AuditProgress, AuditResult, PlannedAttack, audit
from unmask.audit.plan import CLAIM
from unmask.contract import Model, check_images, check_labels, eval_mode, logits_of, usable_device
from unmask.distributed import Workers
from unmask.errors import AuditError, ModelError, unknown
from unmask.files import writing
from unmask.losses import predictions
from unmask.threat import ThreatModel, threat_model

BUDGETS = {"standard": "standard", "plus": "exhaustive", "rand": "autoattack-rand"}
ATTACKS = tuple(attack.name for attack in PLANS["autoattack-plus"](10))
PARTS = ("apgd", "apgd_targeted", "fab", "square")
ALONE = Workers()

Answer = Tensor | tuple[Tensor, Tensor]


class AutoAttack:
    """The evaluation of `autoattack.AutoAttack` (Croce & Hein 2020) by an audit; `pyautoattack`'s `attacks` and
    `batch_size` are understood too.

    `model`: images (B, C, H, W) in [0, 1] -> logits (B, K); a module is evaluated in eval mode and given back as it
    was. `norm`: "Linf", "L2" or "L1". By `version` it runs the audit's budget "standard", for "plus" the budget
    "exhaustive", for "rand" the plan autoattack-rand, and for "custom" the attacks that `attacks_to_run` names, with
    AutoAttack's settings. A seed of None is 0. `device`: None is where a module's parameters are, for another callable
    a GPU where there is one. `log_path` names a file that gets every line that is printed.

    `result` is the last evaluation's AuditResult, `results` those of `run_standard_evaluation_individual` by attack.

    What differs: the audit's attacks are not AutoAttack's (its suites are the plans autoattack-standard, -plus and
    -rand); a model that answers at random is not averaged over for you (`unmask.models.expectation`); no attack's
    own settings can be changed.

    Raises ThreatError for a norm or eps that is none, AuditError for a version or attacks that do not exist,
    ModelError for a TensorFlow model.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float | str = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] | None = None,
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
        *,
        attacks: Sequence[str] | None = None,
    ) -> None:
        if is_tf_model:
            raise ModelError(
                "A TensorFlow model cannot be given as it is. Wrap its predict function, "
                "unmask.models.from_numpy(predict), or export it, unmask.models.from_onnx(path), and audit its "
                "answers: unmask.audit(..., access='scores', claim=None)."
            )
        self.model, self.norm, self.epsilon, self.seed = model, norm, eps, seed
        self.verbose, self.device, self.log_path = verbose, device, log_path
        self.result: AuditResult | None = None
        self.results: dict[str, AuditResult] = {}
        named = list(attacks_to_run or attacks or ())
        if named and version != "custom":
            raise AuditError(
                f"Version '{version}' brings its own attacks. To run {', '.join(named)}: version='custom'."
            )
        self.attacks_to_run: list[str] = []
        self.set_version(version)
        self.attacks_to_run = named or self.attacks_to_run
        _check_names(self.attacks_to_run)
        _ = self.threat

    def __getattr__(self, name: str) -> NoReturn:
        hint = " The audit chooses its attacks' settings; for your own: unmask.audit(..., budget=[PlannedAttack(...)])."
        raise AttributeError(f"AutoAttack of unmask.compat has no '{name}'.{hint if name in PARTS else ''}")

    @property
    def threat(self) -> ThreatModel:
        """The threat model of `norm` and `epsilon`; 8 / 255 and other simple fractions are taken as what they are."""
        eps, near = self.epsilon, None
        if isinstance(eps, float) and abs(eps) < 1e6:
            near = Fraction(eps).limit_denominator(255)
        return threat_model(self.norm, near if near is not None and abs(near - Fraction(eps)) < 1e-15 else eps)

    def set_version(self, version: str = "standard") -> None:
        """Choose "standard", "plus", "rand" or "custom" (of `attacks_to_run`); raises AuditError for another."""
        if version != "custom" and version not in BUDGETS:
            raise AuditError(unknown("version", version, [*BUDGETS, "custom"]))
        self.version = version
        self.attacks_to_run = [] if version == "custom" else _suite_names(version)

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
        *,
        batch_size: int | None = None,
    ) -> Answer:
        """Audit the model on images x_orig (N, C, H, W) with labels y_orig (N,) and return the adversarial images.

        They come as x_orig does (shape, type, device), with the image itself wherever no attack succeeded; with
        `return_labels` their predicted classes (N,) come as well. `state_path` is the folder of the audit's record:
        the same call goes on where a killed one stopped. Raises what `unmask.audit` raises, and AuditError where the
        model failed on some image (`result.errors`).
        """
        usual = self.version in BUDGETS and self.attacks_to_run == _suite_names(self.version)
        budget = BUDGETS[self.version] if usual else self._planned(x_orig)
        named = f"the audit '{budget}'" if usual else ", ".join(self.attacks_to_run)
        self._say(f"using {self.version} version, {named}, within {self.threat}")
        result = self._audit(x_orig, y_orig, budget, batch_size or bs, state_path, watch=_Teller(self._say))
        self.result = result
        x_adv, y_adv = _answer(x_orig, y_orig, result)
        distance = self.threat.distance(x_adv, x_orig.detach()).max()
        self._say(
            f"max {self.norm} perturbation: {distance:.5f}, nan in tensor: {int(x_adv.isnan().sum())}, "
            f"max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
        )
        self._say(f"robust accuracy: {result.robust_accuracy:.2%}")
        self._say(f"verdict: {result.verdict.label}. {' '.join(result.verdict.reasons)}")
        return (x_adv, y_adv) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        *,
        batch_size: int | None = None,
    ) -> dict[str, Answer]:
        """Run each attack of the version by itself on all images; returns by its name what an evaluation returns.

        Here "standard", "plus" and "rand" mean AutoAttack's own suites.
        """
        answers: dict[str, Answer] = {}
        for attack in self._planned(x_orig):
            begun = time.monotonic()
            result = self._audit(x_orig, y_orig, [attack], batch_size or bs, diagnostics=False)
            self.results[attack.name] = result
            x_adv, y_adv = _answer(x_orig, y_orig, result)
            answers[attack.name] = (x_adv, y_adv) if return_labels else x_adv
            seconds = time.monotonic() - begun
            accuracy = f"{result.robust_accuracy:.2%}"
            self._say(f"robust accuracy by {attack.name.upper():<9} {accuracy:>7} (time attack: {seconds:.1f} s)")
        return answers

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the share of images x_orig (N, C, H, W) whose predicted class is that of y_orig (N,)."""
        check_images(x_orig)
        check_labels(_whole(y_orig), len(x_orig))
        right, device = 0, self._device()
        with eval_mode(self.model), torch.no_grad():
            for x, y in zip(x_orig.split(bs), y_orig.split(bs), strict=True):
                right += int((predictions(logits_of(self.model, x.to(device))) == y.to(device)).sum())
        accuracy = right / max(len(x_orig), 1)
        self._say(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _audit(
        self,
        x: Tensor,
        y: Tensor,
        budget: str | Sequence[PlannedAttack],
        batch_size: int,
        run_dir: str | Path | None = None,
        diagnostics: bool = True,
        watch: Callable[[AuditProgress], None] | None = None,
    ) -> AuditResult:
        check_images(x)
        check_labels(_whole(y), len(x))
        device = self._device()
        return audit(
            self.model if x.dtype == torch.float32 else _InPrecision(self.model, x.dtype),
            x.detach().to(device),
            _whole(y).to(device),
            self.threat,
            budget=budget,
            claim=CLAIM if isinstance(budget, str) else None,
            seed=self.seed or 0,
            run_dir=run_dir,
            batch_size=batch_size,
            diagnostics=diagnostics,
            watch=watch,
            workers=ALONE,
        )

    def _planned(self, x: Tensor) -> list[PlannedAttack]:
        """Return AutoAttack's attacks of the names to run, in their order, for as many classes as the model has."""
        _check_names(self.attacks_to_run)
        if not self.attacks_to_run:
            raise AuditError(f"Version 'custom' needs attacks_to_run: any of {', '.join(ATTACKS)}.")
        if "square" in self.attacks_to_run and self.threat.norm not in NORMS:
            others = [name for name in self.attacks_to_run if name != "square"]
            raise AuditError(
                f"Square knows no windows for {self.threat}. Leave it out: version='custom', attacks_to_run={others}."
            )
        check_images(x)
        with eval_mode(self.model), torch.no_grad():
            classes = logits_of(self.model, x[:1].to(self._device())).shape[1]
        suite = "plus" if self.version == "custom" else self.version
        planned = (*PLANS["autoattack-plus"](classes), *PLANS[f"autoattack-{suite}"](classes))
        known = {attack.name: attack for attack in planned}  # the suite's own settings come last
        return [known[name] for name in self.attacks_to_run]

    def _device(self) -> torch.device:
        if self.device is not None:
            return usable_device(self.device)
        parameter = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        if parameter is not None:
            return parameter.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _say(self, line: str) -> None:
        if not self.verbose:
            return
        print(line, flush=True)
        if self.log_path is not None:
            path = Path(self.log_path)
            with writing(path), path.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")


class _Teller:
    """Tells of the clean accuracy, and of every round that brought it down; of a fixed plan every round."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.lowest, self.begun = say, 1.0, time.monotonic()

    def __call__(self, now: AuditProgress) -> None:
        if now.done < now.of:
            return
        if now.round == 0:
            self.say(f"initial accuracy: {now.upper_bound:.2%}")
        elif now.upper_bound < self.lowest or now.rounds is not None:
            passed = time.monotonic() - self.begun
            self.say(f"robust accuracy after {now.attack.upper()}: {now.upper_bound:.2%} (total time {passed:.1f} s)")
        self.lowest = min(self.lowest, now.upper_bound)


class _InPrecision(nn.Module):
    """A model that is given its images in a type of its own; audits keep theirs in float32."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype))


def _answer(x: Tensor, y: Tensor, result: AuditResult) -> tuple[Tensor, Tensor]:
    """Return x and y with the adversarial images (N, C, H, W) and the predicted classes (N,) put in."""
    if result.headline is None:
        told = "".join(f" Image {example}: {message}." for example, message in [*result.errors.items()][:1])
        raise AuditError(f"Some images ended in an error, so there is no robust accuracy.{told} Mend the model.")
    events = result.run.events
    fell = events["status"] == "broken"
    attacked = torch.from_numpy(events["id"][fell & (events["attack"] != "clean")])
    wrong, predicted = torch.from_numpy(events["id"][fell]), torch.from_numpy(events["predicted"][fell])
    x_adv, y_adv = x.detach().clone(), y.clone()
    x_adv[attacked.to(x.device)] = result.x_adv[attacked.to(result.x_adv.device)].to(x_adv)
    y_adv[wrong.to(y.device)] = predicted.to(y_adv)
    return x_adv, y_adv


def _suite_names(version: str) -> list[str]:
    return [attack.name for attack in PLANS[f"autoattack-{version}"](10)] if version in BUDGETS else []


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in ATTACKS:
            raise AuditError(unknown("attack of AutoAttack", name, ATTACKS))


def _whole(y: Tensor) -> Tensor:
    return y.long() if isinstance(y, Tensor) and not y.is_floating_point() else y
