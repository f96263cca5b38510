"""Explanations without a gradient."""

from __future__ import annotations

import jax.numpy as jnp

from r2et_jax.execution import map_batched
from r2et_jax.numerics import magnitude
from r2et_jax.saliency._parts import CHUNK, check_chunk_size, finish
from r2et_jax.types import SaliencyFn, ScoreFn


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
    check_chunk_size(chunk_size)

    def saliency(params, x, target, /):
        values = jnp.asarray(baseline, x.dtype)
        if values.shape not in ((), (x.size,)):
            raise ValueError(
                f"baseline must be one number or {x.size}, got {values.size}"
            )
        values, flat = jnp.broadcast_to(values, x.size), jnp.ravel(x)

        def without(i):
            return score(params, flat.at[i].set(values[i]).reshape(x.shape), target)

        size = max(CHUNK // x.size, 1) if chunk_size is None else chunk_size
        indices = jnp.arange(x.size)
        left = map_batched(without, (indices,), batch_size=min(size, x.size))
        change = magnitude(score(params, x, target) - left)
        return finish(change.reshape(x.shape), normalize, channel_axis)

    return saliency
