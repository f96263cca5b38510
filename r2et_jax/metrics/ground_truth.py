"""Agreement of explanations with what is known to separate the classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_k
from r2et_jax.metrics._arrays import as_floats, check_axes
from r2et_jax.metrics.summary import Summary, mean_and_stderr
from r2et_jax.ranking.topk import positive_top_k_mask


def truth_precision(
    truth: ArrayLike, maps: ArrayLike, *, k: int, units: ArrayLike | None = None
) -> Summary:
    """Share of the top-k features that truly matter.

        precision = (1/m) Σ_x |T(x) ∩ G| / |T(x)|

    G: the features in which the classes differ, known where the data were generated.
    At most min(k, |G|)/k where all k have saliency; |G|/n by chance. T is that of
    `precision_at_k`: a ranking that never moves scores 1 there, and here only if it is
    right as well.

    Args:
      truth: membership of G, boolean [n], or [m, n] where it depends on the input.
      maps: saliency [m, n], nonnegative.
      k: size of the top-k set, 1…n−1.
      units: the input of each map [m], see `mean_and_stderr`.

    Returns:
      `Summary` with a mean in [0, 1]; maps without a positive feature or with a value
      that is not finite are counted in `num_nonfinite`.

    Raises:
      ValueError: if the shapes do not fit, truth is not boolean, or k is outside
        1…n−1.

    Example:
      >>> maps = jnp.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
      >>> print(truth_precision(jnp.array([True, True, False]), maps, k=2).mean)
      0.75
    """
    (maps,) = as_floats(maps)
    truth = jnp.asarray(truth)
    check_axes("maps", maps, "m, n")
    if truth.dtype != bool:
        raise ValueError(f"truth must be boolean, got {truth.dtype}")
    if truth.shape not in (maps.shape, maps.shape[1:]):
        raise ValueError(
            f"truth must have the shape of one map {maps.shape[1:]} or of all "
            f"{maps.shape}, got {truth.shape}"
        )
    check_k(k, maps.shape[1])

    def share(values: Array, matters: Array) -> Array:
        members = positive_top_k_mask(values, k=k)
        count = jnp.sum(members).astype(values.dtype)
        right = jnp.sum(members & matters).astype(values.dtype)
        return jnp.where(count > 0, right / jnp.maximum(count, 1.0), jnp.nan)

    truth = jnp.broadcast_to(truth, maps.shape)
    return mean_and_stderr(jax.vmap(share)(maps, truth), units=units)
