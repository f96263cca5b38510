"""The one rule by which every method's checkpoint is chosen, on validation data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from r2et_jax.checks import check_nonnegative


class Choice(NamedTuple):
    """The checkpoint that the rule chose.

    Attributes:
      index: position among the candidates, or None if none was admissible.
      auc: its validation AUC, or NaN.
      precision: its validation P@k under the selection attack, or NaN.
      num_admissible: candidates within the tolerance.
    """

    index: int | None
    auc: float
    precision: float
    num_admissible: int


def admissible(
    auc: np.ndarray, *, reference_auc: float, tolerance: float
) -> np.ndarray:
    """Candidates with a validation AUC of at least the reference's − tolerance.

    Args:
      auc: validation AUC of every candidate [c]; NaN is never admissible.
      reference_auc: the vanilla model's.
      tolerance: AUC that may be given up, at least 0.

    Returns:
      Boolean mask [c].
    """
    check_nonnegative("tolerance", tolerance)
    with np.errstate(invalid="ignore"):
        return np.asarray(auc) >= reference_auc - tolerance


def select(
    auc: np.ndarray,
    precision: np.ndarray,
    *,
    reference_auc: float,
    tolerance: float,
) -> Choice:
    """Among the admissible candidates, the one with the highest validation P@k.

    Candidates are all epochs and penalty weights of one method and seed. Of equal
    ones the higher AUC wins, then the first.

    Args:
      auc: validation AUC of every candidate [c].
      precision: validation P@k under one fixed attack [c]; NaN (not measured) never
        wins.
      reference_auc, tolerance: as in `admissible`.

    Returns:
      `Choice`; without an admissible candidate its index is None, and the caller
      falls back to the vanilla model.

    Example:
      >>> auc, precision = np.array([0.9, 0.8, 0.895]), np.array([0.5, 0.9, 0.6])
      >>> select(auc, precision, reference_auc=0.9, tolerance=0.01).index
      2
    """
    auc, precision = np.asarray(auc, float), np.asarray(precision, float)
    mask = admissible(auc, reference_auc=reference_auc, tolerance=tolerance)
    usable = mask & ~np.isnan(precision)
    if not usable.any():
        return Choice(None, float("nan"), float("nan"), int(mask.sum()))
    order = np.lexsort(
        (np.where(usable, auc, -np.inf), np.where(usable, precision, -1))
    )
    best = order[-1]
    first = int(
        np.flatnonzero(usable & (precision == precision[best]) & (auc == auc[best]))[0]
    )
    return Choice(first, float(auc[first]), float(precision[first]), int(mask.sum()))
