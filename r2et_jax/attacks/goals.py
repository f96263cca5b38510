"""What an attack on a ranking tries to make small, apart from how it goes about it.

A goal is a pair of pure functions: `prepare` looks at the clean explanation once,
`value` scores the explanation of a perturbed input; attacks minimise it. Goals work
with every differentiable explanation. Which features are on top is read from the model
under attack alone: a stand-in lends its gradient, never its ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import (
    check_count,
    check_nonnegative,
    check_positive,
)
from r2et_jax.numerics import unit_sum
from r2et_jax.ranking import top_k_indices, top_k_mask
from r2et_jax.ranking.gaps import (
    mean_exponential_gap,
    mean_gap_scale,
    mean_gap_weights,
    smallest_pair_weights,
    weighted_sum,
)
from r2et_jax.ranking.topk import border
from r2et_jax.types import Array


class Goal(NamedTuple):
    """A goal of an attack, minimised.

    Attributes:
      prepare: `prepare(clean_map [n], seen_map [n], *, k, key) -> reference`, a pytree.
        The first is the clean explanation of the model under attack, whose ranking is
        attacked; the second the clean explanation that `value` will see, which may be
        that of a smooth stand-in or have other units.
      value: `value(map [n], reference) -> scalar`.
      starts_flat: whether the gradient is zero at the clean input, so that the
        attack must start elsewhere.
    """

    prepare: Callable[..., Any]
    value: Callable[[Array, Any], Array]
    starts_flat: bool = False


def mean_gap() -> Goal:
    """The mean gap over all pairs of the clean top-k set: the published objective.

    Source: R2ET (arXiv 2212.14106), ERAttack.
    """

    def prepare(clean_map, seen_map, *, k, key):
        del seen_map, key
        return mean_gap_weights(top_k_mask(clean_map, k=k), k=k)

    return Goal(prepare, weighted_sum)


def exponential_gap(*, scale: float = 1.0) -> Goal:
    """−mean exp(−h/θ), which stresses the pairs that are nearly reordered.

    Minimising minus the exponential form raises it, so that gaps close. The
    temperature θ is `scale` times the clean mean gap of the map that is seen.
    """
    check_positive("scale", scale)

    def prepare(clean_map, seen_map, *, k, key):
        del key
        theta = scale * mean_gap_scale(seen_map, k=k)
        return top_k_mask(clean_map, k=k), theta

    def value(values, reference):
        mask, theta = reference
        return -mean_exponential_gap(values, mask, theta=theta)

    return Goal(prepare, value)


def smallest_pairs(*, k_prime: int) -> Goal:
    """The mean gap over the k′ pairs that R2ET-mm protects."""
    check_count("k_prime", k_prime)

    def prepare(clean_map, seen_map, *, k, key):
        del seen_map, key
        return smallest_pair_weights(clean_map, k=k, k_prime=k_prime)

    return Goal(prepare, weighted_sum)


def mse() -> Goal:
    """−‖I(x′) − I(x)‖²/n on the map that is seen; flat at the clean input."""

    def prepare(clean_map, seen_map, *, k, key):
        del clean_map, k, key
        return seen_map

    def value(values, seen_map):
        return -jnp.mean((values - seen_map) ** 2)

    return Goal(prepare, value, starts_flat=True)


def smooth_precision(*, temperature: Array | float = 0.3) -> Goal:
    """A smooth stand-in for P@k around the border between ranks k and k+1.

    With b the midpoint of the k-th and (k+1)-th largest saliencies of the perturbed
    input and θ = temperature/n on maps of unit sum:
    (1/2k)[Σ_{i∈T} σ((I_i − b)/θ) + k − Σ_{j∉T} σ((I_j − b)/θ)].
    Features far from the border have no weight. The border is a constant in the
    derivative.

    Args:
      temperature: width of the border in units of the mean saliency, above zero; may
        be traced.
    """
    if not isinstance(temperature, jax.Array):
        check_positive("temperature", temperature)

    def prepare(clean_map, seen_map, *, k, key):
        del seen_map, key
        # The indices carry k, which is static, in their shape.
        return top_k_mask(clean_map, k=k), top_k_indices(clean_map, k=k)

    def value(values, reference):
        mask, top = reference
        n, k = values.shape[0], top.shape[0]
        values = unit_sum(values)
        middle = 0.5 * sum(border(values, k=k))
        soft = jax.nn.sigmoid((values - middle) * (n / temperature))
        return 0.5 * (1 + jnp.sum(jnp.where(mask, soft, -soft)) / k)

    return Goal(prepare, value)


def log_precision(
    *, temperature: Array | float = 0.1, spread: Array | float = 0.0
) -> Goal:
    """P@k around the border on a logarithmic scale, blind to a factor of the map.

    Σ_i w_i·(1[i ∈ T] − r)·σ(u_i), u_i = log(I_i/b)/temperature, with b the geometric
    mean of the k-th and (k+1)-th largest saliencies of the perturbed input, w_i =
    e^{spread·z_i}, z ~ N(0, 1) drawn once, and r the share of T in Σ w_i·σ′(u_i). b and
    r are constants in the derivative, whose sum over Δlog I_i then is zero: what counts
    is how the features at the border move against each other.

    Args:
      temperature: width of the border, as a difference of log I, above zero; may be
        traced.
      spread: standard deviation of the logarithms of the weights, at least 0, where all
        are 1; may be traced.
    """
    if not isinstance(temperature, jax.Array):
        check_positive("temperature", temperature)
    if not isinstance(spread, jax.Array):
        check_nonnegative("spread", spread)

    def prepare(clean_map, seen_map, *, k, key):
        del seen_map
        drawn = jax.random.normal(key, clean_map.shape, clean_map.dtype)
        weights = jnp.exp(spread * drawn)
        return weights, top_k_mask(clean_map, k=k), top_k_indices(clean_map, k=k)

    def value(values, reference):
        weights, mask, top = reference
        last, first = (
            jnp.log(jnp.where(rank > 0, rank, 1)) for rank in border(values, k=len(top))
        )
        live = values > 0
        above = jnp.log(jnp.where(live, values, 1)) - 0.5 * (last + first)
        soft = jnp.where(live, jax.nn.sigmoid(above / temperature), 0)
        pull = jax.lax.stop_gradient(weights * soft * (1 - soft))
        whole = jnp.sum(pull)
        share = jnp.sum(jnp.where(mask, pull, 0)) / jnp.where(whole > 0, whole, 1)
        return jnp.sum(weights * (jnp.where(mask, 1, 0) - share) * soft)

    return Goal(prepare, value)


def random_target() -> Goal:
    """−Σ over a random set of min(k, n−k) features outside the clean top-k set.

    Source: the targeted attack of Ghorbani et al. 2019 with a random target.
    """

    def prepare(clean_map, seen_map, *, k, key):
        del seen_map
        n = clean_map.shape[0]
        outside = ~top_k_mask(clean_map, k=k)
        draw = jnp.where(outside, jax.random.uniform(key, (n,), clean_map.dtype), -1.0)
        chosen = top_k_mask(draw, k=min(k, n - k))
        return -chosen.astype(clean_map.dtype)

    return Goal(prepare, weighted_sum)
