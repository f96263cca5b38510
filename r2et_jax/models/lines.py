"""Parallel lines around an activation's derivative, for bounds of second order."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from r2et_jax.checks import check_in, check_positive
from r2et_jax.models.activations import LEAKY_SLOPE, NAMES
from r2et_jax.numerics import sigmoid
from r2et_jax.types import Array

# lines(low, high, origin) -> (m, smallest, largest of φ′(t) − m(t − origin)).
SlopeLines = Callable[[Array, Array, Array], tuple[Array, Array, Array]]

# φ′(t) = base + gain·σ(ρt).
_SIGMOIDAL = {"softplus": (0.0, 1.0), "leaky_softplus": (LEAKY_SLOPE, 1 - LEAKY_SLOPE)}


def slope_lines(name: str, *, rho: float = 5.0) -> SlopeLines | None:
    """Two parallel lines that enclose φ′ over an interval, the chord's slope theirs.

    m is that slope; φ′(t) − m(t − origin) has its extremes at the ends of
    the interval and where φ″ = m, which the softplus forms have in closed form.

    Args:
      name: an activation, see `models.activations`.
      rho: sharpness ρ > 0 of the softplus forms.

    Returns:
      `lines(low, high, origin) -> (m, smallest, largest)`, of arrays of one shape,
      low ≤ high; None for an activation other than the softplus forms. For a kinked
      one no chord is better than the interval of `slope_range`.

    Raises:
      ValueError: for an unknown name or rho ≤ 0.

    Example:
      >>> lines = slope_lines("softplus", rho=1.0)
      >>> m, low, high = lines(jnp.array(-1.0), jnp.array(1.0), jnp.array(0.0))
      >>> print(f"{m:.4f} {low:.4f} {high:.4f}")
      0.2311 0.4929 0.5071
    """
    check_in("activation", name, NAMES)
    check_positive("rho", rho)
    if name not in _SIGMOIDAL:
        return None
    base, gain = _SIGMOIDAL[name]

    def lines(low, high, origin, /):
        first, last = sigmoid(rho * low), sigmoid(rho * high)
        width = high - low
        rise = jnp.where(width > 0, last - first, 0) / jnp.where(width > 0, width, 1)
        # σ(ρt)(1 − σ(ρt)) = rise/ρ at ±t; of the two roots the upper one loses no
        # digits, and the other is rise/ρ over it.
        share = jnp.clip(rise / rho, jnp.finfo(rise.dtype).tiny, 0.25)
        upper = (1 + jnp.sqrt(1 - 4 * share)) / 2
        turn = jnp.log(upper * upper / share) / rho
        values = [first - rise * (low - origin), last - rise * (high - origin)]
        smallest, largest = jnp.minimum(*values), jnp.maximum(*values)
        for at, value in ((turn, upper), (-turn, share / upper)):
            value = value - rise * (at - origin)
            inside = (low < at) & (at < high)
            smallest = jnp.where(inside, jnp.minimum(smallest, value), smallest)
            largest = jnp.where(inside, jnp.maximum(largest, value), largest)
        return gain * rise, base + gain * smallest, base + gain * largest

    return lines
