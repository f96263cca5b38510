"""Gaps h_ij = I_i − I_j between top features i and the rest j.

Every linear mean of gaps is Σ cᵢIᵢ with constant weights c, found in O(n) without
forming pairs. Penalties and attacks therefore share one form: weights from the
reference ranking, values from the map at hand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_k, check_positive
from r2et_jax.ranking.topk import (
    FEW_FEATURES,
    descending_order,
    leading,
    leading_masks,
    ranks,
    top_k_mask,
)
from r2et_jax.types import Array


def pairwise_gaps(values: Array, reference: Array, *, k: int) -> Array:
    """All gaps h_ij of `values` for the pairs of the reference's top-k set.

    Args:
      values: saliency map [n] that is measured.
      reference: saliency map [n] that ranks the features.
      k: size of the top set, in 1…n−1.

    Returns:
      Gaps [k, n−k], the largest reference saliency first on both axes.

    Raises:
      ValueError: if k is outside 1…n−1.

    Example:
      >>> pairwise_gaps(jnp.array([1.0, 4.0, 2.0]), jnp.array([1.0, 4.0, 2.0]), k=1)
      Array([[2., 3.]], dtype=float32)

    Source: R2ET (arXiv 2212.14106), section 3.
    """
    check_k(k, values.shape[0])
    order = descending_order(reference)
    return values[order[:k]][:, None] - values[order[k:]][None, :]


def mean_gap_weights(mask: Array, *, k: int) -> Array:
    """Weights of the mean over all pairs: 1/k inside T, −1/(n−k) outside.

    Σ_{i∈T, j∉T} h_ij = (n−k) Σ_T I_i − k Σ_{∉T} I_j, over k(n−k) pairs.

    Args:
      mask: membership of T, boolean [n].
      k: number of ones in it, in 1…n−1.

    Returns:
      Weights c [n] such that Σ cᵢIᵢ is the mean gap.
    """
    n = mask.shape[0]
    check_k(k, n)
    return jnp.where(mask, 1 / k, -1 / (n - k))


def smallest_pair_weights(reference: Array, *, k: int, k_prime: int) -> Array:
    """Weights of R2ET-mm: the k′ pairs of distinct indices with the smallest gaps.

    These are the k′ weakest of T with the k′ strongest outside. With k′ = k and
    n = 2k the mean equals that over all pairs.

    Args:
      reference: saliency map [n] that ranks the features.
      k: size of the top set, in 1…n−1.
      k_prime: number of pairs k′, in 1…min(k, n−k).

    Returns:
      Weights c [n] such that Σ cᵢIᵢ is the mean gap over the k′ pairs.

    Raises:
      ValueError: if k or k_prime is out of range.

    Source: R2ET (arXiv 2212.14106), R2ET-mm.
    """
    n = reference.shape[0]
    check_k(k, n)
    check_k_prime(k_prime, k=k, num_features=n)
    strong, top, wider = leading_masks(reference, k - k_prime, k, k + k_prime)
    inside = (top & ~strong).astype(reference.dtype)
    outside = (wider & ~top).astype(reference.dtype)
    return (inside - outside) / k_prime


def border_features(reference: Array, *, k: int, k_prime: int) -> tuple[Array, Array]:
    """The k′ pairs of R2ET-mm one by one: i-th weakest of T, i-th strongest outside.

    Args:
      reference: saliency map [n] that ranks the features.
      k: size of the top set, in 1…n−1.
      k_prime: number of pairs k′, in 1…min(k, n−k).

    Returns:
      Boolean masks [k′, n] of the inner and of the outer features, with one true entry
      in each row; pairs from the border outwards. No derivative.

    Raises:
      ValueError: if k or k_prime is out of range.

    Example:
      >>> inner, outer = border_features(jnp.array([1.0, 4.0, 2.0]), k=1, k_prime=1)
      >>> print(inner, outer)
      [[False  True False]] [[False False  True]]
    """
    n = reference.shape[0]
    check_k(k, n)
    check_k_prime(k_prime, k=k, num_features=n)
    inner = features_at(reference, first=k - k_prime, count=k_prime)
    return jnp.flip(inner, axis=0), features_at(reference, first=k, count=k_prime)


def features_at(reference: Array, *, first: int, count: int) -> Array:
    """The features at some places of a ranking, the strongest first.

    Masks in place of indices: gathers and full sorts are slow on CPU.

    Args:
      reference: saliency map [n] that ranks the features.
      first: the first place, from 0.
      count: number of places; first + count is at most n.

    Returns:
      Boolean masks [count, n] with one true entry in each row; no derivative.

    Example:
      >>> print(features_at(jnp.array([1.0, 4.0, 2.0]), first=1, count=1))
      [[False False  True]]
    """
    if reference.shape[0] <= FEW_FEATURES:
        places = ranks(reference)
        wanted = jnp.arange(first, first + count, dtype=places.dtype)
        return places[None, :] == wanted[:, None]
    _, order = leading(reference, first + count)
    # Not a slice, which would make XLA replace the partial sort by a full one.
    place = jnp.arange(first + count)
    chosen = place[None, :] == place[:count, None] + first
    index = jnp.sum(jnp.where(chosen, order, 0), axis=1, dtype=order.dtype)
    return jnp.arange(reference.shape[0], dtype=order.dtype)[None, :] == index[:, None]


def anchored_weights(reference: Array, *, k: int, k_prime: int) -> Array:
    """Weights of the pairs anchored at the k-th feature, the last one inside T.

    The mean of h_{ik} for i = k−k′ … k−1 and of h_{kj} for j = k+1 … k+k′, counted
    from 1 in sorted order. With k′ = k, the published form of 2k gaps, the first sum
    has one gap less, as the anchor has none with itself; else the anchor's own value
    drops out.

    Args:
      reference: saliency map [n] that ranks the features.
      k: size of the top set, in 1…n−1.
      k_prime: number of pairs k′ on each side, in 1…min(k, n−k).

    Returns:
      Weights c [n] such that Σ cᵢIᵢ is the mean over these pairs.

    Raises:
      ValueError: if k or k_prime is out of range.

    Example:
      >>> weights = anchored_weights(jnp.array([9.0, 5.0, 4.0, 1.0]), k=2, k_prime=1)
      >>> print(weights)
      [ 0.5  0.  -0.5  0. ]

    Source: R2ET (arXiv 2212.14106).
    """
    n = reference.shape[0]
    check_k(k, n)
    check_k_prime(k_prime, k=k, num_features=n)
    above = min(k_prime, k - 1)
    counts = (k - 1 - above, k - 1, k, k + k_prime)
    strong, inside, top, wider = (
        mask.astype(reference.dtype) for mask in leading_masks(reference, *counts)
    )
    anchor = (k_prime - above) * (top - inside)
    return (inside - strong + anchor - (wider - top)) / (above + k_prime)


def check_k_prime(k_prime: int, *, k: int, num_features: int) -> None:
    """Raise unless k′ pairs of distinct indices exist across the border."""
    check_count("k_prime", k_prime)
    most = min(k, num_features - k)
    if k_prime > most:
        raise ValueError(
            f"k_prime must lie in 1…{most} for k = {k} and {num_features} features, "
            f"got k_prime = {k_prime}"
        )


def weighted_sum(values: Array, weights: Array) -> Array:
    """Σ cᵢIᵢ: the mean gap of a map under the weights of a reference ranking."""
    return jnp.sum(values * weights)


def mean_exponential_gap(values: Array, mask: Array, *, theta: Array | float) -> Array:
    """Mean over all pairs of exp(−h_ij/θ), in O(n).

    Σ exp(−h_ij/θ) = (Σ_T e^{−I_i/θ})(Σ_{∉T} e^{I_j/θ}), summed in the log domain.

    Args:
      values: saliency map [n].
      mask: membership of T, boolean [n], neither empty nor full.
      theta: temperature θ > 0, in units of the saliency. At θ far above the gaps the
        form is linear in them; `mean_gap_scale` gives a scale that is not.

    Returns:
      Scalar; smaller is a wider separation.

    Raises:
      ValueError: if theta is a number and not positive.

    Source: R2ET (arXiv 2212.14106), the exponential objective.
    """
    if isinstance(theta, (int, float)):
        check_positive("theta", theta)
    inside = jnp.sum(mask, dtype=values.dtype)
    outside = mask.shape[0] - inside
    log_inside = jax.nn.logsumexp(jnp.where(mask, -values / theta, -jnp.inf))
    log_outside = jax.nn.logsumexp(jnp.where(mask, -jnp.inf, values / theta))
    return jnp.exp(log_inside + log_outside) / (inside * outside)


def mean_exponential_smallest(
    values: Array, reference: Array, *, k: int, k_prime: int, theta: Array | float
) -> Array:
    """Mean of exp(−h/θ) over the k′ pairs of R2ET-mm, weakest with strongest.

    The i-th weakest of T is paired with the i-th strongest outside. Arguments as in
    `smallest_pair_weights` and `mean_exponential_gap`.
    """
    if isinstance(theta, (int, float)):
        check_positive("theta", theta)
    inner, outer = border_features(reference, k=k, k_prime=k_prime)
    gaps = jnp.sum(jnp.where(inner, values, jnp.where(outer, -values, 0)), axis=1)
    return jnp.mean(jnp.exp(-gaps / theta))


def mean_gap_scale(reference: Array, *, k: int) -> Array:
    """The mean gap of the reference map itself: a temperature that fits its scale."""
    mask = top_k_mask(reference, k=k)
    gap = weighted_sum(reference, mean_gap_weights(mask, k=k))
    return jax.lax.stop_gradient(jnp.maximum(gap, jnp.finfo(reference.dtype).tiny))
