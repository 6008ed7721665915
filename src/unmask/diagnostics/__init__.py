"""Checks of whether a robustness figure can be believed; one per file, each returning a Finding."""

from unmask.diagnostics.claim_gap import claim_gap
from unmask.diagnostics.conditions import limited_access, train_mode
from unmask.diagnostics.determinism import determinism
from unmask.diagnostics.eight_bit import eight_bit
from unmask.diagnostics.eps_curve import eps_curve
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.gradients import gradients
from unmask.diagnostics.restart_losses import restart_losses

__all__ = [
    "Finding",
    "claim_gap",
    "determinism",
    "eight_bit",
    "eps_curve",
    "gradients",
    "limited_access",
    "restart_losses",
    "train_mode",
]
