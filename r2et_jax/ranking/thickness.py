"""Thickness: how much of the way to other inputs the top-k set keeps its lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_k, check_ndim
from r2et_jax.ranking.topk import descending_order
from r2et_jax.types import Array, SaliencyFn

# Values inside up to which comparing all pairs costs less on CPU than sorting.
_FEW_INSIDE = 128


class Thickness(NamedTuple):
    """An estimate of the top-k thickness.

    Attributes:
      mean: Θ_k in [0, 1].
      stderr: its standard error over the draws; NaN for a single one.
    """

    mean: Array
    stderr: Array


def ordered_share(inside: Array, outside: Array) -> Array:
    """Share of the pairs in which the value inside is at least the one outside.

    (1/kl) Σ_ij 1[a_i ≥ b_j], the Mann–Whitney statistic with ties as 1: by comparison
    of all pairs if few are inside, else by one sort, O((k + l) log l). A pair with NaN
    is not ordered.

    Args:
      inside: a [k].
      outside: b [l].

    Returns:
      Scalar in [0, 1], no derivative.

    Example:
      >>> print(ordered_share(jnp.array([3.0, 1.0]), jnp.array([2.0, 1.0])))
      0.75
    """
    check_ndim("inside", inside, 1)
    check_ndim("outside", outside, 1)
    inside, outside = jax.lax.stop_gradient((inside, outside))
    if inside.size <= _FEW_INSIDE:
        return jnp.mean(inside[:, None] >= outside, dtype=inside.dtype)
    # NaN is sorted behind all numbers, where nothing is above it.
    below = jnp.searchsorted(jnp.sort(outside), inside, side="right")
    below = jnp.where(jnp.isnan(inside), 0, below)
    return jnp.mean(below.astype(inside.dtype)) / outside.size


def mean_thickness(
    saliency: SaliencyFn, *, k: int, num_points: int = 20
) -> Callable[..., Thickness]:
    """Top-k thickness, the mean of Θ_ij over T × Tᶜ.

        Θ_ij(x) = E_{x_s ~ D} ∫₀¹ 1[h_ij((1 − t)x + t x_s) ≥ 0] dt

    T is the top-k set at x. The integral is a midpoint sum; D is given by draws from
    it, such as Gaussian or uniform noise around x, or inputs that an attack found.

    Args:
      saliency: the explanation; see `r2et_jax.saliency`.
      k: size of the top set.
      num_points: points on each segment.

    Returns:
      `fn(params, x [n], target, draws [D, n], /) -> Thickness`.

    Raises:
      ValueError: for num_points < 1; when traced, for k out of range or draws of
        another shape.

    Example:
      >>> from r2et_jax import saliency
      >>> explain = saliency.gradient(lambda params, x, target: jnp.sum(x**2))
      >>> thickness = mean_thickness(explain, k=1)
      >>> draws = jnp.array([[2.0, 1.0], [-2.0, 1.0]])
      >>> print(thickness(None, jnp.array([2.0, 1.0]), 0, draws).mean)
      0.75

    Source: R2ET (arXiv 2212.14106), definition of top-k thickness.
    """
    along = _along(saliency, k, num_points)

    def thickness(params, x, target, draws, /):
        def of_draw(values):
            return jnp.mean(jax.vmap(lambda v: ordered_share(v[:k], v[k:]))(values))

        shares = along(params, x, target, draws, of_draw)
        spread = jnp.std(shares, ddof=1) if shares.size > 1 else jnp.nan
        return Thickness(jnp.mean(shares), spread / jnp.sqrt(shares.size))

    return thickness


def pair_thickness(
    saliency: SaliencyFn, *, k: int, num_points: int = 20
) -> Callable[..., Array]:
    """Θ_ij of every pair, for their least value; see `mean_thickness`.

    Args:
      saliency, k, num_points: as in `mean_thickness`.

    Returns:
      `fn(params, x [n], target, draws [D, n], /) -> Θ [k, n − k]`: rows are the top-k
      set, columns the rest, each in descending order of the saliency at x.

    Example:
      >>> from r2et_jax import saliency
      >>> explain = saliency.gradient(lambda params, x, target: jnp.sum(x**2))
      >>> pairs = pair_thickness(explain, k=1)
      >>> draws = jnp.array([[2.0, 1.0], [-2.0, 1.0]])
      >>> pairs(None, jnp.array([2.0, 1.0]), 0, draws).shape
      (1, 1)
    """
    along = _along(saliency, k, num_points)

    def thickness(params, x, target, draws, /):
        def of_draw(values):
            above = values[:, :k, None] >= values[:, None, k:]
            return jnp.mean(above, axis=0, dtype=values.dtype)

        return jnp.mean(along(params, x, target, draws, of_draw), axis=0)

    return thickness


def _along(saliency, k, num_points):
    """`run(params, x, target, draws, of_draw)`: of_draw of the maps on each segment.

    The maps [num_points, n] have the features in descending order of the one at x.
    """
    check_count("num_points", num_points)

    def run(params, x, target, draws, of_draw):
        clean = saliency(params, x, target)
        check_k(k, clean.size)
        if draws.shape[1:] != x.shape:
            raise ValueError(
                f"draws must have the shape [D, {x.size}], got {draws.shape}"
            )
        order = descending_order(clean)
        times = (jnp.arange(num_points, dtype=x.dtype) + 0.5) / num_points

        def of_segment(draw):
            points = x + times[:, None] * (draw - x)
            maps = jax.vmap(lambda point: saliency(params, point, target))(points)
            return of_draw(maps[:, order])

        return jax.lax.map(of_segment, draws)

    return run
