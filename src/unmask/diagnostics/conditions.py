"""Under which conditions was the model audited? Each returns None where there is nothing to say."""

from __future__ import annotations

from unmask.diagnostics.finding import Finding


def train_mode(was_training: bool) -> Finding | None:
    """Say that the model came in train mode."""
    if not was_training:
        return None
    return Finding(
        "train_mode",
        "warn",
        "The model came in train mode; it was audited in eval mode.",
        {},
        "Call model.eval() before use.",
    )


def limited_access(access: str) -> Finding | None:
    """Say that the attacks had access to less than the gradients."""
    if access == "gradients":
        return None
    return Finding(
        "access",
        "warn",
        f"The attacks had access to {access} alone: an attacker with the weights may do better.",
        {"access": access},
        "Audit the model itself if you can.",
    )
