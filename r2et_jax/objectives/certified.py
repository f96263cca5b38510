"""Hinge on certified gaps: bounds that hold over a whole ball, trained directly."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax import certificates, ranking
from r2et_jax.checks import check_count, check_k, check_positive
from r2et_jax.numerics import magnitude
from r2et_jax.objectives.penalties import Penalty
from r2et_jax.types import Params

Layers = Callable[[Params], certificates.OneHiddenLayer]


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
    see `certificates.gap_bounds`. The radius is ramped linearly over the first half of
    training, r = ε·min(1, 2·progress): at full radius from the start no pair is
    certified and the bound only flattens the network. Smooth activations suit it
    best: at a kink the interval of φ′ opens at once.

    Args:
      layers: `layers(params)`, the weights of a network with one hidden layer and one
        logit, as `models.MLP.layers`.
      k: size of the top set.
      epsilon: radius ε > 0 of the l2 ball at the end, in units of x.
      margin: m > 0, in units of the mean |g|.
      num_border: features on each side of the border, at most those there are.

    Returns:
      `penalty(params, reference, x, target, /, *, progress)`, progress the share of
      training done in [0, 1]; x of one axis.

    Raises:
      ValueError: for an argument out of range; when traced, for k out of range or a
        network that `layers` refuses.

    Source: ours; interval bounds as in Gowal et al. 2018.
    """
    check_positive("epsilon", epsilon)
    check_positive("margin", margin)
    check_count("num_border", num_border)

    def gradient(params, x):
        network = layers(params)
        at_x = certificates.slope_bounds(network, x, jnp.zeros_like(network.bias))
        # Both bounds are the gradient, but for a pre-activation at a kink.
        return certificates.gradient_bounds(network, at_x)[0]

    def penalty(params, reference, x, target, /, *, progress):
        del target  # |∇u| of the two classes is the same
        check_k(k, x.size)
        g = gradient(params, x)
        ranked = g if reference is None else gradient(reference, x)
        ranked = jax.lax.stop_gradient(ranked)
        places = ranking.ranks(jnp.abs(ranked))

        def selection(first, count):
            wanted = jnp.arange(first, first + count, dtype=places.dtype)
            return (places[None, :] == wanted[:, None]).astype(x.dtype)

        weakest = min(num_border, k)
        inside = selection(k - weakest, weakest) * jnp.sign(ranked)
        outside = selection(k, min(num_border, x.size - k))
        network = layers(params)
        share = jnp.minimum(2 * jnp.asarray(progress).astype(x.dtype), 1)
        reach = epsilon * share * certificates.unit_reach(network)
        slopes = certificates.slope_bounds(network, x, reach)
        gaps = certificates.gap_bounds(network, slopes, inside, outside)
        scale = jnp.mean(magnitude(g))
        relative = jnp.where(scale > 0, gaps / jnp.where(scale > 0, scale, 1), 0)
        return jnp.mean(jax.nn.relu(margin - relative))

    return penalty
