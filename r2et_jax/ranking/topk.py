"""The top-k set of a saliency map. Ties go to the lower index."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_k, check_ndim
from r2et_jax.types import Array

# Below this many features an n × n comparison beats XLA's sort on CPU.
_COMPARE_BELOW = 128


def ranks(values: Array) -> Array:
    """Position of every feature in descending order: 0 is the largest.

    Args:
      values: saliency map [n]. NaN counts as −∞, so that a broken feature comes last.

    Returns:
      Integer ranks [n], a permutation of 0…n−1; of equal values the one with the
      lower index comes first. No derivative.

    Raises:
      ValueError: if values has other than one axis.

    Example:
      >>> ranks(jnp.array([0.2, 0.5, 0.2]))
      Array([1, 0, 2], dtype=int32)
    """
    check_ndim("values", values, 1)
    values = jax.lax.stop_gradient(values)
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    n = values.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    if n < _COMPARE_BELOW:
        # An earlier feature wins a tie: one more, on integers. These, summed over the
        # leading axis, are what XLA's CPU backend vectorises.
        keys = _ordered_integers(values)
        earlier = (index[:, None] < index[None, :]).astype(keys.dtype)
        ahead = keys[:, None] + earlier > keys[None, :]
        return jnp.sum(ahead, axis=0, dtype=jnp.int32)
    order = jnp.argsort(-values, stable=True)
    return jnp.zeros(n, jnp.int32).at[order].set(index, unique_indices=True)


def _ordered_integers(values: Array) -> Array:
    """Integers that compare as the floats do; −0 equals 0."""
    if values.dtype not in (jnp.float32, jnp.float64):
        values = values.astype(jnp.float32)
    kind = jnp.int32 if values.dtype == jnp.float32 else jnp.int64
    bits = jax.lax.bitcast_convert_type(values, kind)
    return jnp.where(bits < 0, jnp.iinfo(kind).min - bits, bits)


def top_k_mask(values: Array, *, k: int) -> Array:
    """Membership of the top-k set T: the k features with the largest values.

    Args:
      values: saliency map [n].
      k: size of the set, in 1…n−1.

    Returns:
      Boolean mask [n] with k ones.

    Raises:
      ValueError: if k is outside 1…n−1 or values has other than one axis.

    Example:
      >>> top_k_mask(jnp.array([0.1, 0.5, 0.4]), k=2)
      Array([False,  True,  True], dtype=bool)
    """
    check_ndim("values", values, 1)
    check_k(k, values.shape[0])
    return ranks(values) < k


def descending_order(values: Array) -> Array:
    """Indices of the features from the largest value to the smallest [n]."""
    check_ndim("values", values, 1)
    position = ranks(values)
    return jnp.zeros_like(position).at[position].set(
        jnp.arange(values.shape[0], dtype=jnp.int32)
    )


def top_k_indices(values: Array, *, k: int) -> Array:
    """Indices of the top-k features [k], the largest first. See `top_k_mask`."""
    check_ndim("values", values, 1)
    check_k(k, values.shape[0])
    return descending_order(values)[:k]


def positive_top_k_mask(values: Array, *, k: int) -> Array:
    """The features that count as top-k: among the k largest, and positive.

        T = {i : i among the k largest, I_i > 0}

    A feature without saliency explains nothing: which of several zeros fills the last
    place is decided by the index alone, and would be counted as agreement.

    Args:
      values: saliency map [n], nonnegative (a signed map: pass its absolute value).
      k: size of the set, in 1…n−1.

    Returns:
      Boolean mask [n] with min(k, number of positive features) ones; none if any
      value is not finite, since such a map has no ranking.

    Raises:
      ValueError: if k is outside 1…n−1 or values has other than one axis.

    Example:
      >>> print(positive_top_k_mask(jnp.array([0.0, 3.0, 1.0, 0.0]), k=3))
      [False  True  True False]
    """
    finite = jnp.all(jnp.isfinite(values))
    return top_k_mask(values, k=k) & (values > 0) & finite


def top_k_overlap(mask: Array, values: Array, *, k: int) -> Array:
    """P@k: the share |T ∩ T′|/|T|, both sets over features with positive saliency.

    The set T is passed, and not its map, so that a loop ranks the reference once.

    Args:
      mask: membership of T, boolean [n]; see `positive_top_k_mask`.
      values: saliency map [n] whose top-k set is T′.
      k: size of the sets, in 1…n−1.

    Returns:
      Share in [0, 1]; 0 if the map `values` is zero; NaN where it has no meaning: T is
      empty, as for a map of zeros, or `values` is not finite.

    Raises:
      ValueError: if k is outside 1…n−1 or values has other than one axis.

    Example:
      >>> mask = positive_top_k_mask(jnp.array([4.0, 3.0, 2.0]), k=2)
      >>> print(top_k_overlap(mask, jnp.array([4.0, 1.0, 2.0]), k=2))
      0.5

    Source: Ghorbani et al. 2019 (top-k intersection); R2ET (arXiv 2212.14106), P@k.
    """
    kept = mask & top_k_mask(values, k=k) & (values > 0)
    common = jnp.sum(kept, dtype=values.dtype)
    share = common / jnp.sum(mask, dtype=values.dtype)  # 0/0 where T is empty
    return jnp.where(jnp.all(jnp.isfinite(values)), share, jnp.nan)


def border_tie(values: Array, *, k: int) -> Array:
    """Whether the k-th and the (k+1)-th largest values are equal.

    Then the top-k set depends on the index, and noise of any size can change it. A tie
    at zero says that fewer than k features have saliency.

    Args:
      values: saliency map [n].
      k: size of the top-k set, in 1…n−1.

    Returns:
      Boolean scalar; false if the map has a NaN.

    Raises:
      ValueError: if k is outside 1…n−1 or values has other than one axis.

    Example:
      >>> print(border_tie(jnp.array([3.0, 1.0, 1.0]), k=2))
      True
    """
    check_ndim("values", values, 1)
    check_k(k, values.shape[0])
    position = ranks(values)
    last_in = jnp.sum(jnp.where(position == k - 1, values, 0))
    first_out = jnp.sum(jnp.where(position == k, values, 0))
    return (last_in == first_out) & ~jnp.any(jnp.isnan(values))
