"""Bounds on the thickness of pairs by the curvature of the score.

g = ∇s, H = ∇²s, I = |g|, h_ij = I_i − I_j for i of the top-k set at x and j outside,
D inside the l2 ball B(x, ε), x_t = (1 − t)x + t x_s with x_s ~ D. The bounds hold for
scores with a continuous gradient; a kinked network, or Gaussian noise, which no ball
holds, voids them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from r2et_jax.checks import check_k, check_ndim, check_same_shape
from r2et_jax.ranking.topk import descending_order
from r2et_jax.types import Array


class RowNorms(NamedTuple):
    """l2 norms of rows of the Hessian, at a point or as bounds over a ball.

    Attributes:
      rows: ‖H_i‖ [n], in descending order of |g| as all of these.
      differences: ‖H_i − H_j‖ [k, n−k] of top feature i and other feature j.
      sums: ‖H_i + H_j‖ [k, n−k].
    """

    rows: Array
    differences: Array
    sums: Array


class GapBounds(NamedTuple):
    """Bounds on E ∫₀¹ h_ij(x_t) dt.

    Attributes:
      lower: [k, n−k], top features along the rows, each axis in descending order.
      upper: the same shape.
    """

    lower: Array
    upper: Array


def row_norms(hessian: Array, gradient: Array, *, k: int) -> RowNorms:
    """The norms at one point, from a dense Hessian.

    Args:
      hessian: H [n, n].
      gradient: g [n], which ranks the features by |g|.
      k: size of the top set, in 1…n−1.

    Example:
      >>> norms = row_norms(jnp.eye(2), jnp.array([1.0, -2.0]), k=1)
      >>> print(norms.rows, norms.differences)
      [1. 1.] [[1.4142135]]
    """
    check_ndim("hessian", hessian, 2)
    check_k(k, gradient.size)
    rows = hessian[descending_order(jnp.abs(gradient))]
    top, rest = rows[:k, None], rows[None, k:]
    return RowNorms(
        *(jnp.linalg.norm(v, axis=-1) for v in (rows, top - rest, top + rest))
    )


def gap_bounds(
    gradient: Array, norms: RowNorms, *, k: int, epsilon: Array | float
) -> GapBounds:
    """Bounds on the mean gap of each pair along the segments.

        h_ij(x) − (ε/2) max(L⁻, L⁺) ≤ E ∫ h_ij(x_t) dt ≤ h_ij(x) + (ε/2)(L_i + L_j),
        L^∓ = sup_B ‖H_i ∓ s_i s_j H_j‖₂,  L_i = sup_B ‖H_i‖₂,  s = sign g.

    |g_i(x_t)| ≥ s_i g_i(x_t) and |g_j(x_t)| is ± g_j(x_t): both signs count, since g_j
    may change its own on the way.

    Args:
      gradient: g at x [n].
      norms: bounds over the ball, as of `certificates.row_curvature.row_curvature`.
      k: size of the top set, in 1…n−1.
      epsilon: radius ε ≥ 0 of the ball.

    Returns:
      `GapBounds`.

    Raises:
      ValueError: for k out of range or norms of other shapes.

    Example:
      >>> from r2et_jax.ranking.thickness_bounds import row_norms
      >>> g, hessian = jnp.array([2.0, -1.0]), jnp.ones((2, 2))
      >>> bounds = gap_bounds(g, row_norms(hessian, g, k=1), k=1, epsilon=0.5)
      >>> print(bounds.lower, bounds.upper)
      [[0.29289323]] [[1.7071068]]

    Source: R2ET (arXiv 2212.14106), proposition 1, with the curvature over the whole
    ball and both signs, and an upper bound of half the published slack.
    """
    gaps = _gaps(gradient, norms, k)
    slope = jnp.maximum(norms.differences, norms.sums)
    rise = norms.rows[:k, None] + norms.rows[None, k:]
    return GapBounds(gaps - epsilon / 2 * slope, gaps + epsilon / 2 * rise)


def published_gap_bounds(
    gradient: Array,
    norms: RowNorms,
    at_input: RowNorms,
    *,
    k: int,
    epsilon: Array | float,
) -> GapBounds:
    """The published form: the slope of h_ij at x below, and ε(L_i + L_j) above.

        h_ij − (ε/2)‖s_i H_i(x) − s_j H_j(x)‖₂,  h_ij + ε(L_i + L_j),  s = sign g.

    The published H_i is the derivative of the saliency |g_i|, s_i times the row of the
    Hessian of the score. The lower form is of first order and no bound: curvature and
    the sign of g_j may change away from x. The upper one holds, twice as far away as
    `gap_bounds`.

    Args:
      gradient, norms, k, epsilon: as in `gap_bounds`.
      at_input: the norms at x itself.

    Returns:
      `GapBounds`.

    Raises:
      ValueError: for k out of range or norms of other shapes.

    Example:
      >>> from r2et_jax.ranking.thickness_bounds import row_norms
      >>> g, hessian = jnp.array([2.0, -1.0]), jnp.ones((2, 2))
      >>> norms = row_norms(hessian, g, k=1)
      >>> print(published_gap_bounds(g, norms, norms, k=1, epsilon=0.5).lower)
      [[0.29289323]]

    Source: R2ET (arXiv 2212.14106), proposition 1.
    """
    gaps = _gaps(gradient, norms, k)
    check_same_shape("at_input", at_input.differences, "norms", norms.differences)
    signs = jnp.sign(gradient[descending_order(jnp.abs(gradient))])
    product = signs[:k, None] * signs[None, k:]
    # A feature without a gradient has a saliency without a slope.
    alone = jnp.abs(signs[:k, None]) * at_input.rows[:k, None]
    slope = jnp.where(product > 0, at_input.differences, at_input.sums)
    slope = jnp.where(product == 0, alone, slope)
    rise = norms.rows[:k, None] + norms.rows[None, k:]
    return GapBounds(gaps - epsilon / 2 * slope, gaps + epsilon * rise)


def thickness_bound(
    gradient: Array, norms: RowNorms, *, k: int, epsilon: Array | float
) -> Array:
    """A lower bound on the thickness Θ_ij = E ∫ 1[h_ij(x_t) ≥ 0] dt of each pair.

        Θ_ij ≥ min(1, (|g_i| − |g_j|)/(εL⁻), (|g_i| + |g_j|)/(εL⁺))

    for every D inside the ball, since on every segment the pair keeps its order up to
    that share of the way. Its mean over the pairs bounds the top-k thickness, and its
    least entry the least Θ_ij.

    Args:
      gradient, norms, k, epsilon: as in `gap_bounds`.

    Returns:
      Bounds [k, n−k] in [0, 1].

    Example:
      >>> from r2et_jax.ranking.thickness_bounds import row_norms
      >>> g, hessian = jnp.array([2.0, -1.0]), jnp.ones((2, 2))
      >>> print(thickness_bound(g, row_norms(hessian, g, k=1), k=1, epsilon=1.0))
      [[0.35355338]]

    Source: ours, from the proof of `gap_bounds`.
    """
    gaps = _gaps(gradient, norms, k)
    values = gradient[descending_order(jnp.abs(gradient))]
    top, rest = values[:k, None], values[None, k:]
    same = top * rest >= 0
    minus = jnp.where(same, norms.differences, norms.sums)
    plus = jnp.where(same, norms.sums, norms.differences)
    shares = (
        _share(gaps, epsilon * minus),
        _share(jnp.abs(top) + jnp.abs(rest), epsilon * plus),
    )
    return jnp.clip(jnp.minimum(*shares), 0, 1)


def _share(distance, speed):
    """How far a distance lasts at a speed, at most 1."""
    inside = distance < speed
    return jnp.where(inside, distance / jnp.where(inside, speed, 1), 1)


def _gaps(gradient, norms, k):
    check_ndim("gradient", gradient, 1)
    check_k(k, gradient.size)
    n = gradient.size
    shapes = (n,), (k, n - k), (k, n - k)
    for name, leaf, shape in zip(norms._fields, norms, shapes, strict=True):
        if leaf.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {leaf.shape}")
    values = jnp.abs(gradient)[descending_order(jnp.abs(gradient))]
    return values[:k, None] - values[None, k:]
