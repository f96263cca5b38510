"""Penalties of one example that make its explanation's ranking hard to change.

Every factory returns `penalty(params, x, target, /, *, reference=None) -> scalar`, to
be minimised. `reference` are the parameters of the model whose ranking and signs are
kept: the model being trained itself where it is None. Ranks and signs are constants
for differentiation. Some draw at random, and take a keyword `key` besides; some change
in the course of training, and take a keyword `progress`. Those that rank take
`channels`, see `ranked_maps`: k then counts pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax import ranking, score
from r2et_jax.context import InContext
from r2et_jax.curvature.products import directional_norm
from r2et_jax.numerics import magnitude, over_channels, unit_sum
from r2et_jax.ranking.gaps import (
    anchored_weights,
    mean_exponential_gap,
    mean_exponential_smallest,
    mean_gap_weights,
    smallest_pair_weights,
    weighted_sum,
)
from r2et_jax.types import ApplyFn, Array

Penalty = Callable[..., Array]


def ranked_maps(
    apply: ApplyFn, *, channels: int = 1
) -> Callable[..., tuple[Array, Array]]:
    """The normalised map of a model, and the map of the reference that ranks it.

    Args:
      apply: the model.
      channels: neighbouring values of x that make one feature of the map: they are
        summed after |·|, as of an image's pixel.

    Returns:
      `maps(params, x, target, /, *, reference=None) -> (values [m], ranked [m])`,
      m = n/channels: values is differentiable and has the reference's signs; ranked is
      a constant.

    Raises:
      ValueError: when traced, if channels < 1 or does not divide n.
    """
    # The log-odds' normalised map equals the probability's and does not saturate.
    input_gradient = jax.grad(score.log_odds(apply), argnums=1)

    def maps(params, x, target, /, *, reference=None):
        g = input_gradient(params, x, target)
        if reference is None:
            values = unit_sum(over_channels(magnitude(g), channels))
            return values, jax.lax.stop_gradient(values)
        ranked = jax.lax.stop_gradient(input_gradient(reference, x, target))
        total = jnp.sum(magnitude(g))
        values = over_channels(jnp.sign(ranked) * g, channels)
        values = values / jnp.where(total > 0, total, 1)
        return values, unit_sum(over_channels(jnp.abs(ranked), channels))

    return maps


def mean_gap(apply: ApplyFn, *, k: int, channels: int = 1) -> Penalty:
    """−mean h over all pairs of the top-k set, on the map of unit sum.

    Source: R2ET (arXiv 2212.14106), the ranking term.
    """
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None):
        values, ranked = maps(params, x, target, reference=reference)
        mask = ranking.top_k_mask(ranked, k=k)
        return -weighted_sum(values, mean_gap_weights(mask, k=k))

    return penalty


def exponential_gap(
    apply: ApplyFn, *, k: int, theta: float = 0.05, channels: int = 1
) -> Penalty:
    """mean exp(−h/θ) over all pairs of the top-k set, on the map of unit sum.

    Args:
      apply: the model.
      k: size of the top set.
      theta: temperature θ > 0; far above the mean gap (about 1/n) the form is linear.
      channels: as in `ranked_maps`.
    """
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None):
        values, ranked = maps(params, x, target, reference=reference)
        mask = ranking.top_k_mask(ranked, k=k)
        return mean_exponential_gap(values, mask, theta=theta)

    return penalty


def smallest_pairs(
    apply: ApplyFn, *, k: int, k_prime: int | None = None, channels: int = 1
) -> Penalty:
    """−mean h over the k′ pairs with the smallest gaps: R2ET-mm.

    Args:
      apply: the model.
      k: size of the top set.
      k_prime: number of pairs; by default k, as published, or the n − k features
        outside where these are fewer.
      channels: as in `ranked_maps`.
    """
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None):
        values, ranked = maps(params, x, target, reference=reference)
        pairs = min(k, ranked.size - k) if k_prime is None else k_prime
        weights = smallest_pair_weights(ranked, k=k, k_prime=pairs)
        return -weighted_sum(values, weights)

    return penalty


def exponential_smallest(
    apply: ApplyFn, *, k: int, k_prime: int, theta: float = 0.05, channels: int = 1
) -> Penalty:
    """mean exp(−h/θ) over the k′ pairs with the smallest gaps: R2ET-mm, exponential.

    Arguments as in `exponential_gap` and `smallest_pairs`.
    """
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None):
        values, ranked = maps(params, x, target, reference=reference)
        return mean_exponential_smallest(
            values, ranked, k=k, k_prime=k_prime, theta=theta
        )

    return penalty


def anchored_pairs(
    apply: ApplyFn, *, k: int, k_prime: int, channels: int = 1
) -> Penalty:
    """−mean h over the pairs anchored at the last feature of the top-k set.

    See `ranking.gaps.anchored_weights`; k′ lies in 1…min(k, n−k).
    """
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None):
        values, ranked = maps(params, x, target, reference=reference)
        weights = anchored_weights(ranked, k=k, k_prime=k_prime)
        return -weighted_sum(values, weights)

    return penalty


def directional_curvature(apply: ApplyFn) -> Penalty:
    """‖Hv‖₂ of the probability along the sign of its gradient: Est-H, exact product."""
    norm = directional_norm(score.probability(apply))

    def penalty(params, x, target, /, *, reference=None):
        del reference
        return norm(params, x, target)

    return penalty


def directional_difference(apply: ApplyFn) -> Penalty:
    """‖g(x + τv) − g(x)‖₂/τ of the probability: Est-H by the published difference.

    Args:
      apply: the model.

    Returns:
      `penalty(params, x, target, /, *, reference=None, tau)` with a step τ > 0,
      published between 1e-6 and 1e-1. A tiny one misses the kinks of a piecewise-linear
      network, and in float32 below 1e-4 most digits; a large one sees past the
      curvature at x.
    """
    explained = score.probability(apply)

    def penalty(params, x, target, /, *, reference=None, tau):
        del reference
        return directional_norm(explained, tau=tau)(params, x, target)

    return penalty


def squared_weights(params) -> Array:
    """½‖W‖² over all weight matrices, without the biases: coupled L2.

    Of parameters in a context (`InContext`), those of the network alone.
    """
    params = params.params if isinstance(params, InContext) else params
    leaves = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in leaves)
