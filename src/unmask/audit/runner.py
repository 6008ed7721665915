"""The audit: every attack of the plan on the survivors of those before it, every break verified, all of it recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unmask.attacks.fast_passes import fast_passes
from unmask.attacks.straight_through import Reach, reach
from unmask.audit.budgets import Access, Plan, make_plan
from unmask.audit.checks import Audited, recorded, sampled
from unmask.audit.inputs import checked_images, first_look
from unmask.audit.judge import failed, judge, predict
from unmask.audit.notebook import result_html
from unmask.audit.plan import CLAIM, PlannedAttack, Task
from unmask.audit.schedule import CLEAN, Fixed, History, Rows, Turn
from unmask.audit.sharing import OVERHEAD, cut, dealt
from unmask.audit.spec import Subject, make_spec
from unmask.audit.verdict import Verdict, decide
from unmask.contract import Model, eval_mode
from unmask.diagnostics import Finding, Findings
from unmask.distributed import Workers
from unmask.errors import AuditError
from unmask.ledger import ExampleEvent, FindingEntry, Ledger, ResultEntry, Run, Spec, queries
from unmask.ledger.store import differences
from unmask.losses import check_top
from unmask.streams import Streams
from unmask.threat import ThreatModel

BATCH_SIZE = 256
LOOKED_AT = 8


@dataclass(frozen=True)
class AuditProgress:
    """What a watcher is told after every batch: where the audit stands, and what is known so far.

    `done` of the `of` images of this round are through; `rounds` is None where the schedule decides as it goes.
    """

    attack: str
    restart: int
    round: int
    rounds: int | None
    done: int
    of: int
    survivors: int
    upper_bound: float
    evaluations: int


@dataclass(frozen=True)
class AuditResult:
    """What an audit measured on N images; accuracies are shares in [0, 1].

    survived (N,) bool; x_adv (N, C, H, W) the best found per image (the image itself where it is misclassified as it
    is); `robust_accuracy_8bit` counts adversarial images only if they survive rounding to the pixels of a PNG (None
    without diagnostics); forwards, backwards: example passes spent in all, checks included. `claimed_accuracy` is None
    without a claim, `headline` None while an image ended in an error (then `errors` says what happened, by id). `run`
    is the record, for queries and reports.
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
    findings: Findings
    headline: str | None
    run: Run
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def robust_accuracy_8bit(self) -> float | None:
        """The robust accuracy against adversarial images stored with 8 bits per pixel."""
        found = [finding.evidence["robust_accuracy_8bit"] for finding in self.findings if finding.check == "eight_bit"]
        return cast(float, found[0]) if found else None

    def _repr_html_(self) -> str:
        """Return what a notebook shows: headline, verdict, attacks, and the findings folded away."""
        return result_html(self)


def audit(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    budget: str | int | Sequence[PlannedAttack] | Plan = "standard",
    claim: str | None = CLAIM,
    access: Access = "gradients",
    seed: int = 0,
    run_dir: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    ids: Tensor | None = None,
    subject: Subject | None = None,
    diagnostics: bool = True,
    top: int = 1,
    watch: Callable[[AuditProgress], None] | None = None,
    workers: Workers | None = None,
) -> AuditResult:
    """Say how robust `model` really is on images x (B, C, H, W) float in [0, 1] with labels y (B,) int64.

    `model` maps images to logits (B, K). `budget` is "quick", "standard", "exhaustive", a number of evaluations per
    image, the name of a plan (see `unmask.audit.BUDGETS`) attacks of your own, or a `Plan`.
    `claim` is the usual attack whose figure is the claim ("pgd-40", "fgsm", None to leave it out). `access` says what
    the attacker has: "gradients", "scores" (logits alone) or "labels"; with the last two the budget counts queries, no
    image gets more, and the claim must be None. With a `run_dir`
    everything is kept there, and the same call goes on where a killed one stopped. `ids` (B,) name the examples;
    random draws depend on (seed, id, attack, restart) alone. A module is audited in eval mode and given back as it
    was.

    With `top` 5 an image counts as right while its label is among the 5 likeliest classes (top-5 accuracy); `budget`
    must then be attacks of your own that know of it (`pgd`, `targeted_pgd`, `transfer`), `claim` None and `diagnostics`
    False.

    Where `torchrun` started several processes they share the images of every round: each calls `audit` with the same
    arguments and a `run_dir` that all see, or none, and each returns the same result; `watch` is told on the first.
    `workers` says otherwise which share the work: `Workers()` audits alone.

    Raises DataError for unusable images or labels, ModelError for outputs that are not finite logits, AuditError for
    an unknown budget or claim, or a `top` that is out of range or does not go with them, LedgerError if `run_dir`
    belongs to another run, OutputError if it cannot be written, WorkersError if another process failed or was lost.
    """
    x, ids = checked_images(x, y, ids, threat, batch_size)
    workers = Workers.here() if workers is None else workers
    with eval_mode(model) as was_training:
        classes = first_look(model, x, y, batch_size)
        gradients_reach = reach(model, x[:LOOKED_AT], y[:LOOKED_AT]) if access == "gradients" else Reach()
        if top != 1:
            check_top(top, classes)
            _refuse_beyond_top(budget, claim, diagnostics)
        plan = make_plan(budget, threat, classes, claim, seed, access, gradients_reach)
        spec = make_spec(model, x, y, ids, threat, plan, seed, batch_size, classes, subject or Subject(), top)
        with _opened(workers, None if run_dir is None else Path(run_dir), spec, x, y, ids) as ledger:
            survey = _Survey(model, x, y, ids, threat, plan, seed, batch_size, ledger, watch, workers)
            survey.run_rounds()
            findings = _findings(survey, was_training, diagnostics, access, gradients_reach.blocked)
            return survey.conclude(findings)


def _refuse_beyond_top(
    budget: str | int | Sequence[PlannedAttack] | Plan, claim: str | None, diagnostics: bool
) -> None:
    """Refuse what looks at the likeliest class alone: all but the attacks of a user's own plan."""
    adaptive = isinstance(budget, Plan) and not isinstance(budget.schedule, Fixed)
    given = {
        "budget": adaptive or isinstance(budget, str | int),
        "claim": claim is not None,
        "diagnostics": diagnostics,
    }
    wrong = [name for name, refused in given.items() if refused]
    if wrong:
        raise AuditError(
            f"With top > 1 the audit runs attacks of your own alone; {' and '.join(wrong)} would look at the likeliest "
            "class. Give budget=[PlannedAttack(...), ...], claim=None and diagnostics=False."
        )


def _opened(workers: Workers, run_dir: Path | None, spec: Spec, x: Tensor, y: Tensor, ids: Tensor) -> Ledger:
    """Open the run on every process, first on the first; raises on all where it cannot be opened on one."""
    first = workers.broadcast(spec)

    def compare() -> None:
        changed = differences(first, spec)
        if changed:
            raise AuditError(
                f"Process {workers.rank} was given another audit than process 0: {'; '.join(changed)}. Give all the "
                "same model (seeded, or from a file), images and settings."
            )

    def open_here() -> Ledger:
        images = x.cpu().numpy()
        return Ledger.open(run_dir, first, ids=ids.numpy(), labels=y.cpu().numpy(), images=images, writer=workers.rank)

    workers.together(compare)
    leading = workers.together(lambda: open_here() if workers.leads else None)
    try:
        return workers.together(lambda: leading or open_here())
    except BaseException:
        if leading is not None:
            leading.close()
        raise


class _Found(NamedTuple):
    """What one batch found: its turn, its events, the ids (M,) and images (M, C, H, W) to keep, errors by id."""

    turn: Turn
    events: list[ExampleEvent]
    kept: Rows
    x_adv: npt.NDArray[np.float32]
    seconds: float
    errors: dict[int, str]


class _Survey:
    """The state of a running audit, all of it rebuilt from the ledger on resume."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        threat: ThreatModel,
        plan: Plan,
        seed: int,
        batch_size: int,
        ledger: Ledger,
        watch: Callable[[AuditProgress], None] | None,
        workers: Workers,
    ) -> None:
        self.model, self.x, self.y, self.ids, self.threat = model, x, y, ids, threat
        self.plan, self.seed, self.batch_size, self.ledger = plan, seed, batch_size, ledger
        self.watch, self.workers = watch if workers.leads else None, workers
        self.attacked = fast_passes(model, x)
        self.errors: dict[int, str] = {}
        self.place = {example: row for row, example in enumerate(ids.tolist())}
        self.fell_in = torch.full((len(x),), torch.iinfo(torch.int64).max)
        self.best_margin = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        self.best = x.clone()
        self.evaluations = self.decided = 0
        self._costs = {CLEAN: lambda restart: 1, **{attack.name: attack.cost for attack in plan.attacks}}
        self.by_round: dict[int, list[ExampleEvent]] = {}
        for event in ledger.events():
            self._note([event])
        if ledger.resumed:
            self._keep(*ledger.best())

    def run_rounds(self) -> None:
        """Run what the ledger does not hold yet, round by round; a round depends on those before it alone."""
        history = History(len(self.x), self.plan.attacks)
        while turns := self.plan.schedule.next_turns(history):
            self._run_rounds(turns)
            for turn in turns:
                events = self.by_round.pop(turn.round, [])
                history.add(np.array([self.place[event.id] for event in events], dtype=np.int64), events)

    def _run_rounds(self, turns: Sequence[Turn]) -> None:
        """Run what is missing of rounds decided together, each process its share; then all know what all have found."""
        self.decided = turns[0].round
        batches = [(turn, rows) for turn in turns for rows in self._missing(turn)]
        if not batches:
            return
        work = [self._costs[turn.attack](turn.restart) * (OVERHEAD + len(rows)) for turn, rows in batches]
        mine = dealt(work, self.workers.count)[self.workers.rank]
        shares = self.workers.everywhere(lambda: [self._run_batch(*batches[number]) for number in mine])
        for rank, share in enumerate(shares):
            for found in share if rank != self.workers.rank else ():
                self._take(found, elsewhere=True)

    def _missing(self, turn: Turn) -> list[Tensor]:
        """Return the batches of a round, without what is recorded."""
        recorded = self.ledger.recorded(turn.round)
        waiting = [
            [row for row in rows.tolist() if int(self.ids[row]) not in recorded]
            for rows in cut(turn.rows, self.batch_size)
        ]
        return [torch.tensor(rows) for rows in waiting if rows]

    def _progress(self, turn: Turn) -> AuditProgress:
        done = len(self.ledger.recorded(turn.round))
        fixed = isinstance(self.plan.schedule, Fixed)
        rounds = len(self.ledger.spec.rounds()) if fixed else None
        standing = int((self.fell_in > turn.round).sum())
        upper_bound = standing / len(self.x)
        return AuditProgress(
            turn.attack, turn.restart, turn.round, rounds, done, len(turn.rows), standing, upper_bound, self.evaluations
        )

    def _run_batch(self, turn: Turn, rows: Tensor) -> _Found:
        begun, errors = time.monotonic(), dict[int, str]()
        try:
            events, x_adv = self._attack(turn, rows)
        except Exception as error:
            if turn.round == 0 or (len(rows) > 1 and isinstance(error, torch.OutOfMemoryError)):
                raise
            events, x_adv = self._attack_singly(turn, rows, error, errors)
        seconds = time.monotonic() - begun
        events = [event._replace(seconds=seconds / len(events)) for event in events]
        kept = self._improved(events)
        found = _Found(turn, events, self.ids[rows][kept].numpy(), x_adv[kept].numpy(), seconds, errors)
        self._take(found)
        return found

    def _take(self, found: _Found, *, elsewhere: bool = False) -> None:
        """Record what a batch found, and know it from now on."""
        turn = found.turn
        self.ledger.commit(
            found.events,
            found.x_adv,
            found.kept,
            round=turn.round,
            attack=turn.attack,
            restart=turn.restart,
            seconds=found.seconds,
            elsewhere=elsewhere,
        )
        self._keep(found.kept, found.x_adv)
        self._note(found.events)
        self.errors |= found.errors
        if self.watch is not None:
            self.watch(self._progress(turn))

    def _keep(self, ids: Rows, x_adv: npt.NDArray[np.float32]) -> None:
        """Take the images (M, C, H, W) for the best of the examples `ids`."""
        rows = torch.tensor([self.place[example] for example in ids.tolist()], dtype=torch.int64, device=self.x.device)
        self.best[rows] = torch.from_numpy(np.ascontiguousarray(x_adv)).to(self.x)

    def _attack_singly(
        self, turn: Turn, rows: Tensor, error: Exception, errors: dict[int, str]
    ) -> tuple[list[ExampleEvent], Tensor]:
        """Repeat a batch that raised, one example at a time, so that only those that raise again count as errors."""
        if len(rows) > 1:
            parts = [self._attack_or_note(turn, row, errors) for row in rows.split(1)]
        else:
            parts = [self._failed(turn, rows, error, errors)]
        return [event for events, _ in parts for event in events], torch.cat([x_adv for _, x_adv in parts])

    def _attack_or_note(self, turn: Turn, row: Tensor, errors: dict[int, str]) -> tuple[list[ExampleEvent], Tensor]:
        try:
            return self._attack(turn, row)
        except Exception as error:
            return self._failed(turn, row, error, errors)

    def _failed(
        self, turn: Turn, row: Tensor, error: Exception, errors: dict[int, str]
    ) -> tuple[list[ExampleEvent], Tensor]:
        example = int(self.ids[row])
        errors[example] = f"{turn.attack}, restart {turn.restart}: {type(error).__name__}: {error}"
        return [failed(example, turn[:3])], self.x[row].cpu()

    def _attack(self, turn: Turn, rows: Tensor) -> tuple[list[ExampleEvent], Tensor]:
        """Run one attack on some examples and judge it: events, and images (B, C, H, W) on the CPU."""
        here = rows.to(self.x.device)
        x, y, ids = self.x[here], self.y[rows.to(self.y.device)], self.ids[rows].tolist()
        top = self.ledger.spec.top
        if turn.round == 0:
            return predict(self.model, x, y, ids, top), x.cpu()
        attack = next(planned for planned in self.plan.attacks if planned.name == turn.attack)
        streams = Streams.derive(self.seed, ids, turn.attack, turn.restart, device=x.device)
        donors = self._donors(rows, attack.donors)
        task = Task(self.attacked, x, y, self.threat, streams, turn.restart, self.best[here], donors, top)
        return judge(self.model, x, y, ids, self.threat, attack.run(task), turn[:3], top)

    def _donors(self, rows: Tensor, count: int) -> Tensor:
        """Return perturbations (B, D, ...), D at most `count`: those that broke the nearest others of a row's class."""
        # Rounds decided together do not learn from each other, whoever runs first.
        fell = ((self.fell_in > 0) & (self.fell_in < self.decided)).nonzero().flatten().to(self.x.device)
        here = rows.to(self.x.device)
        if not count or not len(fell):
            return self.x.new_empty((len(rows), 0, *self.x.shape[1:]))
        apart = torch.cdist(self.x[here].flatten(1), self.x[fell].flatten(1))
        apart += 1e6 * (self.y[here][:, None] != self.y[fell][None, :])
        nearest = fell[apart.argsort(dim=1, stable=True)[:, :count]]
        return self.best[nearest] - self.x[nearest]

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
            self.by_round.setdefault(event.round, []).append(event)
            if event.round > 0 and (event.status == "broken" or event.margin > float(self.best_margin[row])):
                self.best_margin[row] = event.margin

    def conclude(self, findings: Sequence[Finding]) -> AuditResult:
        """Record findings, verdict and figures, and return them with the best image of every example."""
        if not self.ledger.sealed:
            entries = [FindingEntry(**{**vars(finding), "evidence": dict(finding.evidence)}) for finding in findings]
            self.workers.together(lambda: self.ledger.write_findings(entries))
        run = self.ledger.run(complete=True)
        clean, claimed, robust = (
            queries.clean_accuracy(run),
            queries.claimed_accuracy(run),
            queries.robust_accuracy(run),
        )
        counts = queries.counts(run)
        n = len(self.x)
        verdict = decide(
            clean, claimed, robust, n, findings, counts["error"] + counts["not_run"], bool(self.plan.attacks)
        )
        cost = queries.cost(run)
        headline = queries.headline(run) if counts["error"] + counts["not_run"] == 0 else None
        result = ResultEntry.model_validate(
            {
                "headline": headline,
                "verdict": asdict(verdict),
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
        self.workers.together(lambda: self.ledger.seal(result))
        return AuditResult(
            clean_accuracy=clean,
            claimed_accuracy=claimed,
            robust_accuracy=robust,
            interval=result.interval,
            survived=torch.from_numpy(queries.statuses(run) == "survived"),
            x_adv=self.best,
            forwards=result.forwards,
            backwards=result.backwards,
            verdict=verdict,
            findings=Findings(findings),
            headline=headline,
            run=self.ledger.run(),
            errors=self.errors,
        )


def _findings(
    survey: _Survey, was_training: bool, diagnostics: bool, access: Access, blocked: tuple[str, ...]
) -> tuple[Finding, ...]:
    """Return the recorded findings of a finished run, or make them; checks are shared out among the processes."""
    if survey.ledger.sealed:
        return tuple(Finding(**finding.model_dump()) for finding in survey.ledger.findings())
    audited = Audited(
        survey.model,
        survey.x,
        survey.y,
        survey.ids,
        survey.threat,
        survey.seed,
        survey.batch_size,
        survey.plan.attacks,
        survey.ledger.run(complete=True),
        survey.best,
        access,
        blocked,
        was_training,
    )
    checks = sampled(audited) if diagnostics else []
    done = survey.workers.everywhere(lambda: [check() for check in survey.workers.share(checks)])
    return (*recorded(audited), *(done[number % len(done)][number // len(done)] for number in range(len(checks))))
