"""Checks of whether a robustness figure can be believed; one per file, each returning a Finding."""

from unmask.diagnostics.activations import activations
from unmask.diagnostics.batch_dependence import batch_dependence
from unmask.diagnostics.binarization import binarization
from unmask.diagnostics.claim_gap import claim_gap
from unmask.diagnostics.conditions import limited_access, train_mode
from unmask.diagnostics.determinism import determinism
from unmask.diagnostics.eight_bit import eight_bit
from unmask.diagnostics.eps_curve import eps_curve
from unmask.diagnostics.finding import Finding, Findings
from unmask.diagnostics.gradients import gradients
from unmask.diagnostics.heatmap import coarse_grid, full_grid, heatmap
from unmask.diagnostics.indicators import indicators
from unmask.diagnostics.inner_gradients import inner_gradients
from unmask.diagnostics.linearised import linearised
from unmask.diagnostics.logit_scale import logit_scale
from unmask.diagnostics.query_breaks import query_breaks
from unmask.diagnostics.random_sampling import random_sampling
from unmask.diagnostics.refusals import refusals
from unmask.diagnostics.restart_curve import restart_curve
from unmask.diagnostics.restart_losses import restart_losses
from unmask.diagnostics.roughness import roughness
from unmask.diagnostics.sample import Keep, Sample
from unmask.diagnostics.step_curve import step_curve
from unmask.diagnostics.step_size import step_size
from unmask.diagnostics.surface import surface

__all__ = [
    "Finding",
    "Findings",
    "Keep",
    "Sample",
    "activations",
    "batch_dependence",
    "binarization",
    "claim_gap",
    "coarse_grid",
    "determinism",
    "eight_bit",
    "eps_curve",
    "full_grid",
    "gradients",
    "heatmap",
    "indicators",
    "inner_gradients",
    "limited_access",
    "linearised",
    "logit_scale",
    "query_breaks",
    "random_sampling",
    "refusals",
    "restart_curve",
    "restart_losses",
    "roughness",
    "step_curve",
    "step_size",
    "surface",
    "train_mode",
]
