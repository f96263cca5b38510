"""The range of an activation's derivative over intervals, for sound bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in
from r2et_jax.models.activations import LEAKY_SLOPE, NAMES, activation
from r2et_jax.models.lines import SlopeLines
from r2et_jax.types import Array

# slopes(low, high) -> the smallest and the largest derivative between them.
SlopeRange = Callable[[Array, Array], tuple[Array, Array]]

_KINKED = {"relu": 0.0, "leaky_relu": LEAKY_SLOPE}
# Where φ″ = 0: φ′ is monotone between two of these. The softplus forms have none.
_TURNS = {
    "tanh": (0.0,),
    "gelu": (-1.4185040087908284, 1.4185040087908284),
    "silu": (-2.3993572805154677, 2.3993572805154677),
}


class OneHiddenLayer(NamedTuple):
    """The weights of z(x) = bᵀφ(Wᵀx + a) + skipᵀx + constant.

    Attributes:
      weight: W [n, h], possibly of no units.
      bias: a [h].
      out: b [h].
      skip: weights [n] of the linear part, zeros if there is none.
      slopes: `slopes(low, high) -> (smallest, largest)` φ′ over intervals of
        pre-activations, elementwise; see `slope_range`.
      lines: parallel lines around φ′ over intervals, or None; see `slope_lines`.
    """

    weight: Array
    bias: Array
    out: Array
    skip: Array
    slopes: SlopeRange
    lines: SlopeLines | None = None


def slope_range(name: str, *, rho: float = 5.0) -> SlopeRange:
    """The exact range of φ′ over an interval, for the activation of that name.

    At a kink φ′ stands for both of its sides. It is differentiable in the ends of the
    interval.

    Args:
      name: an activation, see `models.activations`.
      rho: sharpness of the softplus forms.

    Returns:
      `slopes(low, high) -> (smallest, largest)`, of arrays of one shape, low ≤ high.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> low, high = slope_range("leaky_relu")(jnp.array([-1.0, 2.0]), jnp.ones(2) * 3)
      >>> print(low, high)
      [0.01 1.  ] [1. 1.]
    """
    check_in("activation", name, NAMES)
    if name in _KINKED:
        flat = _KINKED[name]

        def kinked(low, high, /):
            ones = jnp.ones_like(low)
            return (
                jnp.where(low > 0, ones, flat * ones),
                jnp.where(high >= 0, ones, flat * ones),
            )

        return kinked
    phi = activation(name, rho=rho)
    turns = _TURNS.get(name, ())

    def slope(u):
        return jax.jvp(phi, (u,), (jnp.ones_like(u),))[1]

    def smooth(low, high, /):
        first, last = slope(low), slope(high)
        smallest, largest = jnp.minimum(first, last), jnp.maximum(first, last)
        for turn in turns:
            extreme = slope(jnp.full_like(low, turn))
            between = (low < turn) & (turn < high)
            smallest = jnp.where(between, jnp.minimum(smallest, extreme), smallest)
            largest = jnp.where(between, jnp.maximum(largest, extreme), largest)
        return smallest, largest

    return smooth
