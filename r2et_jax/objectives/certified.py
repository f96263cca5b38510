"""Hinge on certified gaps: bounds that hold over a whole ball, trained directly."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax import ranking
from r2et_jax.bounds import Policy, ball, bound
from r2et_jax.certificates.intervals import (
    OneHiddenLayer,
    feature_gap_bounds,
    preactivations,
    unit_reach,
)
from r2et_jax.checks import check_count, check_k, check_positive
from r2et_jax.numerics import magnitude
from r2et_jax.objectives.penalties import Penalty
from r2et_jax.score import log_odds
from r2et_jax.types import ApplyFn, Array, Params

# Narrow bounds are what a certificate needs. Training needs their slope, many times:
# few cells, intervals for products.
TRAINING = Policy(slope="chord", num_cells=4, quadratic=False)
# A pair of which nothing is known counts as a gap of so many mean |g|, and is constant.
_UNKNOWN = -100.0

# Examples of a batch whose gradient's program is bounded, by the methods by name: the
# order of the examples is new in each epoch. Bounds of all 256 of a batch on Adult take
# .28 s of a core with two hidden layers of 32, 60 times the loss itself.
BOUNDED_EXAMPLES = 16

Layers = Callable[[Params], OneHiddenLayer]


def certified_hinge(
    layers: Layers,
    *,
    k: int,
    epsilon: float = 1.0,
    margin: float = 0.1,
    num_border: int = 5,
) -> Penalty:
    """mean relu(m − ℓ_ij/mean|g|) over the weakest of T × the strongest outside.

    ℓ_ij is a lower bound of |g_i| − |g_j| over the ball ‖δ‖₂ ≤ r, from intervals of φ′;
    see `certificates.intervals.gap_bounds`. The radius is ramped linearly over the
    first half of training, r = ε·min(1, 2·progress): at full radius from the start no
    pair is certified and the bound only flattens the network. Smooth activations suit
    it best: at a kink the interval of φ′ opens at once.

    Args:
      layers: `layers(params)`, the weights of a network with one hidden layer and one
        logit, as `models.MLP.layers`.
      k: size of the top set.
      epsilon: radius ε > 0 of the l2 ball at the end, in units of x.
      margin: m > 0, in units of the mean |g|.
      num_border: features on each side of the border, at most those there are.

    Returns:
      `penalty(params, x, target, /, *, reference=None, progress)`, progress the share
      of training done in [0, 1]; x of one axis.

    Raises:
      ValueError: for an argument out of range; when traced, for k out of range or a
        network that `layers` refuses.

    Source: ours; interval bounds as in Gowal et al. 2018.
    """
    check_positive("epsilon", epsilon)
    check_positive("margin", margin)
    check_count("num_border", num_border)

    def gradient(network, center):
        # Both ends of the interval are φ′ itself, but for a unit at a kink.
        smallest, _ = network.slopes(center, center)
        return network.weight @ (network.out * smallest) + network.skip

    def penalty(params, x, target, /, *, reference=None, progress):
        del target  # |∇u| of the two classes is the same
        check_k(k, x.size)
        network = layers(params)
        center = preactivations(network, x)
        ranked = g = gradient(network, center)
        if reference is not None:
            kept = layers(reference)
            ranked = gradient(kept, preactivations(kept, x))
        border, signs = _border(ranked, k, num_border)
        reach = _ramped(epsilon, progress, x) * unit_reach(network)
        slopes = network.slopes(center - reach, center + reach)
        gaps = feature_gap_bounds(network, slopes, border, signs)
        return _hinge(gaps, g, margin)

    return penalty


def program_hinge(
    apply: ApplyFn,
    *,
    k: int,
    epsilon: float = 1.0,
    margin: float = 0.1,
    num_border: int = 5,
    policy: Policy = TRAINING,
) -> Penalty:
    """`certified_hinge` for any model whose gradient's program has bounds.

    ℓ_ij is a lower bound of |g_i| − |g_j| over the ball, by affine bounds of the
    gradient as one program, in which what the two features share cancels; see
    `bounds.bound`. The ramp, the pairs and the hinge are those of `certified_hinge`. A
    pair without a finite bound counts as one of −100 mean |g|, without a slope.

    Args:
      apply: any `apply(params, x) -> logits [C]`, smooth; x of any shape.
      k, epsilon, margin, num_border: as in `certified_hinge`.
      policy: how the program is bounded.

    Returns:
      `penalty(params, x, target, /, *, reference=None, progress)`; target is the class
      whose log-odds are explained.

    Raises:
      ValueError: for an argument out of range; when traced, for k out of range and for
        what has no bounds, by the name of the primitive and the line of the model.

    Source: ours; training on bounds as in Gowal et al. 2018 and Xu et al. 2020.
    """
    check_positive("epsilon", epsilon)
    check_positive("margin", margin)
    check_count("num_border", num_border)
    gradient = jax.grad(log_odds(apply), argnums=1)

    def penalty(params, x, target, /, *, reference=None, progress):
        check_k(k, x.size)

        def values(moved):
            return gradient(params, moved, target).ravel()

        ranked = g = values(x)
        if reference is not None:
            ranked = gradient(reference, x, target).ravel()
        border, signs = _border(ranked, k, num_border)
        affine = bound(values, ball(x, _ramped(epsilon, progress, x)), policy=policy)
        inside, outside = jnp.split(border, [signs.size])
        rows, columns = (
            side.ravel() for side in jnp.meshgrid(inside, outside, indexing="ij")
        )
        leading = jnp.repeat(signs, outside.size)
        pairs = jnp.stack([rows, columns], axis=1)
        lower = [
            affine.combined(
                pairs, jnp.stack([leading, t * jnp.ones_like(leading)], 1)
            ).lower()
            for t in (1, -1)
        ]
        return _hinge(jnp.minimum(*lower), g, margin)

    return penalty


def _border(ranked: Array, k: int, num_border: int) -> tuple[Array, Array]:
    """The features beside the border, from above, and the signs of those inside."""
    ranked = jax.lax.stop_gradient(ranked)
    places = ranking.ranks(jnp.abs(ranked))
    index = jnp.arange(ranked.size, dtype=places.dtype)
    order = jnp.zeros_like(places).at[places]
    order = order.set(index, unique_indices=True, mode="promise_in_bounds")
    border = order[max(k - num_border, 0) : k + num_border]
    inside = border[: min(num_border, k)]
    return border, jnp.sign(ranked.at[inside].get(mode="promise_in_bounds"))


def _ramped(epsilon: float, progress: Array, x: Array) -> Array:
    return epsilon * jnp.minimum(2 * jnp.asarray(progress).astype(x.dtype), 1)


def _hinge(gaps: Array, g: Array, margin: float) -> Array:
    """mean relu(m − gap/mean|g|); a gap of −∞ is one without a slope."""
    scale = jnp.mean(magnitude(g))
    known = jnp.isfinite(gaps)
    relative = jnp.where(known, gaps, 0) / jnp.where(scale > 0, scale, 1)
    relative = jnp.where(scale > 0, relative, 0)
    relative = jnp.where(known | (scale <= 0), relative, _UNKNOWN)
    return jnp.mean(jax.nn.relu(margin - relative))
