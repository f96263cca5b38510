"""Explanations by one gradient."""

from __future__ import annotations

import jax

from r2et_jax.numerics import magnitude
from r2et_jax.saliency._parts import finish
from r2et_jax.types import SaliencyFn, ScoreFn


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
        return finish(magnitude(g), normalize, channel_axis)

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
        return finish(magnitude(g * x), normalize, channel_axis)

    return saliency
