"""The short inner maximisation of adversarial penalties."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.numerics import safe_norm, unit_l2
from r2et_jax.types import Array


def ascend(
    objective: Callable[[Array], Array],
    start: Array,
    *,
    epsilon: float,
    num_steps: int,
    step_size: float,
) -> Array:
    """A few normalised steps of ascent inside an l2 ball, a constant afterwards.

    δ ← Π(δ + ε·η·∇/‖∇‖₂), Π the projection on ‖δ‖₂ ≤ ε. A vanished gradient stays.

    Args:
      objective: `objective(delta) -> scalar`, maximised; it must not depend on what
        is differentiated later (pass it through `stop_gradient`).
      start: δ at the start, of any shape, inside the ball.
      epsilon: radius ε of the ball.
      num_steps: number of steps, a few, at least 1.
      step_size: η, in units of ε.

    Returns:
      δ of start's shape, without derivative.

    Example:
      >>> delta = ascend(lambda d: d[0], jnp.zeros(2), epsilon=1.0, num_steps=3,
      ...                step_size=0.6)
      >>> delta.tolist()
      [1.0, 0.0]

    Source: Madry et al. 2018, projected gradient descent.
    """
    gradient = jax.grad(objective)

    def step(_, delta):
        moved = delta + epsilon * step_size * unit_l2(gradient(delta))
        return moved * (epsilon / jnp.maximum(safe_norm(moved), epsilon))

    # Few steps: unrolled, so that XLA fuses them and counts the work of each.
    perturbed = jax.lax.fori_loop(0, num_steps, step, start, unroll=True)
    return jax.lax.stop_gradient(perturbed)
