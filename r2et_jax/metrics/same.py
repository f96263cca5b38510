"""Top-k overlap of different inputs: what a fixed ranking would score."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from r2et_jax.checks import check_k
from r2et_jax.execution import jit, kept
from r2et_jax.metrics._arrays import as_floats, check_axes
from r2et_jax.metrics.agreement import chance_corrected
from r2et_jax.metrics.statistics import jackknife_stderr
from r2et_jax.metrics.summary import (
    Summary,
    as_units,
    means_by_unit,
)
from r2et_jax.ranking.topk import positive_top_k_mask


def mean_topk_overlap(
    maps: ArrayLike, *, k: int, units: ArrayLike | None = None
) -> Summary:
    """Mean P@k over ordered pairs of different inputs: the column `same`.

        same = 1/(u(u−1)) Σ_{a≠b} |T_a ∩ T_b| / |T_a|

    T is that of `precision_at_k`, so that the two can be compared: 1 means that all
    inputs get the same explanation, and k/n is the level of random ones. Where several
    maps are of one input (a graph with several partners), a and b run over the u
    different inputs, and an overlap is the mean over their maps: two explanations of
    one input are alike anyway. O(m n), by sums of masks instead of pairs.

    The error is that over inputs, by leaving out one at a time (jackknife), since the
    pairs share their members.

    Args:
      maps: saliency [m, n], nonnegative.
      k: size of the top-k set, 1…n−1.
      units: the input of each map [m], as of `distinct_inputs`; by default every map
        has its own.

    Returns:
      `Summary` with a mean in [0, 1]; n counts inputs. Maps without a ranking (no
      positive feature, or a value that is not finite) are left out and counted in
      `num_nonfinite`: for the same ones `precision_at_k` is nan. The mean is nan if
      fewer than two inputs are left, its error if fewer than three.

    Raises:
      ValueError: if `maps` is not [m, n], k is outside 1…n−1, or `units` is not [m].

    Example:
      >>> maps = jnp.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
      >>> print(mean_topk_overlap(maps, k=2).mean)
      0.5
    """
    overlap = _overlap(maps, k, units)
    return Summary(
        overlap.mean, overlap.stderr, len(overlap.units), overlap.num_unranked
    )


def corrected_precision(
    precision: ArrayLike, maps: ArrayLike, *, k: int, units: ArrayLike | None = None
) -> Summary:
    """P@k⁺ of a model: its mean P@k above what two different inputs agree on anyway.

        P@k⁺ = (P@k − same)/(1 − same)

    Both means are of the same inputs and hang together. The error therefore leaves out
    one input at a time in both (jackknife), instead of taking `same` as known.

    Args:
      precision: P@k [m] of each map, see `precision_at_k`.
      maps: clean saliency [m, n], nonnegative.
      k, units: as of `mean_topk_overlap`.

    Returns:
      `Summary` with a mean of at most 1, nan where `same` is 1 or unknown; n counts the
      inputs with a P@k, `num_nonfinite` the values of P@k that are not finite.

    Raises:
      ValueError: as `mean_topk_overlap`, or if `precision` is not [m].

    Example:
      >>> maps = jnp.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
      >>> print(corrected_precision([1.0, 0.5], maps, k=2).mean)
      0.5
    """
    parts = _left_out(precision, maps, k, units)
    without = np.asarray(chance_corrected(parts.precisions, parts.overlaps), np.float64)
    return Summary(
        np.float64(chance_corrected(parts.precision, parts.overlap)),
        jackknife_stderr(without),
        parts.num_known,
        parts.num_nonfinite,
    )


def overlap_covariance(
    precision: ArrayLike, maps: ArrayLike, *, k: int, units: ArrayLike | None = None
) -> np.float64:
    """Covariance of a model's mean P@k with its `same`, which are of the same inputs.

    With it and the errors of both, the error of P@k⁺ is known without the inputs.
    By leaving out one of u inputs at a time (jackknife):

        (u−1)/u Σ_i (P_i − mean P)(same_i − mean same)

    Args:
      precision, maps, k, units: as of `corrected_precision`.

    Returns:
      The covariance; nan if fewer than three inputs have a ranking.

    Raises:
      ValueError: as `corrected_precision`.

    Example:
      >>> maps = jnp.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
      >>> print(round(float(overlap_covariance([0.5, 1.0, 0.5], maps, k=2)), 4))
      -0.0556
    """
    parts = _left_out(precision, maps, k, units)
    u = len(parts.overlaps)
    if u < 3:
        return np.float64(np.nan)
    first, second = (v - v.mean() for v in (parts.precisions, parts.overlaps))
    return (u - 1) / u * np.sum(first * second)


class _LeftOut(NamedTuple):
    """Mean P@k and `same`, and both without each of the inputs that enter either."""

    precision: np.float64
    overlap: np.float64
    precisions: np.ndarray
    overlaps: np.ndarray
    num_known: int
    num_nonfinite: int


def _left_out(
    precision: ArrayLike, maps: ArrayLike, k: int, units: ArrayLike | None
) -> _LeftOut:
    precision = np.asarray(precision, np.float64)
    overlap = _overlap(maps, k, units)
    units = as_units(units, len(np.asarray(maps)))
    if precision.shape != units.shape:
        raise ValueError(
            f"precision must have one value for each of the {len(units)} maps, got "
            f"shape {precision.shape}"
        )
    values = means_by_unit(precision, units)
    known = np.isfinite(values)
    count, total = known.sum(), values[known].sum()
    # Without one input each: inputs by number, all of them.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        rest = np.where(known, (total - values) / (count - 1), mean)
    same = np.full(len(values), overlap.mean)
    same[overlap.units] = overlap.without
    concerned = known.copy()
    concerned[overlap.units] = True
    return _LeftOut(
        mean,
        overlap.mean,
        rest[concerned],
        same[concerned],
        int(count),
        int(np.sum(~np.isfinite(precision))),
    )


@kept
def _members(k: int):
    """The top sets of maps, compiled: one program, not one for each operation."""

    def run(maps):
        return jax.vmap(lambda values: positive_top_k_mask(values, k=k))(maps)

    return jit(run, work="little")


class _Overlap(NamedTuple):
    """`same`, its error, and what it is without each of the units that have a map."""

    mean: np.float64
    stderr: np.float64
    units: np.ndarray
    without: np.ndarray
    num_unranked: int


def _overlap(maps: ArrayLike, k: int, units: ArrayLike | None) -> _Overlap:
    (maps,) = as_floats(maps)
    check_axes("maps", maps, "m, n")
    num_maps, num_features = maps.shape
    check_k(k, num_features)
    units = as_units(units, num_maps)

    members = np.asarray(_members(k)(maps), np.float64)
    sizes = members.sum(axis=1)
    ranked = sizes > 0
    labels, units = np.unique(units[ranked], return_inverse=True)
    members, sizes = members[ranked], sizes[ranked, None]
    u, num_unranked = len(labels), int(np.sum(~ranked))
    if u < 2:
        nan = np.float64(np.nan)
        return _Overlap(nan, nan, labels, np.full(u, nan), num_unranked)
    masks, shares = (means_by_unit(v, units) for v in (members, members / sizes))
    # Of a unit's set with the others', and of the others' sets with its own. Divided
    # last: equal sets have an overlap of exactly 1.
    others = (masks.sum(axis=0) - masks)[units]
    row = means_by_unit(np.sum(members * others, axis=1) / sizes[:, 0], units) / (u - 1)
    column = np.sum((shares.sum(axis=0) - shares) * masks, axis=1) / (u - 1)
    mean = np.mean(row)
    without = np.full(u, np.nan)
    if u > 2:
        without = (u * mean - row - column) / (u - 2)
    return _Overlap(mean, jackknife_stderr(without), labels, without, num_unranked)
