"""Gaps relative to how fast they can close: the radius at which a pair swaps.

To first order the pair i, j keeps its order within the radius h_ij/‖∇ₓh_ij‖₂. For the
saliency |g| with signs s, h_ij = s_i g_i − s_j g_j and ∇ₓh_ij = H(s_i e_i − s_j e_j):
the published ‖H_i − H_j‖ with H_i the slope of the saliency of feature i.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax import score
from r2et_jax.checks import check_in, check_positive
from r2et_jax.numerics import magnitude, over_channels, safe_norm
from r2et_jax.objectives.curvature_penalties import require_smooth
from r2et_jax.objectives.linearity import is_piecewise_linear
from r2et_jax.objectives.penalties import Penalty
from r2et_jax.ranking.gaps import border_features
from r2et_jax.types import ApplyFn, Array

KINDS = ("probability", "log_odds")


def pair_radii(
    apply: ApplyFn,
    *,
    kind: str,
    k: int,
    k_prime: int,
    floor: float = 0.1,
    channels: int = 1,
) -> Callable[..., Array]:
    """h_ij/(‖∇ₓh_ij‖₂ + floor·m) over the k′ border pairs, m the mean saliency.

    The i-th weakest of the top-k set is paired with the i-th strongest outside. By the
    factor m the ratio is free of the score's scale. That of p = σ(u) comes from the
    log-odds u without p′ = σ(u)σ(−u), which cancels and would underflow:
    ∇²p = p′(∇²u − tanh(u/2) ∇u∇uᵀ). One Hessian-vector product a pair, none where u is
    piecewise linear.

    Args:
      apply: the model.
      kind: the score, one of `KINDS`.
      k: size of the top set.
      k_prime: number of pairs, in 1…min(k, n−k).
      floor: relative slope below which a slower gap earns nothing more, > 0 (ours).
      channels: as in `penalties.ranked_maps`; the saliency of a pixel is Σ|g| over its
        channels.

    Returns:
      `fn(params, x, target, /, *, reference=None) -> radii [k′]` in units of x; zeros
      where the gradient is zero. x of one axis.

    Raises:
      ValueError: for an unknown kind or floor ≤ 0; when traced, for k or k_prime out of
        range.

    Source: R2ET (arXiv 2212.14106), the optimal direction; the floor is ours.
    """
    check_in("kind", kind, KINDS)
    check_positive("floor", floor)
    log_odds = score.log_odds(apply)
    gradient = jax.grad(log_odds, argnums=1)

    def radii(params, x, target, /, *, reference=None):
        def explained(params, point):
            return log_odds(params, point, target)

        g, tangent = jax.linearize(lambda point: gradient(params, point, target), x)
        ranked = g if reference is None else gradient(reference, x, target)
        ranked = jax.lax.stop_gradient(ranked)
        sizes = over_channels(jnp.abs(ranked), channels)
        inner, outer = border_features(sizes, k=k, k_prime=k_prime)
        signs = jnp.sign(ranked)
        values = over_channels(signs * g, channels)
        gaps = jnp.sum(jnp.where(inner, values, jnp.where(outer, -values, 0)), axis=1)
        bend = 0.0
        if kind == "probability":
            bend = jnp.tanh(explained(params, x) / 2)
        if is_piecewise_linear(explained, params, x):
            slopes = magnitude(bend * gaps) * safe_norm(g)  # ∇²u = 0
        else:
            # ∂h/∂g of every pair: s_i at i and −s_j at j, in all channels.
            if channels > 1:
                inner = jnp.repeat(inner, channels, axis=1)
                outer = jnp.repeat(outer, channels, axis=1)
            pairs = jnp.where(inner, signs, jnp.where(outer, -signs, 0))
            slopes = jax.vmap(
                lambda pair, gap: safe_norm(tangent(pair) - bend * gap * g)
            )(pairs, gaps)
        mean = jnp.mean(over_channels(magnitude(g), channels))
        speed = slopes + floor * mean
        return jnp.where(speed > 0, gaps / jnp.where(speed > 0, speed, 1), 0)

    return radii


def mean_radius(
    apply: ApplyFn, *, k: int, k_prime: int, floor: float = 0.1, channels: int = 1
) -> Penalty:
    """−mean h_ij/(‖∇ₓh_ij‖ + floor·m) of the probability over border pairs.

    Arguments as in `pair_radii`. The papers found this form hard to train.

    Source: R2ET (arXiv 2212.14106), the optimal direction.
    """
    radii = pair_radii(
        apply,
        kind="probability",
        k=k,
        k_prime=k_prime,
        floor=floor,
        channels=channels,
    )

    def penalty(params, x, target, /, *, reference=None):
        return -jnp.mean(radii(params, x, target, reference=reference))

    return penalty


def radius_hinge(
    apply: ApplyFn,
    *,
    k: int,
    k_prime: int,
    margin: float = 1.0,
    floor: float = 0.1,
    channels: int = 1,
) -> Penalty:
    """mean relu(m − h_ij/(‖∇ₓh_ij‖ + floor)) of the log-odds over border pairs.

    It asks for a first-order radius of m for each of the pairs.

    Args:
      apply: a smooth model.
      k, k_prime, floor, channels: as in `pair_radii`.
      margin: m > 0, in units of x.

    Raises:
      ValueError: if margin ≤ 0; when traced, for a piecewise-linear model.

    Source: ours, after R2ET (arXiv 2212.14106).
    """
    check_positive("margin", margin)
    radii = pair_radii(
        apply, kind="log_odds", k=k, k_prime=k_prime, floor=floor, channels=channels
    )

    def penalty(params, x, target, /, *, reference=None):
        require_smooth("radius_hinge", apply, params, x)
        return jnp.mean(
            jax.nn.relu(margin - radii(params, x, target, reference=reference))
        )

    return penalty
