"""Seeded, stratified splits into training, validation and test rows."""

from __future__ import annotations

import math

import numpy as np

FRACTIONS = (0.7, 0.15, 0.15)


def stratified_split(
    y: np.ndarray,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split rows at random with the same share of every class in each split.

    The indices are shuffled inside each split, so that the first rows of a split are
    a fair sample of it even where the raw file is sorted (Bank is sorted by date).

    Args:
      y: [m] class labels, at least three rows of each class.
      seed: of the shuffle, 0 … 2³² − 1.
      fractions: shares of training, validation and test rows, positive, sum 1.

    Returns:
      Three arrays of row indices (int64), disjoint, that cover 0…m−1.

    Raises:
      ValueError: fractions that are not positive or do not sum to 1; a class too
        rare to stand in every split.
      ImportError: scikit-learn is not installed.

    Example:
      >>> train, valid, test = stratified_split(np.array([0, 1] * 50))
      >>> len(train), len(valid), len(test)
      (70, 15, 15)
    """
    if (
        len(fractions) != 3
        or not all(f > 0 for f in fractions)
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            "fractions must be three positive shares (train, valid, test) that sum to "
            f"1, got {fractions}"
        )
    y = np.asarray(y)
    classes, counts = np.unique(y, return_counts=True)
    if counts.size == 0 or counts.min() < 3:
        rare = "no rows"
        if counts.size:
            rare = f"{counts.min()} of class {classes[counts.argmin()]}"
        raise ValueError(
            f"y must have at least three rows of every class to split, got {rare}"
        )
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "stratified_split needs scikit-learn: install it, for instance with "
            "pip install scikit-learn"
        ) from error
    _, valid_share, test_share = fractions
    try:
        train, held_out = train_test_split(
            np.arange(y.size),
            test_size=valid_share + test_share,
            stratify=y,
            random_state=seed,
        )
        valid, test = train_test_split(
            held_out,
            test_size=test_share / (valid_share + test_share),
            stratify=y[held_out],
            random_state=seed,
        )
    except ValueError as error:
        raise ValueError(
            f"cannot stratify {y.size} rows, {counts.min()} of the rarest class, into "
            f"shares {fractions}; expected more rows ({error})"
        ) from error
    return train, valid, test
