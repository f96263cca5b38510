"""The range of an activation's second derivative over intervals, for sound bounds."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from r2et_jax.checks import check_in, check_positive
from r2et_jax.models.activations import LEAKY_SLOPE
from r2et_jax.numerics import sigmoid
from r2et_jax.types import Array

# bends(low, high) -> the smallest and the largest second derivative between them.
BendRange = Callable[[Array, Array], tuple[Array, Array]]

# φ″(t) = gain·ρ·σ(ρt)σ(−ρt), even and falling with |t|.
_GAINS = {"softplus": 1.0, "leaky_softplus": 1 - LEAKY_SLOPE}


def bend_range(name: str, *, rho: float = 5.0) -> BendRange:
    """The exact range of φ″ over an interval, for the softplus forms.

    Args:
      name: "softplus" or "leaky_softplus". A kinked activation has no φ″; its smooth
        stand-in, see `models.MLP.surrogate`, has.
      rho: sharpness ρ > 0.

    Returns:
      `bends(low, high) -> (smallest, largest)`, of arrays of one shape, low ≤ high.

    Raises:
      ValueError: for another name or rho ≤ 0.

    Example:
      >>> low, high = bend_range("softplus", rho=4.0)(jnp.array(-1.0), jnp.array(0.5))
      >>> print(f"{low:.4f} {high:.4f}")
      0.0707 1.0000
    """
    check_in("activation with a bounded bend", name, _GAINS)
    check_positive("rho", rho)
    gain = _GAINS[name] * rho

    def bend(t):
        return gain * sigmoid(rho * t) * sigmoid(-rho * t)

    def bends(low, high, /):
        nearest = jnp.clip(jnp.zeros_like(low), low, high)
        return bend(jnp.maximum(jnp.abs(low), jnp.abs(high))), bend(nearest)

    return bends
