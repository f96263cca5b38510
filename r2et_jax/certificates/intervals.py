"""Interval bounds on the gradient of a network with one hidden layer.

z(x) = bᵀφ(Wᵀx + a) + skipᵀx has ∇z = W(b ⊙ φ′(Wᵀx + a)) + skip. Over the ball
‖δ‖ ≤ ε pre-activation h moves by at most ε‖W_h‖, the norm dual to the ball's, so that
φ′_h stays in a known interval; all that is linear in φ′ is then bounded exactly over
the box of these intervals. Kinked activations are served too. For two classes the
log-odds are ±z, whose |∇| is the same.

Bounds hold up to rounding, and are differentiable in the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in, check_ndim
from r2et_jax.numerics import magnitude, safe_norm
from r2et_jax.types import Array

# The ball's norm -> the dual one, of a weight vector.
_DUAL = {"l2": safe_norm, "linf": lambda v: jnp.sum(magnitude(v))}
NORMS = tuple(_DUAL)


class OneHiddenLayer(Protocol):
    """Weights as `models.MLP.layers` gives them.

    Attributes:
      weight: W [n, h].
      bias: a [h].
      out: b [h].
      skip: weights [n] of the linear part.
      slopes: `slopes(low, high) -> (smallest, largest)` φ′ over intervals.
    """

    weight: Array
    bias: Array
    out: Array
    skip: Array
    slopes: Callable[[Array, Array], tuple[Array, Array]]


def unit_reach(network: OneHiddenLayer, /, *, norm: str = "l2") -> Array:
    """How far each pre-activation moves over a ball of radius 1.

    Args:
      network: the network.
      norm: the ball's, one of `NORMS`.

    Returns:
      ‖W_h‖₂ for an l2 ball, ‖W_h‖₁ for an l∞ ball [h]; it does not depend on x.

    Raises:
      ValueError: for an unknown norm.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(hidden=(3,))
      >>> params = model.init(jax.random.key(0), jnp.zeros(5))
      >>> unit_reach(model.layers(params)).shape
      (3,)
    """
    check_in("norm", norm, NORMS)
    return jax.vmap(_DUAL[norm], 1)(network.weight)


def slope_bounds(
    network: OneHiddenLayer, x: Array, reach: Array, /
) -> tuple[Array, Array]:
    """The smallest and the largest φ′ of every unit over a ball around x.

    Args:
      network: the network.
      x: centre [n].
      reach: largest move of each pre-activation [h], ε · `unit_reach`; zeros give φ′
        at x itself.

    Returns:
      Bounds [h], [h].
    """
    check_ndim("x", x, 1)
    center = x @ network.weight + network.bias
    return network.slopes(center - reach, center + reach)


def gradient_bounds(
    network: OneHiddenLayer, slopes: tuple[Array, Array], /
) -> tuple[Array, Array]:
    """Bounds on every entry of ∇z over the ball that `slopes` belong to.

    Args:
      network: the network.
      slopes: what `slope_bounds` returned.

    Returns:
      Lower and upper bounds [n], [n]. Equal, and ∇z itself, if the slopes are.
    """
    middle, half = _center(network, slopes)
    center = network.weight @ middle + network.skip
    spread = magnitude(network.weight) @ half
    return center - spread, center + spread


def gap_bounds(
    network: OneHiddenLayer,
    slopes: tuple[Array, Array],
    inside: Array,
    outside: Array,
    /,
) -> Array:
    """Lower bounds on |g_i| − |g_j| over a ball, g = ∇z, for p × q pairs of features.

    |g_i| − |g_j| ≥ min over t = ±1 of s_i g_i − t g_j for any sign s_i, and

      s_i g_i − t g_j ≥ Σ_h b_h(s_i W_ih − t W_jh) m_h + s_i skip_i − t skip_j
                        − Σ_h |b_h| |s_i W_ih − t W_jh| r_h,

    m ± r the interval of φ′: both gradients share it, which is tighter than the
    difference of their own bounds. Exact where r = 0 and s_i is the sign of g_i.

    Args:
      network: the network.
      slopes: what `slope_bounds` returned.
      inside: row i [p, n] is s_i at feature i and 0 elsewhere.
      outside: row j [q, n] is 1 at feature j and 0 elsewhere.

    Returns:
      Bounds [p, q], with O(pqh) operations.

    Raises:
      ValueError: for a selection without two axes.
    """
    check_ndim("inside", inside, 2)
    check_ndim("outside", outside, 2)
    middle, half = _center(network, slopes)
    rows_in, rows_out = inside @ network.weight, outside @ network.weight
    mean_in = (rows_in @ middle + inside @ network.skip)[:, None]
    mean_out = (rows_out @ middle + outside @ network.skip)[None, :]

    # Sums as products with ones: XLA's reductions along the last axis are slow on CPU.
    ones = jnp.ones(network.bias.shape, half.dtype)

    def spread(sign):
        own, other = (rows_in * half)[:, None], (rows_out * half)[None]
        return magnitude(own - sign * other) @ ones

    same, opposite = spread(1), spread(-1)
    return mean_in - jnp.maximum(mean_out + same, opposite - mean_out)


def _center(
    network: OneHiddenLayer, slopes: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Middle and half width of b ⊙ φ′ [h], [h]."""
    low, high = slopes
    middle = network.out * (low + high) / 2
    return middle, magnitude(network.out) * (high - low) / 2
