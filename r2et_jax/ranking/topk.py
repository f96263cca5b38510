"""The top-k set of a saliency map. Ties go to the lower index."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_k, check_ndim
from r2et_jax.types import Array

# Up to here, comparing all pairs costs less on CPU than XLA's partial sort does
# (.07 against .5 microseconds for a map of 28 features).
FEW_FEATURES = 64


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
    index = jnp.arange(values.shape[0], dtype=jnp.int32)
    if values.shape[0] <= FEW_FEATURES:
        return _ranks_by_comparison(_comparable(values), index)
    order = descending_order(values)
    return jnp.zeros_like(index).at[order].set(index, unique_indices=True)


def _ranks_by_comparison(values: Array, index: Array) -> Array:
    """The number of features before each one, from all pairs."""
    # Without the barrier XLA fuses the comparison with what computes the map, and
    # computes that n times.
    values = jax.lax.optimization_barrier(values)
    other = values[None, :]
    value = values[:, None]
    before = jnp.where(index[None, :] < index[:, None], other >= value, other > value)
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def leading(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest values, descending, and their indices; no derivative.

    NaN counts as −∞.
    """
    check_ndim("values", values, 1)
    return jax.lax.top_k(_comparable(values), count)


def _comparable(values: Array) -> Array:
    """Values for a sort: NaN as −∞, and −0 as the 0 that it equals."""
    values = jax.lax.stop_gradient(values)
    values = jnp.where(values == 0, jnp.zeros_like(values), values)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def leading_masks(values: Array, *counts: int) -> tuple[Array, ...]:
    """Boolean masks [n] of the `counts` largest values, nested; no derivative.

    Elementwise, after one partial sort: a value above the last one taken is in, and
    one equal to it up to that one's index, since ties go to the lower index. Of few
    features all pairs are compared instead.
    """
    if values.shape[0] <= FEW_FEATURES:
        place = ranks(values)
        return tuple(place < count for count in counts)
    values = _comparable(values)
    largest, order = leading(values, max(counts))
    index = jnp.arange(values.shape[0], dtype=order.dtype)

    def first(count):
        if not count:
            return jnp.zeros(values.shape, bool)
        last, last_index = at(largest, count - 1), at(order, count - 1)
        return (values > last) | ((values == last) & (index <= last_index))

    return tuple(map(first, counts))


def at(sorted_values: Array, position: int) -> Array:
    """One entry of what `leading` returned.

    Slicing a partial sort makes XLA replace it by a full one, which is slow.
    """
    here = jnp.arange(sorted_values.shape[0]) == position
    return jnp.sum(jnp.where(here, sorted_values, 0), dtype=sorted_values.dtype)


def border(values: Array, *, k: int) -> tuple[Array, Array]:
    """The k-th and the (k+1)-th largest value, k in 1…n−1; no derivative.

    NaN counts as −∞.

    Example:
      >>> print(*border(jnp.array([3.0, 1.0, 2.0]), k=1))
      3.0 2.0
    """
    check_ndim("values", values, 1)
    check_k(k, values.shape[0])
    if values.shape[0] <= FEW_FEATURES:
        place, values = ranks(values), _comparable(values)
        return tuple(jnp.sum(jnp.where(place == p, values, 0)) for p in (k - 1, k))
    largest, _ = leading(values, k + 1)
    return at(largest, k - 1), at(largest, k)


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
    return leading_masks(values, k)[0]


def descending_order(values: Array) -> Array:
    """Indices of the features from the largest value to the smallest [n]."""
    return leading(values, values.shape[0])[1]


def top_k_indices(values: Array, *, k: int) -> Array:
    """Indices of the top-k features, the largest first.

    Args:
      values: saliency map [n].
      k: size of the set, in 1…n−1.

    Returns:
      Indices [k]; of equal values the lower index comes first.

    Raises:
      ValueError: if k is outside 1…n−1 or values has other than one axis.

    Example:
      >>> print(top_k_indices(jnp.array([0.1, 0.5, 0.4]), k=2))
      [1 2]
    """
    check_ndim("values", values, 1)
    check_k(k, values.shape[0])
    return leading(values, k)[1]


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
      >>> mask = top_k_mask(jnp.array([4.0, 3.0, 2.0]), k=2)
      >>> print(top_k_overlap(mask, jnp.array([4.0, 1.0, 2.0]), k=2))
      0.5

    Source: Ghorbani et al. 2019 (top-k intersection); R2ET (arXiv 2212.14106), P@k.
    """
    kept = mask & top_k_mask(values, k=k) & (values > 0)
    num_kept = jnp.sum(kept, dtype=values.dtype)
    share = num_kept / jnp.sum(mask, dtype=values.dtype)  # 0/0 where T is empty
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
    last, following = border(values, k=k)
    return (last == following) & ~jnp.any(jnp.isnan(values))
