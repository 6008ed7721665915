"""How much faster two processes audit than one: `unmask.audit` on the same images alone and under `torchrun`.

Every process has one thread, so that two need two cores. Timed is the call of `unmask.audit`, from the first look at
the model to the sealed record, on the first process, after all have met; imports, loading and the meeting are reported
apart. Each repetition runs one process, then two. All must find the same, evaluation for evaluation, or nothing is
written. Needs a quiet machine: `busy` is the share of the audit's wall time in which its processes were computing.
Results: `benchmarks/results/sharded_audit.json` and `.md`.

    python benchmarks/sharded_audit.py --data-dir ../shared/data
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import unmask
from unmask.distributed import Workers
from unmask.environment import code_version, hardware, packages
from unmask.models import load_model

RESULTS = Path(__file__).parent / "results"
SEED, EPS, CLAIM = 0, "0.3", "pgd-40-step-0.01"
COUNTS = (1, 2)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def measured(name: str, n: int, data_dir: Path, out: Path) -> None:
    """Audit as one of the processes; the first writes what it measured."""
    torch.set_num_threads(1)
    model, data = load_model(name).model, unmask.load_data("mnist", "test", data_dir=data_dir).first(n)
    workers = Workers.here()
    workers.barrier()
    ready, begun, computed = time.time(), time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(workers.broadcast(folder)) / "run"
        found = unmask.audit(
            model, data.pixels(), data.labels, unmask.Linf(EPS), claim=CLAIM, seed=SEED, run_dir=run_dir
        )
        seconds = time.monotonic() - begun
        busy = [cpu / seconds for cpu in workers.gather(time.process_time() - computed)]
    told = {
        "ready": ready,
        "seconds": seconds,
        "busy": busy,
        "found": {
            "robust_accuracy": found.robust_accuracy,
            "claimed_accuracy": found.claimed_accuracy,
            "evaluations": found.forwards + found.backwards,
            "rounds": len(found.run.rounds),
            "x_adv": found.x_adv.double().sum().item(),
        },
    }
    if workers.leads:
        out.write_text(json.dumps(told))


def timed(count: int, options: argparse.Namespace) -> dict:
    """Run one audit in `count` processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        arguments = ["--model", options.model, "-n", str(options.n), "--data-dir", str(options.data_dir)]
        begun = time.time()
        subprocess.run(
            [sys.executable, *launcher, __file__, *arguments, "--out", str(out)], env=ENVIRONMENT, check=True
        )
        told = json.loads(out.read_text())
    return {**told, "start_seconds": told.pop("ready") - begun}


def table(row: dict) -> str:
    """Return the row as a Markdown page."""
    lines = [
        "# The audit shared by two processes, one thread each",
        "",
        "| processes | audit, seconds: median (all) | start, seconds | busy |",
        "| --- | --- | --- | --- |",
    ]
    for count, runs in row["processes"].items():
        seconds = ", ".join(f"{run['seconds']:.1f}" for run in runs)
        start = statistics.median(run["start_seconds"] for run in runs)
        busy = " ".join(f"{share:.0%}" for share in runs[-1]["busy"])
        lines.append(f"| {count} | {row['median_seconds'][count]:.1f} ({seconds}) | {start:.1f} | {busy} |")
    found = row["found"]
    lines += [
        "",
        f"Speed-up {row['speed_up']:.2f}. `{row['model']}`, first {row['n']:,} MNIST test images, Linf {row['eps']}, "
        f"claim {row['claim']}, standard budget, seed {row['seed']}: {found['robust_accuracy']:.1%} robust after "
        f"{found['evaluations']:,} evaluations in {found['rounds']} rounds, the same for both.",
        f"{row['hardware']}.",
        f"`{row['command']}`",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="where the images are")
    parser.add_argument("--model", default="mnist-at", help="a packaged MNIST model")
    parser.add_argument("-n", type=int, default=1000, help="how many images")
    parser.add_argument("--repetitions", type=int, default=3, help="how often each is timed")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is not None:
        measured(options.model, options.n, options.data_dir, options.out)
        return
    runs: dict[str, list[dict]] = {str(count): [] for count in COUNTS}
    for repetition in range(options.repetitions):
        for count in COUNTS:
            runs[str(count)].append(timed(count, options))
            print(repetition, count, json.dumps(runs[str(count)][-1]), flush=True)
    found = {json.dumps(run.pop("found")) for several in runs.values() for run in several}
    if len(found) > 1:
        sys.exit(f"The audits differ, so their times say nothing: {sorted(found)}")
    medians = {count: statistics.median(run["seconds"] for run in several) for count, several in runs.items()}
    row = {
        "model": options.model,
        "n": options.n,
        "eps": EPS,
        "claim": CLAIM,
        "seed": SEED,
        "found": json.loads(found.pop()),
        "processes": runs,
        "median_seconds": medians,
        "speed_up": medians["1"] / medians["2"],
        "threads": 1,
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": f"python benchmarks/sharded_audit.py --data-dir DIR --model {options.model} -n {options.n} "
        f"--repetitions {options.repetitions}",
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sharded_audit.json").write_text(json.dumps(row, indent=2) + "\n")
    (RESULTS / "sharded_audit.md").write_text(table(row))
    print(table(row))


if __name__ == "__main__":
    main()
