"""Attacks on the ranking of an explanation, and the runner that serves them all."""

from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.constrained import constrained_attack
from r2et_jax.attacks.descent import Attack, gradient_attack, random_search
from r2et_jax.attacks.evolution import evolution
from r2et_jax.attacks.multiobjective import multiobjective_attack
from r2et_jax.attacks.protocols import protocol
from r2et_jax.attacks.registry import DESCRIPTIONS, NAMES, attack
from r2et_jax.attacks.results import AttackResult, manipulation_epoch
from r2et_jax.attacks.runner import compile_attack

__all__ = [
    "DESCRIPTIONS",
    "NAMES",
    "Attack",
    "AttackResult",
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
