"""Top-k overlap of different inputs: what a fixed ranking would score."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_k
from r2et_jax.metrics._arrays import as_floats, check_axes
from r2et_jax.ranking import positive_top_k_mask


def mean_topk_overlap(maps: ArrayLike, *, k: int) -> Array:
    """Mean P@k over ordered pairs of different inputs.

        same = 1/(m(m−1)) Σ_{a≠b} |T_a ∩ T_b| / |T_a|
             = 1/(m(m−1)) Σ_a Σ_{f∈T_a} (c_f − 1) / |T_a|,   c_f = #{a : f ∈ T_a}

    and Σ_f c_f(c_f − 1)/(k m (m−1)) where every map has k positive features. The
    counts c_f replace the pairs: O(m n) and not O(m² n). T is that of `precision_at_k`,
    so that the two can be compared: 1 means that all inputs get the same explanation,
    and k/n is the level of random ones.

    Args:
      maps: saliency [m, n] of m ≥ 2 different inputs, nonnegative.
      k: size of the top-k set, 1…n−1.

    Returns:
      Scalar in [0, 1]. Maps without a ranking (no positive feature, or a value that is
      not finite) are left out, m counting the others: they are the same maps for which
      `precision_at_k` is nan and counted. nan if fewer than two are left.

    Raises:
      ValueError: if `maps` is not [m, n], m < 2, or k is outside 1…n−1.

    Example:
      >>> maps = jnp.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
      >>> print(mean_topk_overlap(maps, k=2))
      0.5
    """
    (maps,) = as_floats(maps)
    check_axes("maps", maps, "m, n")
    num_maps, num_features = maps.shape
    check_k(k, num_features)
    if num_maps < 2:
        raise ValueError(f"maps must hold at least two inputs, got m = {num_maps}")

    members = jax.vmap(lambda values: positive_top_k_mask(values, k=k))(maps)
    members = members.astype(maps.dtype)
    sizes = jnp.sum(members, axis=1)
    num_ranked = jnp.sum((sizes > 0).astype(maps.dtype))
    # Shares, not counts: Σ c_f² overflows int32 and rounds in float32 for large m.
    others = (jnp.sum(members, axis=0) - 1.0) / jnp.maximum(num_ranked - 1.0, 1.0)
    overlaps = jnp.sum(members * others, axis=1) / jnp.maximum(sizes, 1.0)
    mean = jnp.sum(overlaps) / jnp.maximum(num_ranked, 1.0)
    return jnp.where(num_ranked >= 2, mean, jnp.nan)
