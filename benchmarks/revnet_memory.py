"""What a training step of a RevNet costs in memory and time as it gets deeper, with and without recomputation.

RevNet-38 (Gomez et al. 2017) with its units per stage multiplied, on random images, each depth in a fresh process.
Memory is the peak during one forward and backward pass less what was held before, so without parameters and their
gradients, in two measures: what torch allocates (its profiler's events, summed), and what is resident (it needs
Linux). The resident set also holds what the C library keeps of freed blocks for later; MALLOC_MMAP_THRESHOLD_=65536
has it give them back, at the price of time. Time is CPU time, the median over passes. The gradients of both ways are
compared with those of kept activations in 64 bits, all parameters and the input as one vector. Results:
`benchmarks/results/revnet_memory.json` and `.md`.

    python benchmarks/revnet_memory.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from unmask.environment import code_version, hardware, packages
from unmask.models.initialization import initialized, wide_normal
from unmask.models.revnet import RevNet

SEED, BATCH, REPEATS = 0, 64, 3
UNITS, TIMES = 3, (1, 2, 4, 8)
RESULTS = Path(__file__).parent / "results"


def network(times: int, recompute: bool) -> RevNet:
    """Return RevNet-38 with `times` as many units in every stage, in train mode."""
    return initialized(
        lambda: RevNet(
            10, widths=(32, 32, 64, 112), units=(times * UNITS,) * 3, strides=(1, 2, 2), recompute=recompute
        ),
        wide_normal,
        torch.Generator().manual_seed(SEED),
    )


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return torch.rand(size, 3, 32, 32, generator=generator), torch.randint(10, (size,), generator=generator)


def step(model: RevNet, x: Tensor, y: Tensor) -> None:
    F.cross_entropy(model(x), y).backward()


def gradient(model: RevNet, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the loss in the images and all parameters, as one vector in 64 bits."""
    leaf = x.clone().requires_grad_()
    step(model, leaf, y)
    return torch.cat([part.grad.flatten().double() for part in [leaf, *model.parameters()]])


def resident(key: str) -> float:
    """Return a memory figure of this process from Linux, in MiB: VmRSS is resident now, VmHWM was so at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def allocated(model: RevNet, x: Tensor, y: Tensor) -> float:
    """Return the most that torch held at a time during a step, in MiB, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(model, x, y)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes)) / 2**20


def measured(times: int, recompute: bool) -> dict:
    """Measure one depth one way; call it in a process of its own."""
    model, (x, y) = network(times, recompute), batch(BATCH)
    step(model, x[:2], y[:2])  # libraries prepare themselves, and the parameters' gradients get their place
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, seconds = resident("VmRSS"), []
    step(model, x, y)
    grown = resident("VmHWM") - before
    for _ in range(REPEATS):
        begun = time.process_time()
        step(model, x, y)
        seconds.append(time.process_time() - begun)
    ours = gradient(network(times, recompute), x[:8], y[:8])
    exact = gradient(network(times, False).double(), x[:8].double(), y[:8])
    return {
        "units": 3 * times * UNITS,
        "layers": 12 * times * UNITS + 2,
        "parameters": sum(part.numel() for part in model.parameters()),
        "recompute": recompute,
        "allocated_mib": allocated(model, x, y),
        "resident_mib": grown,
        "seconds": statistics.median(seconds),
        "gradient_error": ((ours - exact).norm() / exact.norm()).item(),
    }


def in_its_own_process(times: int, recompute: bool) -> dict:
    command = [sys.executable, __file__, "--measure", str(times), str(int(recompute))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(result: dict) -> str:
    """Return the result as a Markdown document."""
    lines = [
        "# Memory of a RevNet over depth",
        "",
        "| layers | units | recomputed: allocated | against 1x | resident | kept: allocated | against 1x | resident | "
        "CPU time, recomputed / kept | gradient error, recomputed (kept) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first = result["rows"][0]
    for row in result["rows"]:
        ours, kept = row["recomputed"], row["kept"]
        growth = {way: row[way]["allocated_mib"] / first[way]["allocated_mib"] for way in row}
        lines.append(
            f"| {ours['layers']} | {ours['units']} | {ours['allocated_mib']:.0f} MiB | {growth['recomputed']:.2f} | "
            f"{ours['resident_mib']:.0f} MiB | {kept['allocated_mib']:.0f} MiB | {growth['kept']:.2f} | "
            f"{kept['resident_mib']:.0f} MiB | {ours['seconds'] / kept['seconds']:.2f} | "
            f"{ours['gradient_error']:.1e} ({kept['gradient_error']:.1e}) |"
        )
    lines += [
        "",
        f"One training step on n = {result['n']} random 32x32 images, 32 bits, train mode, seed {SEED}; time is the "
        f"median of {REPEATS} steps. Gradient error: relative to 64 bits, n = 8.",
        f"{result['hardware']}, {result['packages']}.",
        f"`{result['command']}`",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every depth both ways, each in a process of its own, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs=2, type=int, metavar=("TIMES", "RECOMPUTE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        times, recompute = options.measure
        print(json.dumps(measured(times, bool(recompute))))
        return
    rows = []
    for times in TIMES:
        rows.append({"recomputed": in_its_own_process(times, True), "kept": in_its_own_process(times, False)})
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "n": BATCH,
        "seed": SEED,
        "rows": rows,
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": "python benchmarks/revnet_memory.py",
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "revnet_memory.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "revnet_memory.md").write_text(table(result))


if __name__ == "__main__":
    main()
