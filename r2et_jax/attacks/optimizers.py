"""How a perturbation moves: step rules, which know the norm of the threat model.

A step rule is called with that norm and returns an Optax transformation whose update
of size 1, in that norm, moves by the whole budget ε: one setting serves every budget,
and the norm is said once. Gradients are normalised first, since those of saturated
models are far below the smallest step that float32 resolves beside x.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax

from r2et_jax.checks import check_in, check_nonnegative, check_positive
from r2et_jax.numerics import unit_l2
from r2et_jax.threat.definition import NORMS
from r2et_jax.types import Array

# rule(norm) -> transformation of the gradient to the update, in units of the budget.
StepRule = Callable[[str], optax.GradientTransformation]


def steepest(step_size: float | optax.Schedule) -> StepRule:
    """The steepest descent of the norm.

    l2: δ ← δ − ε·η·∇/‖∇‖₂; l∞: δ ← δ − ε·η·sign ∇. A vanished gradient stays zero.

    Args:
      step_size: η > 0 as a share of the budget, or a schedule of it.

    Returns:
      The step rule.

    Raises:
      ValueError: if a fixed η is not positive; by the rule, for an unknown norm.

    Example:
      >>> rule = steepest(0.1)
      >>> step = rule("linf")
      >>> update, _ = step.update(jnp.array([3.0, -1.0]), step.init(jnp.zeros(2)))
      >>> [round(float(u), 3) for u in update]
      [-0.1, 0.1]
    """
    descend = _descend(step_size)
    return _by_norm(lambda norm: optax.chain(_UNIT[norm](), descend))


def momentum(step_size: float | optax.Schedule, *, decay: float = 0.9) -> StepRule:
    """Heavy ball on normalised gradients, scaled to keep the length of a step.

    Of l∞ the sign of the average moves the perturbation.

    Args:
      step_size: as in `steepest`.
      decay: of the average, in [0, 1).

    Returns:
      The step rule.

    Raises:
      ValueError: as `steepest`, and for a decay out of range.

    Source: Dong et al. 2018, momentum attacks.
    """
    check_nonnegative("decay", decay)
    if decay >= 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay!r}")
    descend = _descend(step_size)

    def rule(norm):
        last = [optax.scale_by_sign()] if norm == "linf" else []
        return optax.chain(_l2(), optax.ema(decay), *last, descend)

    return _by_norm(rule)


def adam(step_size: float | optax.Schedule) -> StepRule:
    """Adam on gradients normalised to a largest magnitude of one.

    Its update has entries of size η. For l2 it is divided by √n, the norm of n such.

    Args:
      step_size: as in `steepest`.

    Returns:
      The step rule.

    Raises:
      ValueError: as `steepest`.
    """
    descend = _descend(step_size)

    def rule(norm):
        parts = [_largest(), optax.scale_by_adam(eps=1e-8)]
        if norm == "l2":
            parts.append(_update(lambda u: u / jnp.sqrt(jnp.asarray(u.size, u.dtype))))
        return optax.chain(*parts, descend)

    return _by_norm(rule)


def check_step_rule(optimizer: StepRule) -> None:
    """Raise ValueError for what is no step rule, such as an Optax optimiser."""
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise ValueError(
            "optimizer must be a step rule, which is called with the threat model's "
            f"norm, such as optimizers.steepest(0.01), got {type(optimizer).__name__}"
        )


def _by_norm(rule: StepRule) -> StepRule:
    def checked(norm):
        check_in("norm", norm, NORMS)
        return rule(norm)

    return checked


def _update(fn: Callable[[Array], Array]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: fn(updates))


def _l2():
    return _update(unit_l2)


def _largest():
    def normalize(updates):
        scale = jnp.max(jnp.abs(updates))
        return updates / jnp.where(scale > 0, scale, 1)

    return _update(normalize)


_UNIT = {"l2": _l2, "linf": optax.scale_by_sign}


def _descend(step_size):
    if not callable(step_size):
        check_positive("step_size", step_size)
    return optax.scale_by_learning_rate(step_size)
