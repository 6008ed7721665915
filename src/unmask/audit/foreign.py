"""Attacks from outside as parts of a plan: called by the common shape, counted by the model, never taken at their word.

`attack(model, x, y, *, threat, generator, ...)` is given images x (B, C, H, W) in [0, 1], labels y (B,), a
`ThreatModel` and a `torch.Generator` on the device of x, and returns adversarial images of the shape of x, or an
`AttackResult`.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask.attacks import AttackResult
from unmask.audit.counting import Counting
from unmask.audit.plan import PlannedAttack, Task
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError
from unmask.streams import Streams, derive_seed
from unmask.threat import ThreatModel

Attack = Callable[..., Any]
SHAPE = "attack(model, x, y, *, threat, generator)"
TRIED = 2


def foreign_attack(name: str, attack: Attack, settings: Mapping[str, Any] | None = None) -> PlannedAttack:
    """Return an attack of somebody's own as part of a plan; `settings` are further keyword arguments of it.

    It works on copies of the images and on the model in eval mode, and must leave the model's weights as they are. All
    that it returns is predicted again: that pass counts, and so does every example that it sends through the model or
    back; the counts of an `AttackResult` stand where they are higher (surrogates). They are shared out evenly among the
    images of a batch. Draws come from `generator`; torch's own are seeded alike. Raises AuditError for a signature that
    does not fit.
    """
    settings = dict(settings or {})
    check_signature(name, attack, settings)

    def run(task: Task) -> AttackResult:
        counted = Counting(task.model)
        seed = derive_seed(*task.streams.seeds)
        generator = torch.Generator(device=task.x.device).manual_seed(seed)
        devices = [task.x.device] if task.x.device.type == "cuda" else []
        with eval_mode(counted), _weights_kept(counted, name), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            found = attack(counted, task.x.clone(), task.y.clone(), threat=task.threat, generator=generator, **settings)
        return _answer(name, found, task, counted)

    recorded = {**settings, "code": source_fingerprint(name, attack)}
    return PlannedAttack(name, run, settings=recorded, description="an attack from outside")


def check_signature(name: str, attack: Attack, settings: Mapping[str, Any]) -> None:
    """Raise AuditError unless `attack` can be called as `attack(model, x, y, *, threat, generator, **settings)`."""
    try:
        signature = inspect.signature(attack)
    except (TypeError, ValueError):  # builtins tell nothing; the call will
        return
    try:
        signature.bind(None, None, None, **{"threat": None, "generator": None, **settings})
    except TypeError as error:
        given = f" with {', '.join(settings)}" if settings else ""
        raise AuditError(
            f"{name}({', '.join(signature.parameters)}) cannot be called as {SHAPE}{given}: {error}."
        ) from error


def source_fingerprint(name: str, attack: Attack) -> str:
    """Return a hash of the files of the module that `name` ("module:function") says and of the one that defines it.

    A record is not resumed with an attack that was changed since. Files that those modules import do not count.
    """
    modules = [sys.modules.get(name.partition(":")[0]), inspect.getmodule(attack)]
    files = {str(module.__file__) for module in modules if module is not None and getattr(module, "__file__", None)}
    digest = hashlib.sha256(repr(name).encode())
    for file in sorted(files):
        with suppress(OSError):  # a module may come from an archive
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:12]


def try_out(planned: PlannedAttack, model: Model, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
    """Run the attack on the first images of x (N, C, H, W), y (N,); raises AuditError, saying where, if it raises."""
    x, y = x[:TRIED], y[:TRIED]
    streams = Streams.derive(0, range(len(x)), "tried", device=x.device)
    try:
        with eval_mode(model):
            planned.run(Task(model, x, y, threat, streams, 0, x, x.new_empty((len(x), 0, *x.shape[1:]))))
    except AuditError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise AuditError(
            f"{planned.name} raised {type(error).__name__} on the first {len(x)} images: {error} "
            f"({Path(at.filename).name}, line {at.lineno}). Mend the attack; nothing was measured."
        ) from error


@contextmanager
def _weights_kept(model: nn.Module, name: str) -> Iterator[None]:
    before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    changed: list[str] = []
    try:
        yield
    finally:
        state = model.state_dict()
        changed = [key for key, value in before.items() if not torch.equal(state[key], value)]
        with torch.no_grad():
            for key in changed:
                state[key].copy_(before[key])
    if changed:
        raise AuditError(f"{name} changed the model it attacks ({', '.join(changed[:3])}). Let it work on a copy.")


def _answer(name: str, found: object, task: Task, counted: Counting) -> AttackResult:
    x_adv = found.x_adv if isinstance(found, AttackResult) else found
    if not isinstance(x_adv, Tensor) or x_adv.shape != task.x.shape or not x_adv.is_floating_point():
        got = f"{x_adv.dtype} of shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise AuditError(
            f"{name} returned {got}; expected adversarial images, float of shape {tuple(task.x.shape)}, or an "
            "unmask.attacks.AttackResult."
        )
    forwards, backwards = (_shared(count, len(task.x)) for count in (counted.forwards, counted.backwards))
    trace = torch.empty((0, len(task.x)))
    if isinstance(found, AttackResult):
        forwards, backwards = _more(found.forwards, forwards), _more(found.backwards, backwards)
        trace = found.trace
    everything = torch.ones(len(task.x), dtype=torch.bool, device=task.x.device)  # the judge predicts what is claimed
    return AttackResult(
        x_adv.detach().to(task.x),
        margin=torch.zeros(len(task.x), device=task.x.device),
        broken=everything,
        forwards=forwards.to(task.x.device),
        backwards=backwards.to(task.x.device),
        trace=trace,
    )


def _shared(total: int, count: int) -> Tensor:
    """Return `total` as `count` whole numbers that differ by one at most."""
    return total // count + (torch.arange(count) < total % count).long()


def _more(told: Tensor, seen: Tensor) -> Tensor:
    return told if int(told.sum()) >= int(seen.sum()) else seen
