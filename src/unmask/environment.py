"""What a result depends on besides its inputs: versions of packages, the hardware, and how memory is kept."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # names of mallopt(3)
MOST = 2**31 - 1
PACKAGES = ("torch", "torchvision", "numpy")


def code_version() -> str:
    """Return the installed version of unmask, or "unknown" when it runs from a bare source tree."""
    try:
        return version("unmask")
    except PackageNotFoundError:
        return "unknown"


def packages() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware(device: object = "cpu") -> dict[str, str]:
    """Return the machine in words: processor, cores, threads in use, and the accelerator if `device` is one."""
    import torch  # not needed to know the version, which the command line prints without it

    chosen = torch.device(str(device))
    described = {"cpu": _processor(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    return described | ({"gpu": torch.cuda.get_device_name(chosen)} if chosen.type == "cuda" else {})


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for this process; returns whether it took the advice (glibc does).

    As it comes, every activation of a few megabytes is handed back to the system and fetched anew, page by page: a
    fifth of the time of passes on a CPU. UNMASK_KEEP_MEMORY=0 leaves it as it comes.
    """
    if os.environ.get("UNMASK_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, MOST) and mallopt(TRIM_THRESHOLD, MOST))


def free_memory() -> int | None:
    """Return how many bytes of memory can still be taken, the control group's limit included; None off Linux."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        found.append(int(limit) - int(used))
    except (OSError, KeyError, ValueError):  # another system, an older kernel, or no limit
        pass
    return min(found, default=None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
