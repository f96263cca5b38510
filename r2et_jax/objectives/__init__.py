"""Training objectives: cross-entropy and named penalties."""

from r2et_jax.objectives.loss import Objective
from r2et_jax.objectives.methods import DESCRIPTIONS, METHODS, NAMES, method
from r2et_jax.objectives.registry import objective

__all__ = ["DESCRIPTIONS", "METHODS", "NAMES", "Objective", "method", "objective"]
