"""Seeded, stratified splits that keep equal rows in one part."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

FRACTIONS = (0.7, 0.15, 0.15)


def stratified_split(
    y: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split rows at random with the same share of every class in each split.

    Rows of one group stay in one split, whatever their labels. The large groups are
    drawn first, each to a split with a probability in proportion to what the split
    still lacks of the group's classes; rows without another in their group then fill
    up every class. So the shares are met to a row or two where single rows are many,
    and to about a group's size where there are none. The indices are shuffled inside
    each split, so that the first rows of a split are a fair sample of it even where
    the raw file is sorted (Bank is sorted by date).

    Args:
      y: [m] class labels, at least three rows of each class.
      groups: [m] integers, equal for rows that must stay together (`equal_rows`);
        None where every row stands for itself.
      seed: of the shuffle, 0 … 2³² − 1.
      fractions: shares of training, validation and test rows, positive, sum 1.

    Returns:
      Three arrays of row indices (int64), disjoint, that cover 0…m−1.

    Raises:
      ValueError: fractions that are not positive or do not sum to 1; groups of
        another shape; a class too rare, or in too few groups, to stand in every
        split.
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
    if groups is not None:
        sizes = np.bincount(_numbered(groups, y))
        if sizes.max() > 1:
            return _split_groups(y, groups, seed, fractions)
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


def equal_rows(x: np.ndarray) -> np.ndarray:
    """Number the distinct rows of a table: [m], equal where rows are equal.

    Args:
      x: [m, n] numbers; a missing value (NaN) equals another one, −0 equals 0.

    Returns:
      [m] int64, counted from 0 in the order in which distinct rows first appear.

    Example:
      >>> equal_rows(np.array([[1.0, 2.0], [0.0, 2.0], [1.0, 2.0]])).tolist()
      [0, 1, 0]
    """
    x = np.ascontiguousarray(x)
    if np.issubdtype(x.dtype, np.floating):
        # One bit pattern for each value, since rows are compared as bytes.
        x = np.where(np.isnan(x), x.dtype.type(np.nan), x + x.dtype.type(0))
    if x.size == 0:
        return np.zeros(x.shape[0], np.int64)
    rows = x.view(np.dtype((np.void, x.dtype.itemsize * x.shape[1])))[:, 0]
    return _by_appearance(rows)


def split_apart(
    x: np.ndarray,
    y: np.ndarray,
    code: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], dict[str, int]]:
    """Split a table so that rows that are equal after coding stay in one part.

    The coding (filling, scaling, rounding to float32) is fitted on the training rows
    and may make further rows equal. Rows that it makes equal are joined and split
    again until it makes no others equal; groups only grow, so that this ends.

    Args:
      x: [m, n] the table before its coding.
      y: [m] class labels.
      code: maps training rows [t] to the coded table [m, n] and whatever else it
        has fitted.
      seed, fractions: as for `stratified_split`.

    Returns:
      The three arrays of rows, what `code` has returned for the training rows, and
      the counts of copies: "rows" that equal another row after coding, "groups" of
      such rows, and "rows_labels_differ", those of them in groups with more than
      one label.

    Raises:
      ValueError: as `stratified_split`.

    Example:
      >>> x, y = np.repeat(np.arange(50.0), 2)[:, None], np.arange(100) // 2 % 2
      >>> _, _, copies = split_apart(x, y, lambda train: (x,))
      >>> copies["rows"], copies["groups"]
      (100, 50)
    """
    groups = equal_rows(x)
    while True:
        splits = stratified_split(y, groups=groups, seed=seed, fractions=fractions)
        coded = code(splits[0])
        equal = equal_rows(coded[0])
        joined = _joined(groups, equal)
        if joined.max() == groups.max():
            return splits, coded, _count(equal, np.asarray(y))
        groups = joined


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number rows [m] so that those with one number in a, or in b, share one."""
    lowest = a
    while True:
        before = lowest
        for labels in (b, a):
            least = np.full(labels.max() + 1, a.max() + 1)
            np.minimum.at(least, labels, lowest)
            lowest = least[labels]
        if np.array_equal(lowest, before):
            return _by_appearance(lowest)


def _by_appearance(values: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _numbered(groups: np.ndarray, y: np.ndarray) -> np.ndarray:
    groups = np.asarray(groups)
    if groups.shape != y.shape:
        raise ValueError(
            f"groups must have the shape of y, {y.shape}, got {groups.shape}"
        )
    return _by_appearance(groups)


def _count(equal: np.ndarray, y: np.ndarray) -> dict[str, int]:
    sizes = np.bincount(equal)
    _, classes = np.unique(y, return_inverse=True)
    pairs = np.unique(np.stack([equal, classes]), axis=1)
    mixed = np.bincount(pairs[0]) > 1
    return {
        "rows": int(sizes[sizes > 1].sum()),
        "groups": int((sizes > 1).sum()),
        "rows_labels_differ": int(sizes[mixed].sum()),
    }


def _split_groups(y, groups, seed, fractions):
    groups = _numbered(groups, y)
    classes, labels = np.unique(y, return_inverse=True)
    members = np.zeros((groups.max() + 1, classes.size))
    np.add.at(members, (groups, labels), 1)
    rng = np.random.default_rng(seed)
    lacking = np.outer(fractions, members.sum(axis=0))  # [3, C] rows
    part = np.full(len(members), -1)
    several = rng.permutation(np.flatnonzero(members.sum(axis=1) > 1))
    order = np.argsort(-members[several].sum(axis=1), kind="stable")
    for group, draw in zip(several[order], rng.random(several.size), strict=True):
        part[group] = _draw(lacking, members[group], draw)
        lacking[part[group]] -= members[group]
    for c in range(classes.size):
        alone = np.flatnonzero((members[:, c] == 1) & (members.sum(axis=1) == 1))
        if alone.size:
            filled = _shared_out(alone.size, lacking[:, c])
            part[rng.permutation(alone)] = np.repeat(np.arange(3), filled)
    splits = tuple(rng.permutation(np.flatnonzero(part[groups] == i)) for i in range(3))
    for split in splits:
        absent = np.flatnonzero(np.bincount(labels[split], minlength=classes.size) == 0)
        if absent.size:
            c = absent[0]
            raise ValueError(
                f"cannot stratify {y.size} rows, {np.count_nonzero(members[:, c])} "
                f"distinct ones with class {classes[c]}, into shares {fractions}; "
                "expected more distinct rows"
            )
    return splits


def _draw(lacking: np.ndarray, members: np.ndarray, draw: float) -> int:
    """Choose the split of a group from a number in [0, 1)."""
    # How many such groups a split still has room for, by its tightest class.
    room = (lacking[:, members > 0] / members[members > 0]).min(axis=1)
    weight = np.where(room >= 0.5, room, 0.0)
    if not weight.any():
        return int(room.argmax())
    reached = np.cumsum(weight)
    return int(np.searchsorted(reached / reached[-1], draw, side="right"))


def _shared_out(rows: int, lacking: np.ndarray) -> np.ndarray:
    """Share single rows out [3] by what each split lacks, by largest remainders."""
    exact = np.maximum(lacking, 0)
    exact = exact * rows / exact.sum()
    share = np.floor(exact).astype(int)
    most = np.argsort(share - exact, kind="stable")[: rows - share.sum()]
    share[most] += 1
    return share
