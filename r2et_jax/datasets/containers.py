"""What a prepared tabular data set is, and the checks that it is sound."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "valid", "test")
_RECODE = (
    "give class numbers: np.unique(y, return_inverse=True) returns the classes in "
    "order and, as its second value, their numbers"
)
_BOX_SLACK = 1e-5  # rounding of float32 values at the border of the box


class Split(NamedTuple):
    """One split: inputs x [m, n] (float32) and class indices y [m] (int32)."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A tabular data set in three splits, with what is known of its columns.

    Attributes:
      name: the name under which results are recorded.
      train: the training `Split`; standardisation is fitted on it alone.
      valid: the validation `Split`.
      test: the test `Split`.
      columns: n distinct column names.
      groups: complete one-hot groups, as column indices: in every row one column of
        a group is 1 and the others are 0.
      immutable: indices of the columns that a person cannot change.
      lower: [n] least legal values, in the units of x; −inf where there is none.
      upper: [n] largest legal values, in the units of x; inf where there is none.
      meta: licence, source, checksums, target, and `mean` and `std`, lists of n
        numbers that give raw values back: x · std + mean (0 and 1 where a column
        is not standardised). `copies`, where rows were split at random: how many
        equal another row after coding, and so were kept in one split (see
        `split_apart`).
    """

    name: str
    train: Split
    valid: Split
    test: Split
    columns: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    immutable: tuple[int, ...]
    lower: np.ndarray
    upper: np.ndarray
    meta: dict[str, Any]


def validate(dataset: Dataset) -> None:
    """Raise unless a data set is sound.

    Checked: shapes, column names, groups (known, disjoint, one-hot in every row),
    immutable columns, the box, finite inputs inside the box, labels 0…C−1, no empty
    split, at least two classes in every split.

    Args:
      dataset: the `Dataset` to check.

    Returns:
      None.

    Raises:
      ValueError: names the data set, the split, the row and the column of the first
        fault, with the value received and what was expected.

    Example:
      >>> from r2et_jax.datasets import breast_cancer
      >>> validate(breast_cancer())
    """
    _check_columns(dataset)
    for split_name in SPLITS:
        split = getattr(dataset, split_name)
        _check_split(dataset, split_name, split)
    known = set(dataset.train.y.tolist())
    for split_name in SPLITS[1:]:
        unseen = sorted(set(getattr(dataset, split_name).y.tolist()) - known)
        if unseen:
            raise ValueError(
                f"{dataset.name}: {split_name} has class {unseen[0]}, which no "
                f"training row has; expected classes {sorted(known)}"
            )


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 (64 hex digits) over the arrays, column names, groups and box.

    Two data sets share it if and only if an experiment cannot tell them apart; the
    name and `meta` do not enter.

    Args:
      dataset: a `Dataset`.

    Returns:
      The hexadecimal digest.

    Example:
      >>> from r2et_jax.datasets import breast_cancer
      >>> len(fingerprint(breast_cancer()))
      64
    """
    digest = hashlib.sha256()
    for split_name in SPLITS:
        for array in getattr(dataset, split_name):
            _update(digest, array)
    _update(digest, dataset.lower)
    _update(digest, dataset.upper)
    known = (dataset.columns, dataset.groups, dataset.immutable)
    digest.update(repr(known).encode())
    return digest.hexdigest()


def _update(digest: Any, array: np.ndarray) -> None:
    # Little-endian bytes with dtype and shape, so that the digest is the same on
    # every machine and no two layouts of the same bytes collide.
    array = np.ascontiguousarray(array)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())


def _check_columns(dataset: Dataset) -> None:
    name, n = dataset.name, len(dataset.columns)
    counts = Counter(dataset.columns)
    for column, count in counts.items():
        if count > 1:
            raise ValueError(f"{name}: column names must differ, got {column!r} twice")
    seen: set[int] = set()
    for group in dataset.groups:
        if len(group) < 2:
            raise ValueError(
                f"{name}: a group must have at least two columns, got {group}"
            )
        for index in group:
            if not _is_index(index, n):
                raise ValueError(
                    f"{name}: unknown column {index} in group {group}, expected "
                    f"indices 0…{n - 1}"
                )
            if index in seen:
                raise ValueError(
                    f"{name}: groups must be disjoint, got column {index} "
                    f"({dataset.columns[index]!r}) twice"
                )
            seen.add(index)
    for index in dataset.immutable:
        if not _is_index(index, n):
            raise ValueError(
                f"{name}: unknown immutable column {index}, expected indices 0…{n - 1}"
            )
    for bound_name in ("lower", "upper"):
        bound = getattr(dataset, bound_name)
        if bound.shape != (n,):
            raise ValueError(
                f"{name}: {bound_name} must have shape ({n},), one value for each "
                f"column, got {bound.shape}"
            )
    wrong = np.flatnonzero(~(dataset.lower <= dataset.upper))
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(
            f"{name}: lower must be at most upper, got {dataset.lower[i]} and "
            f"{dataset.upper[i]} for column {dataset.columns[i]!r}"
        )


def _is_index(index: Any, n: int) -> bool:
    whole = hasattr(index, "__index__") and not isinstance(index, bool | np.bool_)
    return whole and 0 <= index < n


def _check_split(dataset: Dataset, split_name: str, split: Split) -> None:
    where, n = f"{dataset.name}: {split_name}", len(dataset.columns)
    x, y = split
    if x.ndim != 2 or x.shape[1] != n or y.shape != (x.shape[0],):
        raise ValueError(
            f"{where}: x must have shape [m, {n}] and y [m], got {x.shape} and "
            f"{y.shape}"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{where} split is empty, expected at least two rows")
    check_finite(x, dataset.columns, where)
    # A small held-out split may lack a rare class; the training split may not.
    check_labels(y, where, complete=split_name == "train")
    outside = (x < dataset.lower - _BOX_SLACK) | (x > dataset.upper + _BOX_SLACK)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"{where} row {row}, column {dataset.columns[column]!r}: {x[row, column]} "
            f"is outside the box [{dataset.lower[column]}, {dataset.upper[column]}]"
        )
    for group in dataset.groups:
        levels = x[:, group]
        one_hot = ((levels == 0) | (levels == 1)).all(1) & (levels.sum(1) == 1)
        if not one_hot.all():
            row = int(np.argmin(one_hot))
            names = ", ".join(dataset.columns[i] for i in group)
            raise ValueError(
                f"{where} row {row}: the group ({names}) must be one-hot, got "
                f"{levels[row].tolist()}"
            )


def check_finite(x: np.ndarray, columns: tuple[str, ...], where: str) -> None:
    """Raise if x [m, n] holds NaN or infinity, naming the first row and column."""
    finite = np.isfinite(x)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{where} row {row}, column {columns[column]!r}: got {x[row, column]}, "
            "expected a finite number"
        )


def check_labels(y: np.ndarray, where: str, *, complete: bool = True) -> None:
    """Raise unless y [m] holds two class indices or more; complete: none skipped.

    Labels are not recoded, since a recoding that nobody sees turns a class around: the
    message tells how to.
    """
    if np.ma.is_masked(y):
        raise ValueError(f"{where}: y has masked values, expected a label in each row")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{where}: y must hold integers 0…C−1, got dtype {y.dtype}{_example(y)}; "
            f"{_RECODE}"
        )
    classes = np.unique(y)
    if classes.size < 2:
        raise ValueError(
            f"{where}: labels must have at least two classes, got only "
            f"{classes.tolist()} in {y.size} rows"
        )
    if classes[0] < 0:
        raise ValueError(
            f"{where}: labels must be 0…C−1, got {_listed(classes)}; {_RECODE}"
        )
    # Compared place by place, as a set of all classes below a large label has no end.
    skipped = np.flatnonzero(classes != np.arange(classes.size, dtype=classes.dtype))
    if complete and skipped.size:
        raise ValueError(
            f"{where}: labels must be 0…C−1, got no row of class {skipped[0]} below "
            f"class {classes[-1]}; {_RECODE}"
        )
    if classes[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"{where}: labels must be 0…C−1, got {classes[-1]} in {y.size} rows"
        )


def check_rows(where: str, arrays: Mapping[str, np.ndarray], rows: int) -> None:
    """Raise unless the arrays named as the splits hold each row number once."""
    for name in SPLITS:
        index = arrays[name]
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(
                f"{where}: {name} must hold row numbers in one row, got {index.dtype} "
                f"of shape {index.shape}"
            )
    index = np.concatenate([arrays[name] for name in SPLITS])
    if not np.array_equal(np.sort(index), np.arange(rows)):
        raise ValueError(
            f"{where}: train, valid and test must hold each of the rows "
            f"0…{rows - 1} once, got {index.size} indices"
        )


def _listed(classes: np.ndarray) -> str:
    shown = ", ".join(map(str, classes[:8].tolist()))
    return f"[{shown}{', …' * (classes.size > 8)}]"


def _example(y: np.ndarray) -> str:
    """One label that is none: the first NaN or fraction, else the first of all."""
    if y.size == 0:
        return ""
    first = 0
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(~(y == np.rint(y)))
        first = wrong[0] if wrong.size else 0
    return f", such as {y.flat[first]!s:.40} in row {first}"
