"""What a check found: a status, the figures behind it, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warn", "fail", "not_applicable"]


@dataclass(frozen=True)
class Finding:
    """One check's outcome. `evidence` holds plain numbers, strings and lists; passes are example passes in all."""

    check: str
    status: Status
    summary: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    next_step: str = ""
    forwards: int = 0
    backwards: int = 0
