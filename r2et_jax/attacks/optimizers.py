"""How a perturbation moves: Optax transformations, in units of the budget.

An update of size 1 moves by the whole budget ε, so that one setting serves every
budget. Gradients are normalised first, since those of saturated models are far below
the smallest step that float32 resolves beside x.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from r2et_jax.checks import check_in, check_nonnegative, check_positive
from r2et_jax.numerics import unit_l2


def normalize_l2() -> optax.GradientTransformation:
    """Divide by the l2 norm; a vanished gradient stays zero."""
    return optax.stateless(lambda updates, params: unit_l2(updates))


def normalize_linf() -> optax.GradientTransformation:
    """Divide by the largest magnitude; a vanished gradient stays zero."""

    def normalize(updates, params):
        scale = jnp.max(jnp.abs(updates))
        return updates / jnp.where(scale > 0, scale, 1)

    return optax.stateless(normalize)


def normalized_gradient(
    step_size: float | optax.Schedule,
) -> optax.GradientTransformation:
    """δ ← δ − ε·η·∇/‖∇‖₂."""
    return optax.chain(normalize_l2(), _descend(step_size))


def sign_gradient(step_size: float | optax.Schedule) -> optax.GradientTransformation:
    """δ ← δ − ε·η·sign ∇, the steepest descent of the l∞ norm."""
    return optax.chain(optax.scale_by_sign(), _descend(step_size))


def steepest(
    norm: str, step_size: float | optax.Schedule
) -> optax.GradientTransformation:
    """The steepest descent of a norm: `normalized_gradient` (l2), `sign_gradient`."""
    check_in("norm", norm, ("l2", "linf"))
    return (normalized_gradient if norm == "l2" else sign_gradient)(step_size)


def momentum(
    step_size: float | optax.Schedule, *, decay: float = 0.9
) -> optax.GradientTransformation:
    """Heavy ball on normalised gradients, scaled to keep the length of a step.

    Source: Dong et al. 2018, momentum attacks.
    """
    check_nonnegative("decay", decay)
    if decay >= 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay!r}")
    return optax.chain(normalize_l2(), optax.ema(decay), _descend(step_size))


def adam(step_size: float | optax.Schedule) -> optax.GradientTransformation:
    """Adam on gradients normalised to a largest magnitude of one."""
    return optax.chain(
        normalize_linf(), optax.scale_by_adam(eps=1e-8), _descend(step_size)
    )


def _descend(step_size):
    if not callable(step_size):
        check_positive("step_size", step_size)
    return optax.scale_by_learning_rate(step_size)


_OPTIMIZERS = {
    "normalized_gradient": normalized_gradient,
    "sign": sign_gradient,
    "momentum": momentum,
    "adam": adam,
}
NAMES = tuple(_OPTIMIZERS)


def optimizer(
    name: str, step_size: float | optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser of that name.

    Raises:
      ValueError: for an unknown name or a step size that is not positive.
    """
    check_in("optimizer", name, NAMES)
    return _OPTIMIZERS[name](step_size)
