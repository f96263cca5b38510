"""Explanations of a score: nonnegative importances of the features of one input.

Every factory returns `saliency(params, x, target) -> map`, differentiable in `params`
and in `x`, so that explanations serve inside losses and attacks. Maps are divided by
their sum by default; a map of zeros stays zero, in value and derivative. A gradient
with NaN or ∞ gives a map with NaN, never one of plausible numbers. `smooth_grad` draws
noise and takes a keyword `key` besides.

Explanations that are means over many points evaluate `chunk_size` of them at a time,
forward and backward, so that their memory is that of one chunk. A batch of inputs
multiplies it: bound that by `execution.map_batched`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count, check_positive
from r2et_jax.execution import map_batched
from r2et_jax.numerics import magnitude, unit_sum
from r2et_jax.types import Array, SaliencyFn, ScoreFn

__all__ = [
    "gradient",
    "gradient_times_input",
    "integrated_gradients",
    "occlusion",
    "of_pixels",
    "smooth_grad",
]

# Input values of all points up to which they are evaluated at once (tables, MNIST), and
# of one chunk beyond: ten points of a CIFAR image, whose activations then fit a cache.
_WHOLE = 2**17
_CHUNK = 2**15


def _finish(values: Array, normalize: bool, channel_axis: int | None) -> Array:
    if channel_axis is not None:
        values = jnp.sum(values, axis=channel_axis)
    return unit_sum(values) if normalize else values


def _check_chunk_size(chunk_size: int | None) -> None:
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)


def _mean_over(
    fn: Callable[[Array], Array], points: Array, size: int, chunk_size: int | None
) -> Array:
    """The mean of fn over points of inputs of that size, chunk by chunk."""
    count = points.shape[0]
    if chunk_size is None:
        whole = count * size <= _WHOLE
        chunk_size = count if whole else max(_CHUNK // size, 1)
    # As many chunks, as equal as they can be: the last one is padded.
    num_chunks = -(-count // chunk_size)
    if num_chunks > 1:
        # The backward pass computes a chunk again instead of keeping all of them.
        fn = jax.checkpoint(fn, prevent_cse=False)
    values = map_batched(fn, (points,), batch_size=-(-count // num_chunks))
    return jnp.mean(values, axis=0)


def gradient(
    score: ScoreFn, *, normalize: bool = True, channel_axis: int | None = None
) -> SaliencyFn:
    """Simple gradient: I = |∇ₓ s|, by default over its sum.

    Args:
      score: scalar to explain.
      normalize: whether to divide by the sum.
      channel_axis: axis of x that is summed after |·| (image channels), or None.

    Returns:
      `saliency(params, x, target) -> [n]`, of x's shape less the channel axis.

    Example:
      >>> from r2et_jax import score
      >>> explain = gradient(score.log_odds(lambda w, x: jnp.dot(w, x)[None]))
      >>> explain(jnp.array([3.0, -1.0]), jnp.zeros(2), 1)
      Array([0.75, 0.25], dtype=float32)

    Source: Simonyan et al. 2014; R2ET (arXiv 2212.14106), section 2.
    """
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        g = input_gradient(params, x, target)
        return _finish(magnitude(g), normalize, channel_axis)

    return saliency


def gradient_times_input(
    score: ScoreFn, *, normalize: bool = True, channel_axis: int | None = None
) -> SaliencyFn:
    """Gradient × input: I = |∇ₓ s ⊙ x|.

    Args:
      score, normalize, channel_axis: as in `gradient`.

    Returns:
      `saliency(params, x, target) -> [n]`.

    Example:
      >>> explain = gradient_times_input(lambda params, x, target: jnp.sum(params * x))
      >>> print(explain(jnp.array([1.0, -2.0]), jnp.array([2.0, 3.0]), 0))
      [0.25 0.75]

    Source: Shrikumar et al. 2016; used for brain graphs in R2ET (arXiv 2212.14106).
    """
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        g = input_gradient(params, x, target)
        return _finish(magnitude(g * x), normalize, channel_axis)

    return saliency


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
    _check_chunk_size(chunk_size)
    explain = base(score, normalize=False, channel_axis=channel_axis)

    def saliency(params, x, target, /, *, key):
        noise = sigma * jax.random.normal(key, (num_samples, *x.shape), x.dtype)
        mean = _mean_over(
            lambda d: explain(params, x + d, target), noise, x.size, chunk_size
        )
        return _finish(mean, normalize, None)

    return saliency


def integrated_gradients(
    score: ScoreFn,
    *,
    num_points: int = 100,
    baseline: float = 0.0,
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
      baseline: value of every feature of the baseline x⁰.
      signed: return the signed attributions (which sum to the difference of scores)
        instead of their absolute values; they are never divided by their sum.
      normalize, channel_axis: as in `gradient`.
      chunk_size: points at a time, as the draws in `smooth_grad`.

    Returns:
      `saliency(params, x, target) -> [n]`.

    Raises:
      ValueError: if num_points < 1 or chunk_size < 1.

    Example:
      >>> explain = integrated_gradients(lambda params, x, target: jnp.sum(x**2))
      >>> print(explain(None, jnp.array([1.0, 3.0]), 0))
      [0.1 0.9]

    Source: Sundararajan et al. 2017, equation 3.
    """
    check_count("num_points", num_points)
    _check_chunk_size(chunk_size)
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        times = (jnp.arange(num_points, dtype=x.dtype) + 0.5) / num_points
        step = x - baseline
        mean = _mean_over(
            lambda t: input_gradient(params, baseline + t * step, target),
            times,
            x.size,
            chunk_size,
        )
        attributions = step * mean
        if signed:
            return _finish(attributions, False, channel_axis)
        return _finish(magnitude(attributions), normalize, channel_axis)

    return saliency


def occlusion(
    score: ScoreFn,
    *,
    baseline: float | tuple[float, ...] = 0.0,
    normalize: bool = True,
    channel_axis: int | None = None,
    chunk_size: int | None = None,
) -> SaliencyFn:
    """Occlusion: I_i = |s(x) − s(x with feature i at its baseline)|, no gradient.

    It explains what has no gradient, such as trees, by n + 1 evaluations.

    Args:
      score: scalar to explain.
      baseline: value of every feature when it is taken away, or one for each in the
        order of x laid out in a row.
      normalize, channel_axis: as in `gradient`.
      chunk_size: features at a time, as the draws in `smooth_grad`.

    Returns:
      `saliency(params, x, target) -> [n]`.

    Raises:
      ValueError: if chunk_size < 1; when traced, for baselines that are not n.

    Example:
      >>> from r2et_jax import score
      >>> explain = occlusion(score.log_odds(lambda w, x: jnp.dot(w, x)[None]))
      >>> explain(jnp.array([3.0, -1.0]), jnp.array([1.0, 1.0]), 1)
      Array([0.75, 0.25], dtype=float32)

    Source: Zeiler & Fergus 2014, section 4.2; one feature at a time.
    """
    _check_chunk_size(chunk_size)

    def saliency(params, x, target, /):
        values = jnp.asarray(baseline, x.dtype)
        if values.shape not in ((), (x.size,)):
            raise ValueError(
                f"baseline must be one number or {x.size}, got {values.size}"
            )
        values, flat = jnp.broadcast_to(values, x.size), jnp.ravel(x)

        def without(i):
            return score(params, flat.at[i].set(values[i]).reshape(x.shape), target)

        size = max(_CHUNK // x.size, 1) if chunk_size is None else chunk_size
        indices = jnp.arange(x.size)
        left = map_batched(without, (indices,), batch_size=min(size, x.size))
        change = magnitude(score(params, x, target) - left)
        return _finish(change.reshape(x.shape), normalize, channel_axis)

    return saliency


@functools.lru_cache
def of_pixels(
    channels: int, base: Callable[..., SaliencyFn] = gradient
) -> Callable[..., SaliencyFn]:
    """A base explanation of flat images, its channels summed after |·|.

    Args:
      channels: of a pixel; they are innermost in the flat input. 1 gives `base` itself.
      base: factory of an explanation with an argument `channel_axis`.

    Returns:
      A factory as `base` is, `explainer(score, **options) -> saliency`; the saliency
      takes x [n] to a map [n / channels]. The same arguments give the same object, by
      which compiled programs can be kept.

    Raises:
      ValueError: if channels < 1; when traced, if it does not divide n.

    Example:
      >>> from r2et_jax import score
      >>> explainer = of_pixels(2)
      >>> explain = explainer(score.log_odds(lambda w, x: jnp.dot(w, x)[None]))
      >>> explain(jnp.array([3.0, -3.0, 0.0, 2.0]), jnp.zeros(4), 1)
      Array([0.75, 0.25], dtype=float32)
    """
    check_count("channels", channels)
    if channels == 1:
        return base

    def explainer(score: ScoreFn, **options) -> Callable[..., Array]:
        def of_rows(params, rows, target, /):
            return score(params, rows.ravel(), target)

        explain = base(of_rows, channel_axis=1, **options)

        def saliency(params, x, target, /, **drawn):
            if x.ndim != 1 or x.size % channels:
                raise ValueError(
                    f"x must be a flat image of {channels} channels, got shape "
                    f"{x.shape}"
                )
            return explain(params, x.reshape(-1, channels), target, **drawn)

        return saliency

    return explainer


@functools.lru_cache
def by_variable(
    groups: tuple[tuple[int, ...], ...], num_features: int
) -> Callable[..., SaliencyFn]:
    """The gradient of each variable, a one-hot group being one variable.

    The data fix a group's gradient up to a constant alone, since its columns sum to 1:
    I_G = ‖g_G − mean(g_G)‖₂. A column in no group keeps |g_i|.

    Args:
      groups: complete one-hot groups, tuples of indices that do not overlap.
      num_features: n.

    Returns:
      A factory as `gradient` is, `explainer(score, normalize=True) -> saliency`; the
      saliency takes x [n] to a map of the variables, ordered by their first column.

    Raises:
      ValueError: for indices beyond n or in two groups.

    Example:
      >>> from r2et_jax import score
      >>> explainer = by_variable(((1, 2),), 3)
      >>> explain = explainer(score.log_odds(lambda w, x: jnp.dot(w, x)[None]))
      >>> explain(jnp.array([5.0, 7.0, 7.0]), jnp.zeros(3), 1)
      Array([1., 0.], dtype=float32)
    """
    members = variables(groups, num_features)
    variable = np.zeros(num_features, np.int32)
    for i, columns in enumerate(members):
        variable[list(columns)] = i
    size = np.array([len(columns) for columns in members])
    alone = size == 1

    def explainer(score: ScoreFn, *, normalize: bool = True) -> SaliencyFn:
        input_gradient = jax.grad(score, argnums=1)

        def sums(values):
            return jax.ops.segment_sum(values, variable, len(members))

        def saliency(params, x, target, /):
            g = input_gradient(params, x, target)
            total = sums(g)
            mean = jnp.where(alone, 0, total / size.astype(g.dtype))
            # Squares of a saturated model's gradients underflow.
            scale = jax.lax.stop_gradient(jnp.max(jnp.abs(g)))
            scale = jnp.where(scale > 0, scale, 1)
            squares = sums(((g - mean[variable]) / scale) ** 2)
            some = squares > 0
            norm = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0) * scale
            norm = norm + 0 * total  # NaN stays NaN
            return _finish(jnp.where(alone, magnitude(total), norm), normalize, None)

        return saliency

    return explainer


def variables(
    groups: Sequence[Sequence[int]], num_features: int
) -> tuple[tuple[int, ...], ...]:
    """The columns of each variable, ordered by their first one.

    Example:
      >>> variables([(1, 3)], 4)
      ((0,), (1, 3), (2,))
    """
    columns = [int(i) for group in groups for i in group]
    if len(set(columns)) != len(columns) or not set(columns) <= set(
        range(num_features)
    ):
        raise ValueError(
            f"groups must be different columns in 0…{num_features - 1}, got {groups}"
        )
    alone = [(i,) for i in range(num_features) if i not in set(columns)]
    return tuple(sorted([*map(tuple, map(sorted, groups)), *alone]))
