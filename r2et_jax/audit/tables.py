"""Inputs from files: a CSV with a header, or arrays in an .npz."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r2et_jax.datasets import frames, npz
from r2et_jax.datasets.tabular import load_npz


class Table(NamedTuple):
    """Inputs and what their columns are called.

    Attributes:
      x: inputs [m, ...].
      names: of the columns, or None.
      groups: one-hot groups of columns.
    """

    x: np.ndarray
    names: tuple[str, ...] | None
    groups: tuple[tuple[int, ...], ...] = ()


def read(path: str | os.PathLike[str], *, drop: Collection[str] = ()) -> Table:
    """Inputs of a CSV or .npz file.

    A CSV has a header, and numbers below it. An .npz holds "x" [m, ...] and, if it
    has them, "names"; of a prepared data set the test part is taken, with its groups.

    Args:
      path: ends in .csv or .npz.
      drop: columns of a CSV that are no inputs, such as the label.

    Returns:
      `Table`.

    Raises:
      ValueError: for a file that is not there or of another kind, a column that is
        missing or there twice, a value that is missing or no number, by row (counted
        from 0, as the inputs of the page) and column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data must be a file, got {str(path)!r}")
    if path.suffix == ".csv":
        return _from_csv(path, drop)
    if path.suffix != ".npz":
        raise ValueError(f"data must be a .csv or .npz file, got {str(path)!r}")
    if drop:
        raise ValueError(f"columns are dropped of a CSV alone, got {list(drop)}")
    if npz.holds(path, "meta"):
        prepared = load_npz(path)
        return Table(prepared.test.x, prepared.columns, prepared.groups)
    arrays = npz.read_arrays(path, ("x",), optional=("names",))
    names = arrays.get("names")
    return Table(arrays["x"], None if names is None else tuple(map(str, names)))


def _from_csv(path: Path, drop: Collection[str]) -> Table:
    header, lines = frames.read_lines(path)
    unknown = [name for name in drop if name not in header]
    if unknown:
        raise ValueError(
            f"{path}: there is no column {unknown[0]!r} to drop; its columns: "
            f"{', '.join(header)}"
        )
    kept = [i for i, name in enumerate(header) if name not in set(drop)]
    x = np.empty((len(lines), len(kept)))
    for row, line in enumerate(lines):
        for place, column in enumerate(kept):
            x[row, place] = _value(line[column], path, row, header[column])
    return Table(x, tuple(header[i] for i in kept))


def _value(text: str, path: Path, row: int, column: str) -> float:
    where = f"{path}: row {row}, column {column!r}"
    if text.strip().lower() in frames.MISSING:
        raise ValueError(f"{where} is missing ({text!r}): fill it or leave the row out")
    number = frames.number(text)
    if number is None:
        raise ValueError(
            f"{where} must be a number, got {text!r}: code categories, as one-hot "
            "columns, or drop the column"
        )
    if not np.isfinite(number):
        raise ValueError(f"{where} must be finite, got {text!r}")
    return number
