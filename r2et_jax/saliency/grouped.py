"""Explanations of what belongs together: channels of a pixel, one-hot columns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.numerics import magnitude
from r2et_jax.saliency._parts import finish
from r2et_jax.saliency.gradients import gradient
from r2et_jax.types import Array, SaliencyFn, ScoreFn


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
            return finish(jnp.where(alone, magnitude(total), norm), normalize, None)

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
