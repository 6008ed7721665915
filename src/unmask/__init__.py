"""unmask: train classifiers with defences, and find out whether their robustness is real.

    import unmask

    threat = unmask.Linf("8/255")
    result = unmask.audit(model, x, y, threat)
    print(result.headline, result.verdict.label)

Names are imported on first use, so that the command line starts, and reports are written, without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unmask import attacks, losses, models
    from unmask.audit import AuditResult, Subject, audit, diagnose
    from unmask.data import DataSet, load_data
    from unmask.environment import code_version
    from unmask.errors import UnmaskError
    from unmask.ledger import load_run
    from unmask.recipes import Recipe, Trained, train
    from unmask.report import write_report
    from unmask.threat import L1, L2, Linf, ThreatModel

    __version__ = code_version()

__all__ = [
    "L1",
    "L2",
    "AuditResult",
    "DataSet",
    "Linf",
    "Recipe",
    "Subject",
    "ThreatModel",
    "Trained",
    "UnmaskError",
    "__version__",
    "attacks",
    "audit",
    "diagnose",
    "load_data",
    "load_run",
    "losses",
    "models",
    "train",
    "write_report",
]

_HOMES = {
    "L1": "threat",
    "L2": "threat",
    "Linf": "threat",
    "ThreatModel": "threat",
    "AuditResult": "audit",
    "Subject": "audit",
    "audit": "audit",
    "diagnose": "audit",
    "DataSet": "data",
    "load_data": "data",
    "UnmaskError": "errors",
    "load_run": "ledger",
    "Recipe": "recipes",
    "Trained": "recipes",
    "train": "recipes",
    "write_report": "report",
}


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for."""
    if name == "__version__":
        return import_module("unmask.environment").code_version()
    if name in ("attacks", "losses", "models"):
        return import_module(f"unmask.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute '{name}'")
    return getattr(import_module(f"unmask.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
