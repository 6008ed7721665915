"""Reproduction: the seeds' tables and figures trained, measured and set beside what was published."""

from unmask.reproduction.estimating import Estimate, estimate
from unmask.reproduction.planning import Plan, make_plan
from unmask.reproduction.running import Asked, Step, carry_out, reproduce

__all__ = ["Asked", "Estimate", "Plan", "Step", "carry_out", "estimate", "make_plan", "reproduce"]
