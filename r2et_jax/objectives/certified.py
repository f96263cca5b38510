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
        center = certificates.preactivations(network, x)
        ranked = g = gradient(network, center)
        if reference is not None:
            kept = layers(reference)
            ranked = gradient(kept, certificates.preactivations(kept, x))
        ranked = jax.lax.stop_gradient(ranked)
        places = ranking.ranks(jnp.abs(ranked))
        index = jnp.arange(x.size, dtype=places.dtype)
        order = jnp.zeros_like(places).at[places]
        order = order.set(index, unique_indices=True, mode="promise_in_bounds")
        border = order[max(k - num_border, 0) : k + num_border]
        inside = border[: min(num_border, k)]
        signs = jnp.sign(ranked.at[inside].get(mode="promise_in_bounds"))

        share = jnp.minimum(2 * jnp.asarray(progress).astype(x.dtype), 1)
        reach = epsilon * share * certificates.unit_reach(network)
        slopes = network.slopes(center - reach, center + reach)
        gaps = certificates.feature_gap_bounds(network, slopes, border, signs)
        scale = jnp.mean(magnitude(g))
        relative = jnp.where(scale > 0, gaps / jnp.where(scale > 0, scale, 1), 0)
        return jnp.mean(jax.nn.relu(margin - relative))

    return penalty
