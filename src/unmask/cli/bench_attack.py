"""`unmask bench-attack`: run an attack over the zoo, and set accuracy and cost beside ours and AutoAttack's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from unmask.cli.console import err, out, print_json, print_table, share
from unmask.cli.options import Data, DataDir, Device, Download, Eps, Json, Norm, Seed
from unmask.cli.subject import data_words, images_of, run_folder, subject_of, threat_of
from unmask.errors import AuditError, unknown

if TYPE_CHECKING:
    from unmask.attacks import AttackResult
    from unmask.audit import PlannedAttack
    from unmask.audit.bench import Benched, Standing
    from unmask.data import DataSet
    from unmask.models import LoadedModel
    from unmask.threat import ThreatModel

REFERENCE = Path(__file__).parent / "bench_reference.json"
OURS = {"standard": "our audit", "autoattack-standard": "AutoAttack"}


class Case(NamedTuple):
    """A model of the bench by the user's word for it, with its images and threat."""

    word: str
    loaded: LoadedModel
    images: DataSet
    threat: ThreatModel


class Contender(NamedTuple):
    """What is benched: a budget or plan by its name, or one attack; its words in the command; its records' folder."""

    name: str
    budget: str | tuple[PlannedAttack, ...]
    words: tuple[str, ...]
    folder: str


def bench_attack(
    attack: Annotated[
        str,
        typer.Argument(help="Your module:function, an attack (`unmask list attacks`), or a budget or plan (standard)."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An argument of the attack, e.g. steps=20; may be repeated."),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many images, the first ones.")] = 200,
    models: Annotated[
        list[str] | None,
        typer.Option(help="A model, as `unmask audit` takes it; may be repeated. Default: the packaged ones."),
    ] = None,
    data: Data = None,
    eps: Eps = None,
    norm: Norm = None,
    seed: Seed = 0,
    reference: Annotated[
        Path, typer.Option(help="The figures to compare with.", show_default="those that come with unmask")
    ] = REFERENCE,
    save_reference: Annotated[
        bool, typer.Option("--save-reference", help="Put what was measured into the --reference.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run our audit and AutoAttack on the same images as well.")
    ] = False,
    run_dir: Annotated[Path, typer.Option(help="Where the records go, one folder per attack.")] = Path("runs"),
    data_dir: DataDir = None,
    download: Download = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Run an attack over the zoo: accuracy against cost, beside our audit's and AutoAttack's; the same command resumes.

    The attack is called as `attack(model, x, y, *, threat, generator)` and returns adversarial images like x. Every
    pass through the model counts, every break is verified, and what lies outside the ball is none.

    Examples:

        unmask bench-attack my_attacks:wiggle --data-dir data

        unmask bench-attack my_attacks:wiggle --set steps=50 -n 100 --models mnist-clp --models runs/net --measure

        unmask bench-attack pgd --set steps=200 --set loss=margin

        unmask bench-attack standard --reference mine.json --save-reference
    """
    from unmask.audit.bench import closest, standing, write_figures
    from unmask.distributed import Workers, local_device
    from unmask.models import zoo_names

    known = _known(reference, save_reference)
    contender = _contender(attack, settings or [])
    device, words = local_device(device), list(dict.fromkeys(models or zoo_names()))
    cases = [_case(word, n, data, eps, norm, seed, data_dir, download, device) for word in words]
    if not isinstance(contender.budget, str):
        _try_out(contender.budget[0], cases[0])
    others = [_contender(name, []) for name in OURS if measure and name != attack]
    figures = [_figure(case, contender, seed, run_dir) for case in cases]
    measured = [_figure(case, other, seed, run_dir) for other in others for case in cases]
    beside = [name for name in OURS if name != contender.name or not measure]
    beside += sorted({one.title for one in known} - {*beside, *OURS})
    pairs = {name: [(one, closest(one, [*measured, *known], name)) for one in figures] for name in beside}
    if not Workers.here().leads:
        return
    if save_reference:
        known = _known(reference, save_reference)  # another run may have added to it since
        write_figures(reference, [*known, *measured, *(one for one in figures if not one.errors)])
    standings = {name: standing(found) for name, found in pairs.items()}
    if json:
        compared = [
            {**one.model_dump(mode="json"), "beside": {name: _beside(pairs[name][row][1]) for name in beside}}
            for row, one in enumerate(figures)
        ]
        told = {name: found._asdict() for name, found in standings.items()}
        print_json({"attack": contender.name, "models": compared, "standing": told, "run_dir": run_dir})
    else:
        _show(contender.name, words, figures, pairs, standings)
        out.print(f"Records: {run_dir / contender.folder}/*", soft_wrap=True, markup=False)
    _tell(words, figures)


def _known(reference: Path, save: bool) -> list[Benched]:
    from unmask.audit.bench import read_figures

    return read_figures(reference) if reference.exists() or not save else []


def _contender(attack: str, settings: Sequence[str]) -> Contender:
    from unmask.attacks import ATTACKS
    from unmask.audit import BUDGETS, PLANS, PlannedAttack
    from unmask.audit.foreign import check_signature, foreign_attack
    from unmask.models.callables import find_named

    chosen = _settings(settings)
    words = [f"{key}-{value}" for key, value in chosen.items()]
    if ":" in attack:
        planned = foreign_attack(attack, find_named(attack), chosen)
        words.append(str(planned.settings["code"]))
    elif attack in ATTACKS:
        arguments = _arguments(chosen)
        named = cast("Callable[..., AttackResult]", ATTACKS[attack])
        check_signature(attack, named, arguments)
        planned = PlannedAttack(attack, lambda task: task.attack(named, **arguments), settings=chosen)
    elif attack in (*BUDGETS, *PLANS) or attack.isdecimal():
        if chosen:
            raise AuditError(
                f"'{attack}' is a budget or a plan, which takes no --set; give an attack, or leave it out."
            )
        return Contender(attack, attack, (attack,), run_folder("bench", attack).name)
    else:
        raise AuditError(
            f"{unknown('attack', attack, [*ATTACKS, *BUDGETS, *PLANS])} An attack of your own is given as "
            "module:function, from the folder that holds module.py."
        )
    command = (attack, *(word for text in settings for word in ("--set", text)))
    return Contender(attack, (planned,), command, run_folder("bench", attack, *words).name)


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    from unmask.recipes.configuration import setting

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, _ = text.partition("=")
        if not equals or not key.strip().isidentifier():
            raise AuditError(
                f"--set {text}: expected KEY=VALUE with an argument of the attack, such as --set steps=20."
            )
        found |= {name: _fraction(value) for name, value in setting(text).items()}
    return found


def _fraction(value: Any) -> Any:
    """Return a text such as 2/255 as the number it means, anything else as it is."""
    from unmask.threat import parse_eps

    if not (isinstance(value, str) and value.replace("/", "", 1).replace(".", "").isdecimal()):
        return value
    return float(parse_eps(value))


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the loss by its name as what attacks take."""
    from unmask.losses import LOSSES

    loss = settings.get("loss")
    if loss is None:
        return settings
    if loss not in LOSSES:
        raise AuditError(unknown("loss", str(loss), LOSSES))
    return {**settings, "loss": LOSSES[loss]}


def _case(
    word: str,
    n: int,
    data: str | None,
    eps: str | None,
    norm: str | None,
    seed: int,
    data_dir: Path | None,
    download: bool,
    device: str,
) -> Case:
    from unmask.models import load_model

    loaded = load_model(word, device=device)
    threat = threat_of(loaded, eps, norm)
    return Case(word, loaded, images_of(loaded, data, "test", n, False, seed, data_dir, download).to(device), threat)


def _try_out(planned: PlannedAttack, case: Case) -> None:
    from unmask.audit.foreign import try_out

    try_out(planned, case.loaded.model, case.images.pixels(), case.images.labels, case.threat)


def _figure(case: Case, contender: Contender, seed: int, run_dir: Path) -> Benched:
    """Audit one model with one attack and return what the record says."""
    from unmask.audit import audit
    from unmask.audit.bench import figure_of
    from unmask.cli.progress import bar
    from unmask.distributed import Workers

    workers = Workers.here()
    _, *chosen = data_words(case.loaded, case.images, case.threat)
    folder = run_dir / contender.folder / run_folder(case.word, *chosen, f"s{seed}").name
    with bar(f"{contender.name} on {case.word}", visible=workers.leads) as shown:
        result = audit(
            case.loaded.model,
            case.images.pixels(),
            case.images.labels,
            case.threat,
            budget=contender.budget,
            claim=None,
            seed=seed,
            run_dir=folder,
            ids=case.images.ids,
            subject=subject_of(case.loaded, case.word, None, case.images),
            diagnostics=False,
            watch=shown.audit,
            workers=workers,
        )
    if result.errors and workers.leads:
        example, message = next(iter(result.errors.items()))
        err.print(f"{case.word}, image {example}: {message}", markup=False, soft_wrap=True)
    threat = case.threat.describe()
    options = ["-n", len(case.images), "--models", case.word, "--eps", threat["eps"], "--norm", threat["norm"]]
    words = ["unmask", "bench-attack", *contender.words, *options, "--seed", seed]
    return figure_of(result.run, shlex.join(map(str, words)))


def _beside(other: Benched | None) -> dict[str, Any] | None:
    if other is None:
        return None
    return other.model_dump(mode="json", include={"robust_accuracy", "evaluations", "n", "seed", "version"})


def _show(
    name: str,
    words: Sequence[str],
    figures: Sequence[Benched],
    pairs: dict[str, list[tuple[Benched, Benched | None]]],
    standings: dict[str, Standing],
) -> None:
    rows = [
        (
            word,
            str(one.threat),
            share(one.clean_accuracy),
            _cell(one),
            *(_cell(found[row][1], one) for found in pairs.values()),
        )
        for row, (word, one) in enumerate(zip(words, figures, strict=True))
    ]
    print_table("", ["model", "threat", "clean", name, *(OURS.get(other, other) for other in pairs)], rows)
    out.print(f"Robust accuracy on the first {figures[0].n} images, at evaluations per image.", soft_wrap=True)
    for other, found in standings.items():
        if found.of:
            out.print(
                f"Against {OURS.get(other, other)}: stronger on {found.stronger}, as strong on {found.equal}, cheaper "
                f"on {found.cheaper}, dominates on {found.dominates}, dominated on {found.dominated} of {found.of} "
                "models.",
                soft_wrap=True,
            )
    known = [(one, other) for found in pairs.values() for one, other in found]
    elsewhere = {other.n for one, other in known if other is not None and not one.same_images(other)}
    if elsewhere:
        out.print(
            "Figures compare on the same images only, and where an n is named the reference's are others: give -n "
            f"{' or '.join(map(str, sorted(elsewhere)))}, or --measure.",
            soft_wrap=True,
        )
    if any(other is None for _, other in known):
        out.print("-: the reference has no figure of that model and threat; --measure makes one.", soft_wrap=True)


def _cell(figure: Benched | None, beside: Benched | None = None) -> str:
    if figure is None:
        return "-"
    if figure.robust_accuracy is None:
        return f"error on {figure.errors}"
    cost = f"{figure.evaluations:,.0f}" if figure.evaluations >= 10 else f"{figure.evaluations:.1f}"
    other = beside is not None and not beside.same_images(figure)
    return f"{share(figure.robust_accuracy)} at {cost}{f' (n = {figure.n})' if other else ''}"


def _tell(words: Sequence[str], figures: Sequence[Benched]) -> None:
    """Say what came back unusable; raises AuditError where the attack raised."""
    for word, one in zip(words, figures, strict=True):
        if one.outside:
            err.print(
                f"{word}: {one.outside} of {one.n} images came back outside of {one.threat}, or with pixels outside of "
                f"[{one.threat.low:g}, {one.threat.high:g}] or no numbers; none of them counts as broken.",
                markup=False,
                soft_wrap=True,
            )
    failed = {word: one.errors for word, one in zip(words, figures, strict=True) if one.errors}
    if failed:
        told = ", ".join(f"{count} on {word}" for word, count in failed.items())
        raise AuditError(
            f"The attack raised on images ({told}), so these models have no figure. Mend it and run the same command: "
            "with its file changed it begins anew."
        )
