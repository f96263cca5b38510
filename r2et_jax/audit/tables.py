"""Inputs from files: a CSV with a header, or arrays in an .npz."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r2et_jax import datasets
from r2et_jax.audit.asked import variable_name
from r2et_jax.datasets import frames, npz
from r2et_jax.datasets.tabular import load_npz


class Table(NamedTuple):
    """Inputs and what their columns are called.

    Attributes:
      x: inputs [m, ...].
      names: of the columns, or None.
      groups: one-hot groups of columns.
      classes: names of the classes, or None.
    """

    x: np.ndarray
    names: tuple[str, ...] | None
    groups: tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] | None = None

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """Name -> columns of x, of each column and of each category as a whole."""
        names = self.names or ()
        columns = {name: (i,) for i, name in enumerate(names)}
        groups = {variable_name([names[i] for i in g]): g for g in self.groups}
        return {**groups, **columns}


def read(
    path: str | os.PathLike[str],
    *,
    drop: Collection[str] = (),
    categories: Collection[str] = (),
    label: str | None = None,
) -> Table:
    """Inputs of a CSV or .npz file.

    A CSV has a header; columns of texts become one-hot groups as by
    `datasets.from_csv`, of the levels that are in the file. An .npz holds "x" [m, ...]
    and, if it has them, "names"; of a prepared data set the test part is taken, with
    its groups.

    Args:
      path: ends in .csv or .npz.
      drop: columns of a CSV that are no inputs.
      categories: columns of numbers of a CSV that are categories.
      label: column of the labels of a CSV, which is then read as
        `datasets.from_csv(path, target=label)` does: of its standardised and split
        rows the test part is taken. None takes all rows, with numbers as they stand.

    Returns:
      `Table`.

    Raises:
      ValueError: for a file that is not there or of another kind, a column that is
        missing or there twice, and what `datasets.from_csv` says of values, by row
        (counted from 0, as the inputs of the page) and column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data must be a file, got {str(path)!r}")
    if path.suffix == ".csv":
        if label is None:
            return _as_they_stand(path, drop, categories)
        return _prepared(
            datasets.from_csv(path, target=label, drop=drop, categories=categories)
        )
    if path.suffix != ".npz":
        raise ValueError(f"data must be a .csv or .npz file, got {str(path)!r}")
    asked = {"drop": list(drop), "categories": list(categories), "label": label}
    for name, value in asked.items():
        if value:
            raise ValueError(f"{name} is of columns of a CSV alone, got {value!r}")
    if npz.holds(path, "meta"):
        return _prepared(load_npz(path))
    arrays = npz.read_arrays(path, ("x",), optional=("names",))
    names = arrays.get("names")
    return Table(arrays["x"], None if names is None else tuple(map(str, names)))


def _prepared(data: datasets.Dataset) -> Table:
    classes = data.meta.get("classes")
    return Table(
        data.test.x,
        data.columns,
        data.groups,
        None if classes is None else tuple(map(str, classes)),
    )


def _as_they_stand(
    path: Path, drop: Collection[str], categories: Collection[str]
) -> Table:
    columns = frames.read_columns(path, drop=drop, categories=categories)
    for what, names in (("drop", drop), ("categories", categories)):
        frames.check_columns(str(path), what, names, columns)
    features = frames.plain(str(path), columns, leave=drop)
    if not features:
        raise ValueError(f"{path}: expected a column of inputs, all are dropped")
    coded = frames.code(str(path), features, categories)
    return Table(coded.x, tuple(coded.names), tuple(coded.groups))
