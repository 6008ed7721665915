"""Errors that a user can act on: each message says what came, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UnmaskError(Exception):
    """Base of every error that `unmask` raises for a reason the user can mend."""


class ThreatError(UnmaskError):
    """The threat model is not well formed (norm, eps or pixel bounds)."""


class ModelError(UnmaskError):
    """The model cannot be built, or its outputs are not usable logits."""


class DataError(UnmaskError):
    """Images or labels are missing or not of the expected form."""


class CheckpointError(UnmaskError):
    """A file of weights or training state cannot be used."""


class LedgerError(UnmaskError):
    """The record of a run is damaged, in use, or belongs to another run."""


class RecipeError(UnmaskError):
    """A training recipe is unknown or its settings contradict each other."""


class AuditError(UnmaskError):
    """An audit cannot be planned or completed as asked."""


class WorkersError(UnmaskError):
    """The processes that share the work cannot meet, or one of them failed or was lost."""


class OutputError(UnmaskError):
    """A path cannot be written (missing rights, no space, not a folder)."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Return the sentence that answers an unknown name: the name, a suggestion and what exists."""
    names = sorted(known)
    return f"There is no {kind} '{word}'.{suggest(word, names)} Known: {', '.join(names) or 'none'}."
