"""Raw text to typed columns, with errors that name the file, line and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """A raw data set as numbers, before it is split and standardised.

    Attributes:
      x: [m, n] float64; NaN in a numeric column is a missing value.
      y: [m] int32 labels 0 and 1.
      columns: n names.
      numeric: names of the columns to standardise; the others hold 0 and 1.
      groups: name of each one-hot group and its columns' names.
      immutable: names of the columns that a person cannot change.
      target: what y = 1 means.
      notes: choices of coding, by column.
    """

    x: np.ndarray
    y: np.ndarray
    columns: tuple[str, ...]
    numeric: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    immutable: tuple[str, ...]
    target: str
    notes: dict[str, str]


class Row(NamedTuple):
    """One record and the place it comes from."""

    place: str
    fields: dict[str, str]


def read_rows(
    content: bytes,
    file: str,
    *,
    needed: Sequence[str],
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    skip: Callable[[str], bool] = lambda line: False,
) -> list[Row]:
    """Parse delimited text into rows.

    Args:
      content: the raw bytes (UTF-8).
      file: the name used in messages.
      needed: names of the columns that are used.
      columns: names of all columns, where the file has no header line.
      delimiter: between fields.
      skip: tells from its first field whether a line is no record.

    Returns:
      The rows; blank lines are left out, spaces around fields stripped. Of columns
      that occur twice under one name the first is kept.

    Raises:
      ValueError: a needed column that is missing, a row with too few or too many
        fields, text that is not UTF-8, no rows.
    """
    try:
        reader = csv.reader(
            io.StringIO(content.decode("utf-8"), newline=""),
            delimiter=delimiter,
            skipinitialspace=True,
        )
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a readable text table ({error})") from error
    if columns is None:
        columns = [name.strip() for name in lines[0][1]] if lines else []
        lines = lines[1:]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"{file}: column {missing[0]!r} is missing, expected the columns "
            f"{', '.join(needed)}"
        )
    index = {name: columns.index(name) for name in needed}
    rows = []
    for number, fields in lines:
        if skip(fields[0]):
            continue
        place = f"{file}, line {number}"
        if len(fields) != len(columns):
            raise ValueError(
                f"{place}: got {len(fields)} fields, expected {len(columns)}"
            )
        rows.append(Row(place, {name: fields[i].strip() for name, i in index.items()}))
    if not rows:
        raise ValueError(f"{file} holds no rows")
    return rows


def numbers(
    rows: Sequence[Row], name: str, *, minimum: float | None = None
) -> np.ndarray:
    """Return a column [m] as float64; raise for what is no finite number."""
    values = np.empty(len(rows))
    for i, (place, fields) in enumerate(rows):
        values[i] = number(place, name, fields[name])
        if minimum is not None and values[i] < minimum:
            raise ValueError(
                f"{place}: {name} is {fields[name]}, expected at least {minimum}"
            )
    return values


def number(place: str, name: str, text: str) -> float:
    """Return a field as a finite float; raise with its place otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: {name} is {text!r}, expected a number")
    return value


def mapped(rows: Sequence[Row], name: str, mapping: Mapping[str, object]) -> np.ndarray:
    """Return a column [m] with each value replaced; raise for an unknown value."""
    values = []
    for place, fields in rows:
        if fields[name] not in mapping:
            raise ValueError(
                f"{place}: unknown {name} {fields[name]!r}; known: {', '.join(mapping)}"
            )
        values.append(mapping[fields[name]])
    return np.array(values)


def one_hot(
    group: str, levels: Sequence[str], values: np.ndarray
) -> dict[str, np.ndarray]:
    """Return a 0/1 column "<group>_<level>" for each level."""
    return {f"{group}_{level}": values == level for level in levels}


def build(
    *,
    numeric: dict[str, np.ndarray],
    binary: dict[str, np.ndarray],
    groups: dict[str, dict[str, np.ndarray]],
    y: np.ndarray,
    immutable: Sequence[str],
    target: str,
    notes: dict[str, str],
) -> Table:
    """Put columns together: numeric ones, binary ones, then the one-hot groups.

    `immutable` may name a group, which stands for all its columns.
    """
    columns = {**numeric, **binary}
    for group in groups.values():
        columns.update(group)
    frozen = [c for name in immutable for c in groups.get(name, {name: None})]
    return Table(
        x=np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1),
        y=np.asarray(y, np.int32),
        columns=tuple(columns),
        numeric=tuple(numeric),
        groups={name: tuple(group) for name, group in groups.items()},
        immutable=tuple(frozen),
        target=target,
        notes=notes,
    )
