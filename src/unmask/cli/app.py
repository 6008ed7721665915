"""The command `unmask`: its verbs, and how errors and interruptions end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from unmask.cli.audit import audit
from unmask.cli.bench_attack import bench_attack
from unmask.cli.console import err, out
from unmask.cli.data import info, prepare
from unmask.cli.demo import demo
from unmask.cli.diagnose import diagnose
from unmask.cli.doctor import doctor
from unmask.cli.figure import figure
from unmask.cli.listing import list_names
from unmask.cli.report import report
from unmask.cli.reproduce import reproduce
from unmask.cli.train import train
from unmask.cli.verify import verify
from unmask.environment import code_version
from unmask.errors import UnmaskError

UNUSABLE, INTERRUPTED = 2, 130
EXIT_CODES = (
    "Exit codes: 0 done, 1 a check failed (verify, doctor, --fail-under), 2 unusable input or output, 130 interrupted."
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=f"Train classifiers with defences, and find out whether their robustness is real.\n\n{EXIT_CODES}",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare and describe data sets.")


def _guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Let every foreseen error of a verb end in one message on stderr and an exit code, never in a traceback."""

    @wraps(verb)
    def run(*args: Any, **options: Any) -> None:
        try:
            verb(*args, **options)
        except UnmaskError as error:
            err.print("[bold red]Error:[/] ", end="")
            err.print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(UNUSABLE) from None
        except KeyboardInterrupt:
            err.print("Interrupted. What was recorded is kept: run the same command again to go on.")
            raise typer.Exit(INTERRUPTED) from None

    return run


_VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "audit": audit,
    "bench-attack": bench_attack,
    "diagnose": diagnose,
    "figure": figure,
    "reproduce": reproduce,
    "report": report,
    "verify": verify,
    "list": list_names,
    "doctor": doctor,
}
for name, verb in _VERBS.items():
    app.command(name)(_guarded(verb))
data_app.command("prepare")(_guarded(prepare))
data_app.command("info")(_guarded(info))
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(code_version())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Take the options that belong to no verb."""


def main() -> None:
    """Run the command line on the arguments of the process."""
    # Before any verb loads torch: OpenMP's threads wait for each other by spinning, which on cores that others use too
    # makes attacks on small networks several times slower. Asleep they compute the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
