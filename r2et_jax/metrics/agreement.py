"""How well two explanations of one input agree."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_ndim, check_same_shape
from r2et_jax.metrics._arrays import as_floats
from r2et_jax.ranking import top_k_overlap
from r2et_jax.ranking.topk import positive_top_k_mask


def precision_at_k(clean: ArrayLike, perturbed: ArrayLike, *, k: int) -> Array:
    """Share of the clean top-k features that stay in the top k.

        P@k = |T(x) ∩ T(x′)| / |T(x)|,   |T(x)| = min(k, #{i : I_i(x) > 0})

    with T as in `ranking.topk.positive_top_k_mask`: only features with positive
    saliency are members, on either side. For a clean map with at least k positive
    features the denominator is k; a sparser one can still reach 1. A perturbed map of
    zeros gives 0.

    Args:
      clean: saliency [n] at the clean input, nonnegative.
      perturbed: saliency [n] at the perturbed input, nonnegative.
      k: size of the top-k set, 1…n−1.

    Returns:
      Scalar in [0, 1], or nan where it has no meaning: the clean map has no positive
      feature, or either map has a value that is not finite. `mean_and_stderr` counts
      these.

    Raises:
      ValueError: if the shapes differ or are not [n], or k is outside 1…n−1.

    Example:
      >>> clean, perturbed = jnp.array([4.0, 3.0, 2.0]), jnp.array([4.0, 1.0, 2.0])
      >>> print(precision_at_k(clean, perturbed, k=2))
      0.5

    Source: Ghorbani et al. 2019 (top-k intersection); R2ET, arXiv 2212.14106 (P@k).
    """
    clean, perturbed = as_floats(clean, perturbed)
    check_same_shape("clean", clean, "perturbed", perturbed)
    # The clean set is empty, and the overlap nan, for a clean map that is not finite.
    return top_k_overlap(positive_top_k_mask(clean, k=k), perturbed, k=k)


def chance_corrected(p_at_k: ArrayLike, same: ArrayLike) -> Any:
    """P@k above what two different inputs agree on anyway.

        P@k⁺ = (P@k − same) / (1 − same)

    1 is a ranking that does not move, 0 one that moves as far as another input's. A
    model that gives one ranking for all inputs (a linear one) has same = 1, and no
    value.

    Args:
      p_at_k: precision at k in [0, 1], any shape. JAX arrays are computed by JAX in
        their float type, anything else by NumPy in float64.
      same: mean top-k overlap of different inputs in [0, 1], see `mean_topk_overlap`;
        broadcast against `p_at_k`.

    Returns:
      Array of the broadcast shape, at most 1; negative below chance, nan where `same`
      is 1 but for rounding.

    Example:
      >>> print(chance_corrected(0.75, 0.5))
      0.5

    Source: the form of Cohen's kappa (Cohen 1960).
    """
    if isinstance(p_at_k, jax.Array) or isinstance(same, jax.Array):
        xp: Any = jnp
        p_at_k, same = as_floats(p_at_k, same)
    else:
        xp = np
        p_at_k, same = np.asarray(p_at_k, np.float64), np.asarray(same, np.float64)
    room = 1.0 - same
    defined = room > 8 * xp.finfo(room.dtype).eps
    return xp.where(defined, (p_at_k - same) / xp.where(defined, room, 1.0), xp.nan)


def mse(clean: ArrayLike, perturbed: ArrayLike) -> Array:
    """Mean squared difference of two maps.

        (1/n) Σᵢ (I_i(x) − I_i(x′))²

    Args:
      clean: map [n].
      perturbed: map [n].

    Returns:
      Nonnegative scalar; nan or inf if a value is not finite.

    Raises:
      ValueError: if the shapes differ or are not [n].

    Example:
      >>> print(mse(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
      1.0
    """
    clean, perturbed = _pair(clean, perturbed)
    return jnp.mean((clean - perturbed) ** 2)


def pearson(clean: ArrayLike, perturbed: ArrayLike) -> Array:
    """Pearson correlation of two maps.

        r = Σ (a − ā)(b − b̄) / (‖a − ā‖ ‖b − b̄‖)

    Args:
      clean: map [n].
      perturbed: map [n].

    Returns:
      Scalar in [−1, 1]; nan if either map is constant (as in SciPy) or not finite.

    Raises:
      ValueError: if the shapes differ or are not [n].

    Example:
      >>> r = pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.0]))
      >>> print(f"{r:.3f}")
      1.000
    """
    clean, perturbed = _pair(clean, perturbed)
    constant = _is_constant(clean) | _is_constant(perturbed)
    cosine = jnp.sum(_standard_direction(clean) * _standard_direction(perturbed))
    return jnp.where(constant, jnp.nan, jnp.clip(cosine, -1.0, 1.0))


def average_ranks(values: ArrayLike) -> Array:
    """Ranks from 1 (smallest) to n; equal values share the mean of their ranks.

        r_i = #{j : v_j < v_i} + (1 + #{j : v_j = v_i})/2

    Args:
      values: array [n] without nan; O(n log n).

    Returns:
      Ranks [n] in [1, n]; without meaning if there is a nan.

    Raises:
      ValueError: if `values` does not have one axis.

    Example:
      >>> print(average_ranks(jnp.array([5.0, 1.0, 5.0])))
      [2.5 1.  2.5]
    """
    (values,) = as_floats(values)
    check_ndim("values", values, 1)
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values, side="left")
    not_above = jnp.searchsorted(ordered, values, side="right")
    return (below + not_above + 1).astype(values.dtype) / 2.0


def spearman(clean: ArrayLike, perturbed: ArrayLike) -> Array:
    """Spearman's rank correlation: Pearson's r of the average ranks.

        ρ = r(rank(a), rank(b))

    Args:
      clean: map [n].
      perturbed: map [n].

    Returns:
      Scalar in [−1, 1]; nan if either map is constant (as in SciPy) or has a nan.

    Raises:
      ValueError: if the shapes differ or are not [n].

    Example:
      >>> rho = spearman(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 4.0, 9.0]))
      >>> print(f"{rho:.3f}")
      1.000
    """
    clean, perturbed = _pair(clean, perturbed)
    rho = pearson(average_ranks(clean), average_ranks(perturbed))
    return jnp.where(_has_nan(clean, perturbed), jnp.nan, rho)


def kendall(clean: ArrayLike, perturbed: ArrayLike) -> Array:
    """Kendall's tau-b: concordant less discordant pairs, corrected for ties.

        τ_b = Σ_{i≠j} s_ij t_ij / √(Σ s_ij² · Σ t_ij²),   s_ij = sign(a_i − a_j),
                                                          t_ij = sign(b_i − b_j)

    All n² comparisons at once; for large n map over inputs instead of vmap.

    Args:
      clean: map [n].
      perturbed: map [n].

    Returns:
      Scalar in [−1, 1]; nan if either map is constant (as in SciPy) or has a nan.

    Raises:
      ValueError: if the shapes differ or are not [n].

    Example:
      >>> tau = kendall(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 3.0, 2.0]))
      >>> print(f"{tau:.3f}")
      0.333

    Source: Kendall 1945.
    """
    clean, perturbed = _pair(clean, perturbed)
    order_a, order_b = _comparisons(clean), _comparisons(perturbed)

    def total(pairs: Array) -> Array:
        # Rows in integers (at most n), their sum in floats: n² overflows int32.
        return jnp.sum(jnp.sum(pairs, axis=1).astype(clean.dtype))

    untied_a, untied_b = total(jnp.abs(order_a)), total(jnp.abs(order_b))
    defined = (untied_a > 0) & (untied_b > 0) & ~_has_nan(clean, perturbed)
    scale = jnp.sqrt(jnp.where(defined, untied_a, 1.0))
    scale = scale * jnp.sqrt(jnp.where(defined, untied_b, 1.0))
    tau = jnp.clip(total(order_a * order_b) / scale, -1.0, 1.0)
    return jnp.where(defined, tau, jnp.nan)


def _pair(clean: ArrayLike, perturbed: ArrayLike) -> tuple[Array, Array]:
    clean, perturbed = as_floats(clean, perturbed)
    check_ndim("clean", clean, 1)
    check_same_shape("clean", clean, "perturbed", perturbed)
    return clean, perturbed


def _is_constant(values: Array) -> Array:
    # Not by the variance: the mean of equal numbers need not equal them.
    return jnp.all(values == values[:1])


def _standard_direction(values: Array) -> Array:
    # Scaled twice, since squares of small normalised saliency underflow in float32.
    values = values / _nonzero(jnp.max(jnp.abs(values)))
    centred = values - jnp.mean(values)
    centred = centred / _nonzero(jnp.max(jnp.abs(centred)))
    return centred / _nonzero(jnp.sqrt(jnp.sum(centred**2)))


def _nonzero(scale: Array) -> Array:
    return jnp.where(scale == 0, 1.0, scale)


def _has_nan(*maps: Array) -> Array:
    return jnp.any(jnp.isnan(jnp.stack(maps)))


def _comparisons(values: Array) -> Array:
    above = values[:, None] > values[None, :]
    return above.astype(jnp.int32) - above.T.astype(jnp.int32)
