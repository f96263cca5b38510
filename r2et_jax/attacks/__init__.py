"""Attacks on the ranking of an explanation, and the runner that serves them all."""

from r2et_jax.attacks import goals as goals
from r2et_jax.attacks import optimizers as optimizers
from r2et_jax.attacks.constrained import WEIGHTINGS as WEIGHTINGS
from r2et_jax.attacks.constrained import ConstrainedState as ConstrainedState
from r2et_jax.attacks.constrained import boundary_divergence as boundary_divergence
from r2et_jax.attacks.constrained import constrained_attack as constrained_attack
from r2et_jax.attacks.descent import Attack as Attack
from r2et_jax.attacks.descent import Context as Context
from r2et_jax.attacks.descent import State as State
from r2et_jax.attacks.descent import gradient_attack as gradient_attack
from r2et_jax.attacks.descent import prediction_divergence as prediction_divergence
from r2et_jax.attacks.descent import random_search as random_search
from r2et_jax.attacks.ensemble import DEFAULT_BUDGET as DEFAULT_BUDGET
from r2et_jax.attacks.ensemble import Member as Member
from r2et_jax.attacks.ensemble import default_budget as default_budget
from r2et_jax.attacks.ensemble import default_ensemble as default_ensemble
from r2et_jax.attacks.ensemble import round_cost as round_cost
from r2et_jax.attacks.evolution import evolution as evolution
from r2et_jax.attacks.min_norm import min_norm_weights as min_norm_weights
from r2et_jax.attacks.multiobjective import (
    multiobjective_attack as multiobjective_attack,
)
from r2et_jax.attacks.multiobjective_trace import DescentResult as DescentResult
from r2et_jax.attacks.multiobjective_trace import DescentTrace as DescentTrace
from r2et_jax.attacks.multiobjective_trace import trace_descent as trace_descent
from r2et_jax.attacks.protocols import SINGLE as SINGLE
from r2et_jax.attacks.protocols import SURROGATE_RHO as SURROGATE_RHO
from r2et_jax.attacks.protocols import Protocol as Protocol
from r2et_jax.attacks.protocols import protocol as protocol
from r2et_jax.attacks.registry import DESCRIPTIONS as DESCRIPTIONS
from r2et_jax.attacks.registry import NAMES as NAMES
from r2et_jax.attacks.registry import STRONGEST as STRONGEST
from r2et_jax.attacks.registry import attack as attack
from r2et_jax.attacks.results import AttackResult as AttackResult
from r2et_jax.attacks.results import Best as Best
from r2et_jax.attacks.results import Rounds as Rounds
from r2et_jax.attacks.results import Steps as Steps
from r2et_jax.attacks.results import manipulation_epoch as manipulation_epoch
from r2et_jax.attacks.runner import attack_batch as attack_batch
from r2et_jax.attacks.runner import attack_example as attack_example
from r2et_jax.attacks.runner import compile_attack as compile_attack
from r2et_jax.attacks.smooth_terms import smoothed_gradient as smoothed_gradient
from r2et_jax.attacks.strongest import compile_strongest as compile_strongest

__all__ = [
    "Attack",
    "AttackResult",
    "DESCRIPTIONS",
    "NAMES",
    "Rounds",
    "SINGLE",
    "Steps",
    "attack",
    "compile_attack",
    "constrained_attack",
    "evolution",
    "goals",
    "gradient_attack",
    "manipulation_epoch",
    "multiobjective_attack",
    "optimizers",
    "protocol",
    "random_search",
]
