"""The audit: every attack of the plan on the survivors of those before it, every break verified, all of it recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask.attacks.problem import AttackResult
from unmask.audit.plan import CLAIM, PlannedAttack, make_plan
from unmask.audit.spec import Subject, make_spec
from unmask.audit.verdict import Verdict, decide
from unmask.contract import Model, check_images, check_labels, check_not_probabilities, eval_mode, logits_of
from unmask.diagnostics import Finding, claim_gap, determinism, eps_curve, gradients, restart_losses
from unmask.errors import AuditError, DataError, UnmaskError
from unmask.ledger import ExampleEvent, FindingEntry, Ledger, ResultEntry, Round, Run, queries
from unmask.losses import cross_entropy, margin, predictions
from unmask.streams import Streams
from unmask.threat import ThreatModel

BATCH_SIZE = 256


@dataclass(frozen=True)
class AuditProgress:
    """What a watcher is told after every batch: where the audit stands, and what is known so far."""

    attack: str
    restart: int
    round: int
    rounds: int
    done: int
    survivors: int
    upper_bound: float
    evaluations: int


@dataclass(frozen=True)
class AuditResult:
    """What an audit measured on N images; accuracies are shares in [0, 1].

    survived (N,) bool; x_adv (N, C, H, W) the best found per image (the image itself where it is misclassified as it
    is); forwards, backwards: example passes spent in all, checks included. `claimed_accuracy` is None without a
    claim, `headline` None while an image ended in an error (then `errors` says what happened, by id). `run` is the
    record, for queries and reports.
    """

    clean_accuracy: float
    claimed_accuracy: float | None
    robust_accuracy: float
    interval: tuple[float, float]
    survived: Tensor
    x_adv: Tensor
    forwards: int
    backwards: int
    verdict: Verdict
    findings: tuple[Finding, ...]
    headline: str | None
    run: Run
    errors: dict[int, str] = field(default_factory=dict)


def audit(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    budget: str | Sequence[PlannedAttack] = "standard",
    claim: str | None = CLAIM,
    seed: int = 0,
    run_dir: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    ids: Tensor | None = None,
    subject: Subject | None = None,
    diagnostics: bool = True,
    watch: Callable[[AuditProgress], None] | None = None,
) -> AuditResult:
    """Say how robust `model` really is on images x (B, C, H, W) float in [0, 1] with labels y (B,) int64.

    `model` maps images to logits (B, K). `budget` is "quick", "standard", "exhaustive" or attacks of your own.
    `claim` is the usual attack whose figure is the claim ("pgd-40", "fgsm", None to leave it out). With a `run_dir`
    everything is kept there, and the same call goes on where a killed one stopped. `ids` (B,) name the examples;
    random draws depend on (seed, id, attack, restart) alone. A module is audited in eval mode and given back as it
    was.

    Raises DataError for unusable images or labels, ModelError for outputs that are not finite logits, AuditError for
    an unknown budget or claim, LedgerError if `run_dir` belongs to another run, OutputError if it cannot be written.
    """
    check_images(x, threat.low, threat.high)
    check_labels(y, len(x))
    if not len(x):
        raise DataError("There are no images to audit; give at least one.")
    if batch_size < 1:
        raise AuditError(f"The batch size is {batch_size}; expected 1 or more.")
    x, ids = x.detach().float(), torch.arange(len(x)) if ids is None else ids.cpu()
    if ids.shape != y.shape or len(ids.unique()) != len(ids):
        raise DataError(
            f"Example ids came as shape {tuple(ids.shape)}; expected {len(y)} different numbers, one per image."
        )
    with eval_mode(model) as was_training:
        classes = _first_look(model, x, y, batch_size)
        plan = make_plan(budget, threat, classes, claim)
        spec = make_spec(model, x, y, ids, threat, plan, budget, seed, batch_size, classes, subject or Subject())
        pixels = x.cpu().numpy()
        with Ledger.open(
            None if run_dir is None else Path(run_dir), spec, ids=ids.numpy(), labels=y.cpu().numpy(), images=pixels
        ) as ledger:
            survey = _Survey(model, x, y, ids, threat, plan, seed, batch_size, ledger, watch)
            survey.run_rounds()
            findings = _findings(survey, classes, was_training, diagnostics)
            return survey.conclude(findings)


@torch.no_grad()
def _first_look(model: Model, x: Tensor, y: Tensor, batch_size: int) -> int:
    """Return the number of classes, after checking the model's answers to the first batch."""
    try:
        logits = logits_of(model, x[:batch_size])
    except UnmaskError:
        raise
    except Exception as error:
        raise AuditError(
            f"The model cannot be run on images of shape {tuple(x[:batch_size].shape)}: {type(error).__name__}: "
            f"{error}. Check that model and data belong together, and that they are on the same device."
        ) from error
    check_not_probabilities(logits)
    check_labels(y, len(x), logits.shape[1])
    return logits.shape[1]


class _Survey:
    """The state of a running audit, all of it rebuilt from the ledger on resume."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        threat: ThreatModel,
        plan: Sequence[PlannedAttack],
        seed: int,
        batch_size: int,
        ledger: Ledger,
        watch: Callable[[AuditProgress], None] | None,
    ) -> None:
        self.model, self.x, self.y, self.ids, self.threat = model, x, y, ids, threat
        self.plan, self.seed, self.batch_size, self.ledger, self.watch = plan, seed, batch_size, ledger, watch
        self.errors: dict[int, str] = {}
        self.place = {example: row for row, example in enumerate(ids.tolist())}
        self.fell_in = torch.full((len(x),), torch.iinfo(torch.int64).max)
        self.best_margin = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        self.evaluations = 0
        self._note(ledger.events())

    def run_rounds(self) -> None:
        """Run what the ledger does not hold yet, round by round; a round's batches depend on its start alone."""
        rounds = self.ledger.spec.rounds()
        for turn in rounds:
            recorded = self.ledger.recorded(turn.round)
            standing = (self.fell_in >= turn.round).nonzero().flatten().tolist()
            waiting = [row for row in standing if int(self.ids[row]) not in recorded]
            for begin in range(0, len(waiting), self.batch_size):
                rows = torch.tensor(waiting[begin : begin + self.batch_size])
                self._run_batch(turn, rows)
                if self.watch is not None:
                    done, alive = (
                        len(standing) - len(waiting) + begin + len(rows),
                        int((self.fell_in > turn.round).sum()),
                    )
                    self.watch(
                        AuditProgress(
                            turn.attack,
                            turn.restart,
                            turn.round,
                            len(rounds),
                            done,
                            len(standing),
                            alive / len(self.x),
                            self.evaluations,
                        )
                    )

    def _run_batch(self, turn: Round, rows: Tensor) -> None:
        begun = time.monotonic()
        try:
            events, x_adv = self._attack(turn, rows)
        except Exception as error:
            if turn.round == 0 or (len(rows) > 1 and isinstance(error, torch.OutOfMemoryError)):
                raise
            events, x_adv = self._attack_singly(turn, rows, error)
        seconds = time.monotonic() - begun
        events = [event._replace(seconds=seconds / len(events)) for event in events]
        kept = self._improved(events)
        self.ledger.commit(
            events,
            x_adv[kept].numpy(),
            self.ids[rows][kept].numpy(),
            round=turn.round,
            attack=turn.attack,
            restart=turn.restart,
            seconds=seconds,
        )
        self._note(events)

    def _attack_singly(self, turn: Round, rows: Tensor, error: Exception) -> tuple[list[ExampleEvent], Tensor]:
        """Repeat a batch that raised, one example at a time, so that only those that raise again count as errors."""
        if len(rows) > 1:
            parts = [self._attack_or_note(turn, row) for row in rows.split(1)]
        else:
            parts = [self._failed(turn, rows, error)]
        return [event for events, _ in parts for event in events], torch.cat([x_adv for _, x_adv in parts])

    def _attack_or_note(self, turn: Round, row: Tensor) -> tuple[list[ExampleEvent], Tensor]:
        try:
            return self._attack(turn, row)
        except Exception as error:
            return self._failed(turn, row, error)

    def _failed(self, turn: Round, row: Tensor, error: Exception) -> tuple[list[ExampleEvent], Tensor]:
        example = int(self.ids[row])
        self.errors[example] = f"{turn.attack}, restart {turn.restart}: {type(error).__name__}: {error}"
        nan = float("nan")
        event = ExampleEvent(
            turn.round, turn.attack, turn.restart, example, "error", nan, None, -1, nan, 0, 0, None, 0.0
        )
        return [event], self.x[row].cpu()

    def _attack(self, turn: Round, rows: Tensor) -> tuple[list[ExampleEvent], Tensor]:
        """Run one attack on some examples and verify its breaks: events, and images (B, C, H, W) on the CPU."""
        x, y = self.x[rows.to(self.x.device)], self.y[rows.to(self.y.device)]
        if turn.role == "clean":
            return self._predict(turn, rows, x, y)
        attack = next(planned for planned in self.plan if planned.name == turn.attack)
        streams = Streams.derive(self.seed, self.ids[rows].tolist(), turn.attack, turn.restart, device=x.device)
        found = attack.run(self.model, x, y, self.threat, streams, turn.restart)
        return self._verify(turn, rows, x, y, found)

    @torch.no_grad()
    def _predict(self, turn: Round, rows: Tensor, x: Tensor, y: Tensor) -> tuple[list[ExampleEvent], Tensor]:
        logits = logits_of(self.model, x)
        columns = zip(
            self.ids[rows].tolist(),
            predictions(logits).tolist(),
            y.tolist(),
            margin(logits, y).tolist(),
            cross_entropy(logits, y).tolist(),
            strict=True,
        )
        events = [
            ExampleEvent(
                turn.round,
                turn.attack,
                turn.restart,
                example,
                "broken" if predicted != label else "survived",
                gap,
                loss,
                predicted,
                0.0,
                1,
                0,
                0 if predicted != label else None,
                0.0,
            )
            for example, predicted, label, gap, loss in columns
        ]
        return events, x.cpu()

    @torch.no_grad()
    def _verify(
        self, turn: Round, rows: Tensor, x: Tensor, y: Tensor, found: AttackResult
    ) -> tuple[list[ExampleEvent], Tensor]:
        """Believe nothing: predict every claimed break again, and check ball and box, before it is an event."""
        x_adv = found.x_adv.detach().float()
        inside = self.threat.contains(x_adv, x)
        distance = self.threat.distance(x_adv, x).tolist()
        claimed = (found.broken & inside).nonzero().flatten()
        gap, predicted = found.margin.double().clone(), y.clone()
        loss: dict[int, float] = {}
        if len(claimed):
            logits = logits_of(self.model, x_adv[claimed])
            predicted[claimed] = predictions(logits)
            gap[claimed] = margin(logits, y[claimed]).double()
            loss = dict(zip(claimed.tolist(), cross_entropy(logits, y[claimed]).tolist(), strict=True))
        gap[~inside] = torch.nan
        broken = (predicted != y).tolist()
        steps = (~found.trace.isnan()).sum(0).sub(1).clamp(min=0).tolist()
        checked = torch.zeros_like(found.forwards).index_fill(0, claimed, 1)
        columns = zip(
            self.ids[rows].tolist(),
            gap.tolist(),
            predicted.tolist(),
            (found.forwards + checked).tolist(),
            found.backwards.tolist(),
            strict=True,
        )
        events = [
            ExampleEvent(
                turn.round,
                turn.attack,
                turn.restart,
                example,
                "broken" if broken[i] else "survived",
                margin_,
                loss.get(i),
                class_,
                distance[i],
                forwards,
                backwards,
                steps[i] if broken[i] else None,
                0.0,
            )
            for i, (example, margin_, class_, forwards, backwards) in enumerate(columns)
        ]
        return events, x_adv.cpu()

    def _improved(self, events: Sequence[ExampleEvent]) -> Tensor:
        """Say which images to keep: every break, and survivors that came nearer to one than before."""
        kept = [
            event.round > 0
            and event.status != "error"
            and (event.status == "broken" or event.margin > float(self.best_margin[self.place[event.id]]))
            for event in events
        ]
        return torch.tensor(kept, dtype=torch.bool)

    def _note(self, events: Sequence[ExampleEvent]) -> None:
        for event in events:
            row = self.place[event.id]
            self.evaluations += event.forwards + event.backwards
            if event.status == "broken":
                self.fell_in[row] = event.round
            if event.round > 0 and (event.status == "broken" or event.margin > float(self.best_margin[row])):
                self.best_margin[row] = event.margin

    def conclude(self, findings: Sequence[Finding]) -> AuditResult:
        """Record findings, verdict and figures, and return them with the best image of every example."""
        if not self.ledger.sealed:
            self.ledger.write_findings(
                [FindingEntry(**{**vars(finding), "evidence": dict(finding.evidence)}) for finding in findings]
            )
        run = self.ledger.run()
        clean, claimed, robust = (
            queries.clean_accuracy(run),
            queries.claimed_accuracy(run),
            queries.robust_accuracy(run),
        )
        counts = queries.counts(run)
        n = len(self.x)
        verdict = decide(clean, claimed, robust, n, findings, counts["error"] + counts["not_run"])
        cost = queries.cost(run)
        headline = queries.headline(run) if counts["error"] + counts["not_run"] == 0 else None
        result = ResultEntry.model_validate(
            {
                "headline": headline,
                "verdict": {"label": verdict.label, "reasons": list(verdict.reasons)},
                "clean_accuracy": clean,
                "claimed_accuracy": claimed,
                "robust_accuracy": robust,
                "interval": queries.wilson_interval(round(robust * n), n),
                "counts": counts,
                "forwards": cost.forwards + sum(finding.forwards for finding in findings),
                "backwards": cost.backwards + sum(finding.backwards for finding in findings),
                "seconds": cost.seconds,
            }
        )
        self.ledger.seal(result)
        return AuditResult(
            clean_accuracy=clean,
            claimed_accuracy=claimed,
            robust_accuracy=robust,
            interval=result.interval,
            survived=torch.from_numpy(queries.statuses(run) == "survived"),
            x_adv=self._best_images(),
            forwards=result.forwards,
            backwards=result.backwards,
            verdict=verdict,
            findings=tuple(findings),
            headline=headline,
            run=self.ledger.run(),
            errors=self.errors,
        )

    def _best_images(self) -> Tensor:
        x_adv = self.x.clone()
        ids, kept = self.ledger.best()
        rows = torch.tensor([self.place[int(example)] for example in ids], dtype=torch.int64, device=x_adv.device)
        x_adv[rows] = torch.from_numpy(np.ascontiguousarray(kept)).to(x_adv)
        return x_adv


def _findings(survey: _Survey, classes: int, was_training: bool, diagnostics: bool) -> tuple[Finding, ...]:
    """Return the recorded findings of a finished run, or make them."""
    if survey.ledger.sealed:
        return tuple(Finding(**finding.model_dump()) for finding in survey.ledger.findings())
    run = survey.ledger.run()
    findings: list[Finding] = []
    claimed = queries.claimed_accuracy(run)
    if claimed is not None:
        robust, n = queries.robust_accuracy(run), len(survey.x)
        overlooked = queries.wilson_interval(round((claimed - robust) * n), n)
        findings.append(claim_gap(claimed, robust, overlooked, str(run.spec.claim)))
    if was_training:
        findings.append(
            Finding(
                "train_mode",
                "warn",
                "The model came in train mode; it was audited in eval mode.",
                {},
                "Call model.eval() before use.",
            )
        )
    if not diagnostics:
        return tuple(findings)
    correct = (survey.fell_in > 0).nonzero().flatten().to(survey.x.device)
    if not len(correct):
        return tuple(findings)
    sample, few = correct[:100], correct[:6]
    x, y = survey.x[sample], survey.y[sample]
    ids = survey.ids[sample.cpu()].tolist()
    streams = Streams.derive(survey.seed, ids, "diagnostics", device=x.device)
    findings.append(determinism(survey.model, x))
    findings.append(gradients(survey.model, x, y, survey.threat, streams.child("gradients")))
    findings.append(eps_curve(survey.model, x, y, survey.threat, streams.child("eps_curve"), classes))
    starts = streams.child("restart_losses").select(torch.arange(len(few)))
    findings.append(restart_losses(survey.model, survey.x[few], survey.y[few], survey.threat, starts, ids[: len(few)]))
    return tuple(findings)
