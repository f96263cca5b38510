"""Training objectives: cross-entropy and named penalties."""

from r2et_jax.objectives import adversarial as adversarial
from r2et_jax.objectives import certified as certified
from r2et_jax.objectives import curvature_penalties as curvature_penalties
from r2et_jax.objectives import gradient_penalties as gradient_penalties
from r2et_jax.objectives import penalties as penalties
from r2et_jax.objectives import ratios as ratios
from r2et_jax.objectives import thickness as thickness
from r2et_jax.objectives.linearity import is_piecewise_linear as is_piecewise_linear
from r2et_jax.objectives.loss import Objective as Objective
from r2et_jax.objectives.loss import with_context as with_context
from r2et_jax.objectives.methods import DESCRIPTIONS as DESCRIPTIONS
from r2et_jax.objectives.methods import METHODS as METHODS
from r2et_jax.objectives.methods import NAMES as NAMES
from r2et_jax.objectives.methods import Method as Method
from r2et_jax.objectives.methods import method as method
from r2et_jax.objectives.registry import objective as objective

__all__ = [
    "DESCRIPTIONS",
    "METHODS",
    "NAMES",
    "Objective",
    "method",
    "objective",
    "with_context",
]
