"""Tabular data sets from prepared .npz files and from a user's own arrays."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2et_jax.checks import as_path, feature_indices
from r2et_jax.datasets.arrays import check_shape, float32, integers, real_numbers, texts
from r2et_jax.datasets.containers import (
    SPLITS,
    Dataset,
    Split,
    check_finite,
    check_labels,
    check_rows,
    validate,
)
from r2et_jax.datasets.npz import read_arrays, read_meta, write_arrays
from r2et_jax.datasets.splitting import FRACTIONS, split_apart
from r2et_jax.files import replacing

FORMAT_VERSION = 2  # 2: equal rows stand in one part
_KEYS = (
    "x", "y", *SPLITS, "columns", "groups", "immutable", "lower", "upper", "meta",
)  # fmt: skip


def load_npz(path: str | Path) -> Dataset:
    """Read a data set that `python -m data_prep.tabular` has written.

    The file holds x [m, n], y [m], the row indices train, valid and test, columns
    [n], groups [n] (the number of a column's one-hot group, −1 outside of any),
    immutable (column indices), lower and upper [n], and meta (one JSON string). No
    pickle is read.

    Args:
      path: the .npz file.

    Returns:
      A validated `Dataset`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a prepared file, another format version, or unsound content
        (see `validate`).

    Example:
      >>> data = load_npz("data/adult.npz")  # doctest: +SKIP
      >>> data.train.x.shape[1]  # doctest: +SKIP
      28
    """
    path = Path(path)
    arrays = read_arrays(path, _KEYS)
    meta = read_meta(path, arrays, FORMAT_VERSION)
    where = str(path)
    check_shape(where, "x", arrays["x"], ("m", "n"))
    m, n = arrays["x"].shape
    shapes = {"y": (m,), "columns": (n,), "groups": (n,), "immutable": ("columns",),
              "lower": (n,), "upper": (n,)}  # fmt: skip
    for field, shape in shapes.items():
        check_shape(where, field, arrays[field], shape)
    check_rows(where, arrays, m)
    x = float32(where, "x", arrays["x"])
    y = integers(where, "y", arrays["y"], low=0, high=m - 1).astype(np.int32)
    group_of = integers(where, "groups", arrays["groups"], low=-1, high=n - 1)
    immutable = integers(where, "immutable", arrays["immutable"], low=0, high=n - 1)
    dataset = Dataset(
        name=meta["name"],
        **{name: Split(x[arrays[name]], y[arrays[name]]) for name in SPLITS},
        columns=texts(where, "columns", arrays["columns"]),
        groups=tuple(
            tuple(np.flatnonzero(group_of == group).tolist())
            for group in np.unique(group_of[group_of >= 0])
        ),
        immutable=tuple(immutable.tolist()),
        lower=float32(where, "lower", arrays["lower"], infinite=True),
        upper=float32(where, "upper", arrays["upper"], infinite=True),
        meta=meta,
    )
    validate(dataset)
    return dataset


def save_npz(path: str | Path, dataset: Dataset) -> None:
    """Write a data set so that `load` reads it: the whole file or none.

    The experiments take the file by its path, `--datasets=path/to/mine.npz`.

    Args:
      path: the .npz file; one that is there is replaced.
      dataset: the data set, as of `from_arrays`, `from_frame` or `from_csv`.

    Returns:
      None.

    Raises:
      ValueError: what is no data set or an unsound one, or a path that does not end in
        .npz.

    Example:
      >>> import tempfile
      >>> from r2et_jax.datasets import breast_cancer, load
      >>> folder, mine = tempfile.mkdtemp(), breast_cancer()._replace(name="mine")
      >>> save_npz(f"{folder}/mine.npz", mine)
      >>> load("mine", data_dir=folder).test.x.shape
      (86, 30)
    """
    path = as_path("path", path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {str(path)!r}")
    if not isinstance(dataset, Dataset):
        raise ValueError(f"dataset must be a Dataset, got a {type(dataset).__name__}")
    validate(dataset)
    splits = [getattr(dataset, name) for name in SPLITS]
    ends = np.cumsum([len(split.y) for split in splits])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    group_of = np.full(len(dataset.columns), -1, np.int32)
    for number, group in enumerate(dataset.groups):
        group_of[list(group)] = number
    meta = {**dataset.meta, "name": dataset.name, "format_version": FORMAT_VERSION}
    arrays = {
        "x": np.concatenate([split.x for split in splits]),
        "y": np.concatenate([split.y for split in splits]),
        **dict(zip(SPLITS, rows, strict=True)),
        "columns": np.array(dataset.columns, str),
        "groups": group_of,
        "immutable": np.array(dataset.immutable, np.int32),
        "lower": dataset.lower,
        "upper": dataset.upper,
        "meta": np.array(json.dumps(meta)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        write_arrays(partial, arrays)
        load_npz(partial)


def from_arrays(
    x: np.ndarray,
    y: np.ndarray,
    /,
    *,
    name: str,
    columns: Sequence[str] | None = None,
    groups: Sequence[Sequence[int]] = (),
    immutable: Sequence[int] = (),
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    standardize: bool = True,
) -> Dataset:
    """Split and standardise a user's own arrays.

    x ← (x − mean) / std with mean and std of the training split. Columns that hold
    only 0 and 1 and columns of one-hot groups are left as they are, with the box
    [0, 1]. A column that is constant over the training split is only centred. Rows
    that are equal after that stay in one split, so that no test row stands in the
    training split as well.

    Args:
      x: [m, n] finite numbers, in the user's units.
      y: [m] class indices 0…C−1.
      name: of the data set, for records.
      columns: n names; x0, x1, … by default.
      groups: complete one-hot groups, each one column indices or a boolean mask [n].
      immutable: columns that a person cannot change: indices, or a boolean mask [n].
      lower: [n] least legal values in the user's units; None for no bound.
      upper: [n] largest legal values in the user's units; None for no bound.
      seed: of the split.
      fractions: shares of training, validation and test rows.
      standardize: False leaves every column in the user's units.

    Returns:
      A validated `Dataset`; `meta` holds mean and std, and in "copies" how many rows
      equal another one (see `split_apart`).

    Warns:
      UserWarning: some rows equal another one; tells how many.

    Raises:
      ValueError: NaN or infinity (row and column named), numbers that are complex,
        masked or beyond float32, wrong shapes, labels, groups or box, classes too rare
        to split.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> x, y = rng.normal(size=(100, 3)), np.arange(100) % 2
      >>> dataset = from_arrays(x, y, name="own")
      >>> dataset.train.x.shape
      (70, 3)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text, got {name!r}")
    x, y = real_numbers(name, "x", x), np.asanyarray(y)
    if x.ndim != 2 or y.shape != (x.shape[0],):
        raise ValueError(
            f"{name}: x must have shape [m, n] and y [m], got {x.shape} and {y.shape}"
        )
    n = x.shape[1]
    columns = tuple(f"x{i}" for i in range(n)) if columns is None else tuple(columns)
    if len(columns) != n:
        raise ValueError(f"{name}: expected {n} column names, got {len(columns)}")
    check_finite(x, columns, f"{name}:")
    if y.dtype == bool:
        y = y.astype(np.int32)
    check_labels(y, name)
    y = np.asarray(y)
    binary = ((x == 0) | (x == 1)).all(axis=0)
    lower = _bound(name, "lower", lower, np.where(binary, 0.0, -np.inf))
    upper = _bound(name, "upper", upper, np.where(binary, 1.0, np.inf))
    numeric = ~binary if standardize else np.zeros(n, bool)

    def scale(train: np.ndarray) -> tuple[np.ndarray, ...]:
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(numeric, x[train].mean(axis=0), 0.0)
            std = np.where(numeric, x[train].std(axis=0), 1.0)
        beyond = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(std)))
        if beyond.size:
            raise ValueError(
                f"{name}: column {columns[beyond[0]]!r} is too large to standardise, "
                f"its values reach {np.abs(x[:, beyond[0]]).max():g}: give it in "
                "another unit"
            )
        # A constant column's std is 0 or a rounding error of its mean.
        std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)
        return float32(name, "x", (x - mean) / std), mean, std

    indices, (scaled, mean, std), copies = split_apart(
        x, y, scale, seed=seed, fractions=fractions
    )
    if copies["rows"]:
        warnings.warn(f"{name}: {copies_in_words(copies, y.size)}", stacklevel=2)
    rows = dict(zip(SPLITS, indices, strict=True))
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        lower, upper = (((b - mean) / std).astype(np.float32) for b in (lower, upper))
    dataset = Dataset(
        name=name,
        **{s: Split(scaled[rows[s]], y[rows[s]].astype(np.int32)) for s in SPLITS},
        columns=columns,
        groups=tuple(
            feature_indices(f"{name}: groups[{i}]", group, n)
            for i, group in enumerate(groups)
        ),
        immutable=feature_indices(f"{name}: immutable", immutable, n),
        lower=lower,
        upper=upper,
        meta={
            "name": name,
            "seed": seed,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "copies": copies,
        },
    )
    validate(dataset)
    return dataset


def copies_in_words(copies: dict[str, int], rows: int) -> str:
    """Say how many of a table's rows equal another one, from `meta["copies"]`."""
    return (
        f"{copies['rows']} of {rows} rows equal another row after coding "
        f"({copies['groups']} distinct ones; {copies['rows_labels_differ']} rows have "
        "a copy with another label); copies stay in one split"
    )


def _bound(name, bound_name, bound, default):
    if bound is None:
        return default
    bound = real_numbers(name, bound_name, bound)
    if bound.shape != default.shape:
        raise ValueError(
            f"{name}: {bound_name} must have shape {default.shape}, one value for each "
            f"column, got {bound.shape}"
        )
    return bound
