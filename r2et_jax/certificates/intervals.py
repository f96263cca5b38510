"""Interval bounds on the gradient of a network with one hidden layer.

z(x) = bᵀφ(Wᵀx + a) + skipᵀx has ∇z = W(b ⊙ φ′(Wᵀx + a)) + skip. Over the ball
‖δ‖ ≤ ε pre-activation h moves by at most ε‖W_h‖, the norm dual to the ball's, so that
φ′_h stays in a known interval; all that is linear in φ′ is then bounded exactly over
the box of these intervals. Kinked activations are served too. For two classes the
log-odds are ±z, whose |∇| is the same.

Bounds hold up to rounding, and are differentiable in the weights; those of gaps in
reverse mode.
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


def preactivations(network: OneHiddenLayer, x: Array, /) -> Array:
    """Wᵀx + a [h] at an input x [n]."""
    check_ndim("x", x, 1)
    return x @ network.weight + network.bias


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
    center = preactivations(network, x)
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
      Bounds [p, q], with O(pqh) operations after products of the rows with the weights;
      `feature_gap_bounds` does without these.

    Raises:
      ValueError: for a selection without two axes.
    """
    check_ndim("inside", inside, 2)
    check_ndim("outside", outside, 2)
    picked = jnp.concatenate([inside, outside])
    signs = jnp.ones(inside.shape[0], network.weight.dtype)
    return _row_gaps(
        picked @ network.weight,
        picked @ network.skip,
        _center(network, slopes),
        signs,
    )


def feature_gap_bounds(
    network: OneHiddenLayer,
    slopes: tuple[Array, Array],
    features: Array,
    signs: Array,
    /,
) -> Array:
    """`gap_bounds` of the first p of some features against the others, by index.

    Args:
      network: the network.
      slopes: what `slope_bounds` returned.
      features: indices [p + q] in 0…n−1, which is not checked.
      signs: s_i of the first p of them [p].

    Returns:
      Bounds [p, q], with O(pqh) operations.

    Raises:
      ValueError: for features or signs of other than one axis, or more signs than
        features.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(hidden=(3,))
      >>> net = model.layers(model.init(jax.random.key(0), jnp.zeros(5)))
      >>> slopes = slope_bounds(net, jnp.ones(5), 0.1 * unit_reach(net))
      >>> feature_gap_bounds(net, slopes, jnp.array([4, 0, 2]), jnp.ones(1)).shape
      (1, 2)
    """
    check_ndim("features", features, 1)
    check_ndim("signs", signs, 1)
    if signs.shape[0] > features.shape[0]:
        raise ValueError(
            f"there are {signs.shape[0]} signs for {features.shape[0]} features: "
            "expected at most one for each"
        )
    rows, skips = (
        leaf.at[features].get(mode="promise_in_bounds")
        for leaf in (network.weight, network.skip)
    )
    return _row_gaps(rows, skips, _center(network, slopes), signs)


def _row_gaps(
    rows: Array, skips: Array, center: tuple[Array, Array], signs: Array
) -> Array:
    """Bounds for the first rows of W against the others [p, q].

    With u = s_i t the spread of a pair is Σ_h r_h |W_ih − u W_jh|, without signs.
    """
    count = signs.shape[0]
    middle, half = center
    means = rows @ middle + skips
    inside, outside = means[:count], means[count:]
    means = signs[:, None] * outside[None, :]
    # One dtype: the written-out derivative casts nothing back.
    dtype = jnp.result_type(rows, half, means)
    sides = _larger_side(*(part.astype(dtype) for part in (rows, half, means)))
    return (signs * inside)[:, None] - sides


@jax.custom_vjp
def _larger_side(rows: Array, half: Array, means: Array) -> Array:
    """max over u = ±1 of u·mean_ij + Σ_h r_h |W_ih − u W_jh| [p, q].

    Automatic differentiation goes back through both sides; the smaller one has no part
    in the derivative.
    """
    return jnp.maximum(*_sides(rows, half, means))


def _sides(rows, half, means):
    inside, outside = rows[: means.shape[0], None], rows[None, means.shape[0] :]
    same = means + jnp.abs(inside - outside) @ half
    opposite = jnp.abs(inside + outside) @ half - means
    return same, opposite


def _larger_side_forward(rows, half, means):
    same, opposite = _sides(rows, half, means)
    return jnp.maximum(same, opposite), (rows, half, jnp.sign(same - opposite))


def _larger_side_reverse(kept, cotangents):
    rows, half, sides = kept
    p, q = sides.shape
    signed = cotangents * sides
    # Of equal sides either will do for the rows; a mean then has the derivative 0.
    sides = jnp.where(sides == 0, jnp.ones_like(sides), sides)[..., None]
    above = rows[:p, None] > sides * rows[None, p:]
    inside, outside = cotangents[..., None], cotangents[..., None] * sides
    inside = jnp.where(above, inside, -inside)
    outside = jnp.where(above, -outside, outside)
    # Sums written out: XLA's reductions over these axes are far slower on CPU.
    slopes = [sum(inside[:, j] for j in range(q)), sum(outside[i] for i in range(p))]
    slopes = jnp.concatenate(slopes)
    return slopes * half[None], jnp.sum(slopes * rows, axis=0), signed


_larger_side.defvjp(_larger_side_forward, _larger_side_reverse)


def _center(
    network: OneHiddenLayer, slopes: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Middle and half width of b ⊙ φ′ [h], [h]."""
    low, high = slopes
    share = network.out / 2  # halved here, once for all inputs
    return share * (low + high), magnitude(share) * (high - low)
