"""Explanations that are means over points: around an input, or on the way to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from r2et_jax.checks import check_count, check_positive
from r2et_jax.numerics import magnitude
from r2et_jax.saliency._parts import check_chunk_size, finish, mean_over
from r2et_jax.saliency.gradients import gradient
from r2et_jax.types import Array, SaliencyFn, ScoreFn


def smooth_grad(
    score: ScoreFn,
    *,
    num_samples: int = 50,
    sigma: float = math.sqrt(0.5),
    base: Callable[..., SaliencyFn] = gradient,
    normalize: bool = True,
    channel_axis: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Array]:
    """SmoothGrad: the mean of a base explanation over x + δ, δ ~ N(0, σ²I).

    The mean is taken before the map is divided by its sum.

    Args:
      score: scalar to explain.
      num_samples: number of draws M ≥ 1.
      sigma: standard deviation of the noise, in units of x. The published variances
        are σ² = 0.5 for standardised columns (the default), (25.5/255)² for images in
        [0, 1] and 0.01 for graphs.
      base: factory of the explanation that is averaged.
      normalize, channel_axis: as in `gradient`.
      chunk_size: draws at a time, at least 1; by default all of them for small inputs
        and a few for large ones. It changes nothing but memory and rounding.

    Returns:
      `saliency(params, x, target, *, key) -> [n]`. Bind the key for a fixed
      explanation: `functools.partial(saliency, key=key)` is a `SaliencyFn`.

    Raises:
      ValueError: if num_samples < 1, sigma ≤ 0 or chunk_size < 1.

    Example:
      >>> explain = smooth_grad(lambda params, x, target: jnp.sum(params * x))
      >>> print(explain(jnp.array([1.0, -3.0]), jnp.ones(2), 0, key=jax.random.key(0)))
      [0.25 0.75]

    Source: Smilkov et al. 2017, with |·| inside the mean.
    """
    check_count("num_samples", num_samples)
    check_positive("sigma", sigma)
    check_chunk_size(chunk_size)
    explain = base(score, normalize=False, channel_axis=channel_axis)

    def saliency(params, x, target, /, *, key):
        noise = sigma * jax.random.normal(key, (num_samples, *x.shape), x.dtype)
        mean = mean_over(
            lambda d: explain(params, x + d, target), (noise,), x.size, chunk_size
        )
        return finish(mean, normalize, None)

    return saliency


def integrated_gradients(
    score: ScoreFn,
    *,
    num_points: int = 100,
    baseline: Array | float = 0.0,
    signed: bool = False,
    normalize: bool = True,
    channel_axis: int | None = None,
    chunk_size: int | None = None,
) -> SaliencyFn:
    """Integrated Gradients: (x − x⁰) ⊙ ∫₀¹ ∇s(x⁰ + t(x − x⁰)) dt, ranked by |·|.

    The integral is the midpoint rule on `num_points` points, so that
    Σᵢ IGᵢ = s(x) − s(x⁰) up to O(num_points⁻²) for smooth scores.

    Args:
      score: scalar to explain.
      num_points: points of the rule, at least 1.
      baseline: x⁰, an array of the shape of x, or a number for all of its features.
      signed: return the signed attributions (which sum to the difference of scores)
        instead of their absolute values; they are never divided by their sum.
      normalize, channel_axis: as in `gradient`.
      chunk_size: points at a time, as the draws in `smooth_grad`; Captum's
        `internal_batch_size`.

    Returns:
      `saliency(params, x, target) -> [n]`. Captum's `IntegratedGradients` has the same
      signed value under `method="riemann_middle"`; its default is another rule.

    Raises:
      ValueError: if num_points < 1 or chunk_size < 1; when traced, for a baseline of
        another shape than x.

    Example:
      >>> explain = integrated_gradients(lambda params, x, target: jnp.sum(x**2))
      >>> print(explain(None, jnp.array([1.0, 3.0]), 0))
      [0.1 0.9]

    Source: Sundararajan et al. 2017, equation 3.
    """
    check_count("num_points", num_points)
    check_chunk_size(chunk_size)
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        times = (jnp.arange(num_points, dtype=x.dtype) + 0.5) / num_points
        start = _as_baseline(baseline, x)
        step = x - start
        mean = mean_over(
            lambda t: input_gradient(params, start + t * step, target),
            (times,),
            x.size,
            chunk_size,
        )
        attributions = step * mean
        if signed:
            return finish(attributions, False, channel_axis)
        return finish(magnitude(attributions), normalize, channel_axis)

    return saliency


def expected_gradients(
    score: ScoreFn,
    *,
    baselines: ArrayLike,
    num_samples: int = 50,
    signed: bool = False,
    normalize: bool = True,
    channel_axis: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Array]:
    """Expected gradients: Integrated Gradients, the mean over a set of baselines.

        EG = E_{x⁰ ~ baselines, t ~ U(0, 1)} (x − x⁰) ⊙ ∇s(x⁰ + t(x − x⁰))

    One draw of x⁰ and t for each gradient. Both are stratified: every baseline is taken
    equally often, but for a last round that is not full, and one t lies in each of
    num_samples parts.
    Σᵢ EGᵢ = s(x) − mean s(x⁰) in expectation. No single x⁰ stands for "nothing": it is
    that of a random input, such as one of the training set.

    Args:
      score: scalar to explain.
      baselines: x⁰, an array [b, ...] of inputs.
      num_samples: draws, at least 1.
      signed, normalize, channel_axis: as in `integrated_gradients`.
      chunk_size: draws at a time, as in `smooth_grad`.

    Returns:
      `saliency(params, x, target, *, key) -> [n]`; bind the key as in `smooth_grad`.
      Captum's `GradientShap` with `stdevs=0` has the same expectation, by independent
      draws.

    Raises:
      ValueError: if num_samples < 1 or chunk_size < 1; when traced, for baselines that
        are no inputs [b, ...] of the shape of x.

    Example:
      >>> baselines = jnp.array([[0.0, 0.0], [2.0, 0.0]])
      >>> score = lambda params, x, target: jnp.sum(params * x)
      >>> explain = expected_gradients(score, baselines=baselines, signed=True)
      >>> print(explain(jnp.array([1.0, -3.0]), jnp.ones(2), 0, key=jax.random.key(0)))
      [ 0. -3.]

    Source: Erion et al. 2021, "Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients", equation 2.
    """
    check_count("num_samples", num_samples)
    check_chunk_size(chunk_size)
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /, *, key):
        starts = jnp.asarray(baselines, x.dtype)
        if starts.ndim != x.ndim + 1 or starts.shape[1:] != x.shape or not len(starts):
            raise ValueError(
                f"baselines must be inputs of the shape [b, *{x.shape}], got shape "
                f"{starts.shape}"
            )
        rounds = -(-num_samples // len(starts))
        times_key, rows_key = jax.random.split(key)
        within = jax.random.uniform(times_key, (num_samples,), x.dtype)
        times = (jnp.arange(num_samples, dtype=x.dtype) + within) / num_samples
        # Round by round in an order of its own: each baseline once on each part of the
        # way.
        lots = jax.random.uniform(rows_key, (rounds, len(starts)), x.dtype)
        rows = jnp.argsort(lots, axis=1).ravel()[:num_samples]

        def along(t, row):
            step = x - starts[row]
            return step * input_gradient(params, starts[row] + t * step, target)

        attributions = mean_over(along, (times, rows), x.size, chunk_size)
        if signed:
            return finish(attributions, False, channel_axis)
        return finish(magnitude(attributions), normalize, channel_axis)

    return saliency


def convergence_delta(
    score: ScoreFn, *, baseline: ArrayLike = 0.0
) -> Callable[..., Array]:
    """How far attributions are from completeness.

        δ = Σᵢ Iᵢ − (s(x) − s(x⁰))

    Zero for Integrated Gradients but for the error of the rule: more points make it
    small. That of the absolute values has no meaning.

    Args:
      score: scalar that is explained.
      baseline: x⁰ as in `integrated_gradients`; of several, [b, ...] as in
        `expected_gradients`, the mean of their scores counts.

    Returns:
      `delta(params, x, target, attributions) -> scalar`, of signed attributions with
      any shape; Captum's `compute_convergence_delta`.

    Raises:
      ValueError: when traced, for a baseline that has neither shape.

    Example:
      >>> score = lambda params, x, target: jnp.sum(x**2)
      >>> x = jnp.array([1.0, 3.0])
      >>> explain = integrated_gradients(score, signed=True)
      >>> delta = convergence_delta(score)(None, x, 0, explain(None, x, 0))
      >>> print(f"{abs(delta):.3f}")
      0.000

    Source: Sundararajan et al. 2017, proposition 1 (completeness).
    """

    def delta(params, x, target, attributions, /):
        if jnp.ndim(baseline) == x.ndim + 1:
            starts = jnp.asarray(baseline, x.dtype)
        else:
            starts = jnp.broadcast_to(_as_baseline(baseline, x), x.shape)[None]
        if starts.shape[1:] != x.shape:
            raise ValueError(
                f"baseline must have the shape of x, {x.shape}, or one more axis, got "
                f"{starts.shape}"
            )
        before = jax.vmap(lambda start: score(params, start, target))(starts)
        return jnp.sum(attributions) - (score(params, x, target) - jnp.mean(before))

    return delta


def _as_baseline(baseline: ArrayLike, x: Array) -> ArrayLike:
    if jnp.ndim(baseline) == 0:
        return baseline
    if jnp.shape(baseline) != x.shape:
        raise ValueError(
            f"baseline must be a number or have the shape of x, {x.shape}, got shape "
            f"{jnp.shape(baseline)}"
        )
    return jnp.asarray(baseline, x.dtype)
