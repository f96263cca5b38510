"""Tables with named columns, as of pandas or of a CSV file, as data sets."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r2et_jax.checks import as_path
from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.splitting import FRACTIONS
from r2et_jax.datasets.tabular import from_arrays

# What stands in a CSV file for a value that is not there.
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
# A category of more levels is most likely a name, a date or a misspelt number.
_MOST_LEVELS = 50


class Coded(NamedTuple):
    """A table in numbers.

    Attributes:
      x: [m, n], float64.
      names: of the n columns, "colour=red" for a level.
      groups: of the columns of one category.
      places: column of the table -> its columns of x.
    """

    x: np.ndarray
    names: list[str]
    groups: list[tuple[int, ...]]
    places: dict[str, tuple[int, ...]]


def from_frame(
    frame: Any,
    /,
    *,
    target: str,
    name: str,
    drop: Collection[str] = (),
    categories: Collection[str] = (),
    immutable: Collection[str] = (),
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    standardize: bool = True,
) -> Dataset:
    """Code, split and standardise a table with named columns.

    A column of texts, or of pandas' type "category", becomes a complete one-hot group
    with a column "colour=red" for each of its levels, in the order of the texts;
    numbers and truth values stay one column. What follows is `from_arrays`.

    Args:
      frame: a pandas DataFrame, or a mapping of names to columns [m] of equal length.
        pandas is not needed.
      target: the column of the labels: integers 0…C−1, or texts, which are numbered in
        their order and listed in `meta["classes"]`.
      name: of the data set, for records.
      drop: columns that are no features.
      categories: columns that are categories though they hold numbers, such as codes.
      immutable: columns that a person cannot change.
      seed, fractions, standardize: as in `from_arrays`.

    Returns:
      A validated `Dataset`; its groups are the categories.

    Raises:
      ValueError: a value that is missing or not finite, by row (counted from 0) and
        column; numbers and texts in one column; a category of one level or of more
        than 50; names that are no columns; a feature that is the target, or equals it
        in every row; whatever `from_arrays` refuses.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> frame = {"age": rng.normal(size=90), "colour": ["red", "blue", "green"] * 30,
      ...          "paid": ["no", "yes"] * 45}
      >>> data = from_frame(frame, target="paid", name="own")
      >>> data.columns, data.groups
      (('age', 'colour=blue', 'colour=green', 'colour=red'), ((1, 2, 3),))
      >>> data.meta["classes"]
      ['no', 'yes']
    """
    names = [str(column) for column in _names(frame, name)]
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise ValueError(f"{name}: columns must differ, got {twice[0]!r} twice")
    columns = {str(column): frame[column] for column in _names(frame, name)}
    return _dataset(
        columns, target, name, drop, categories, immutable, seed=seed,
        fractions=fractions, standardize=standardize,
    )  # fmt: skip


def from_csv(
    path: str | os.PathLike[str],
    /,
    *,
    target: str,
    name: str | None = None,
    drop: Collection[str] = (),
    categories: Collection[str] = (),
    immutable: Collection[str] = (),
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    standardize: bool = True,
) -> Dataset:
    """`from_frame` of a CSV file with a header; nothing but NumPy is needed.

    Args:
      path: the file. A column is one of numbers if all of its values are.
      target, drop, categories, immutable, seed, fractions, standardize: as in
        `from_frame`.
      name: of the data set; that of the file by default.

    Returns:
      A validated `Dataset`.

    Raises:
      ValueError: no such file or no table, an empty value or one such as NA or "?", by
        row (counted from 0 below the header) and column; numbers with a comma in
        place of the point; whatever `from_frame` refuses.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "own.csv"
      >>> lines = [f"{i},{'abc'[i % 3]},{i % 2}" for i in range(60)]
      >>> _ = path.write_text("\\n".join(["size,kind,label", *lines]))
      >>> from_csv(path, target="label").train.x.shape
      (42, 4)
    """
    path = as_path("path", path)
    columns = read_columns(path, drop=drop, categories=categories)
    return _dataset(
        columns, target, path.stem if name is None else name, drop, categories,
        immutable, seed=seed, fractions=fractions, standardize=standardize,
    )  # fmt: skip


def read_columns(
    path: Path, *, drop: Collection[str], categories: Collection[str]
) -> dict[str, list[Any]]:
    """The columns of a CSV file: numbers of what are some, else texts.

    Raises:
      ValueError: what `from_csv` says of a file, its lines and its values.
    """
    header, lines = _read_lines(path)
    for row, line in enumerate(lines):
        for column, text in zip(header, line, strict=True):
            if text.strip().lower() in _MISSING and column not in drop:
                raise _missing(str(path), row, column, text)
    columns = {}
    for i, column in enumerate(header):
        texts = [line[i].strip() for line in lines]
        if column not in {*drop, *categories}:
            _check_points(str(path), column, texts)
        columns[column] = _parsed(texts)
    return columns


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header of a CSV file and the lines below it, each with as many values.

    Raises:
      ValueError: no such file, no header, no line, a column that is there twice, a line
        of another length (rows counted from 0, below the header).
    """
    if not path.is_file():
        raise ValueError(f"data must be a file, got {str(path)!r}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, got {error}") from error
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a header and at least one row of numbers")
    header = [name.strip() for name in lines[0]]
    other = [mark for mark in ";\t|" if mark in header[0]]
    if len(header) == 1 and other:
        raise ValueError(
            f"{path}: values must be separated by commas, got {other[0]!r} in the "
            f"header {lines[0][0]!r}"
        )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path}: the column {twice[0]!r} is there twice")
    if all(_number(name) is not None for name in header):
        raise ValueError(f"{path}: expected a header, got numbers: {header[0]!r}, …")
    for row, line in enumerate(lines[1:]):
        if len(line) != len(header):
            raise ValueError(
                f"{path}: row {row} has {len(line)} values, expected {len(header)}"
            )
    return header, lines[1:]


def _number(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def _check_points(where: str, column: str, texts: list[str]) -> None:
    """Raise for numbers such as "0,5": as texts they would be taken for categories."""
    commas = [row for row, text in enumerate(texts) if "," in text]
    if commas and all(_number(text.replace(",", ".")) is not None for text in texts):
        raise ValueError(
            f"{where}: row {commas[0]}, column {column!r} is {texts[commas[0]]!r}: "
            "write decimals with a point; if these are texts, name it in categories"
        )


def _parsed(texts: list[str]) -> list[Any]:
    """Numbers of what are some; integers stay such, for labels."""
    cells = []
    for text in texts:
        value: Any = _number(text)
        if value is None:
            value = text
        elif text.lstrip("+-").isdigit():
            value = int(text)
        cells.append(value)
    return cells


def _names(frame: Any, name: str) -> list[Any]:
    if isinstance(frame, Mapping):
        return list(frame)
    if hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        return list(frame.columns)
    raise ValueError(
        f"{name}: expected a pandas DataFrame or a mapping of names to columns, got a "
        f"{type(frame).__name__}"
    )


def _dataset(
    columns: dict[str, Any],
    target: str,
    name: str,
    drop: Collection[str],
    categories: Collection[str],
    immutable: Collection[str],
    **options: Any,
) -> Dataset:
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text, got {name!r}")
    if not isinstance(target, str):
        raise ValueError(f"{name}: target must be one name, got {target!r}")
    for what, asked in (("drop", drop), ("categories", categories),
                        ("immutable", immutable)):  # fmt: skip
        check_columns(name, what, asked, columns)
        if target in asked:
            raise ValueError(
                f"{name}: {what} names {target!r}, which is the target and no feature"
            )
    check_columns(name, "target", [target], columns)
    for column, values in columns.items():
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise ValueError(
                f"{name}: column {column!r} must hold a value for each row, got "
                f"{values!r}"
            )
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise ValueError(f"{name}: columns must have one length, got {sorted(lengths)}")
    if lengths == {0}:
        raise ValueError(f"{name}: expected rows below the columns' names, got none")
    forced = {
        column
        for column, values in columns.items()
        if column in categories or str(getattr(values, "dtype", "")) == "category"
    }
    labels = _values(name, target, columns[target])
    features = plain(name, columns, leave={target, *drop})
    for column, values in features.items():
        if values == labels:
            raise ValueError(
                f"{name}: column {column!r} equals the target {target!r} in every row: "
                "a model would read the label off; name it in drop"
            )
    if not features:
        raise ValueError(f"{name}: expected a column of features besides {target!r}")
    coded = code(name, features, forced)
    y, classes = _labels(name, target, labels)
    dataset = from_arrays(
        coded.x, y, name=name, columns=coded.names, groups=coded.groups,
        immutable=[i for column in immutable for i in coded.places.get(column, ())],
        **options,
    )  # fmt: skip
    dataset.meta.update(target=target, **({"classes": classes} if classes else {}))
    return dataset


def check_columns(name: str, what: str, asked: Any, columns: Collection[str]) -> None:
    """Raise unless `asked` is a list of names of columns."""
    if isinstance(asked, str) or not isinstance(asked, Iterable):
        raise ValueError(f"{name}: {what} must be a list of names, got {asked!r}")
    for column in asked:
        if column not in columns:
            raise ValueError(
                f"{name}: {what} names {column!r}, which is no column; its columns: "
                f"{', '.join(columns)}"
            )


def plain(
    name: str, columns: Mapping[str, Any], *, leave: Collection[str]
) -> dict[str, list[Any]]:
    """The columns that are features as lists of numbers and texts, none missing."""
    return {
        column: _values(name, column, values)
        for column, values in columns.items()
        if column not in leave
    }


def code(
    name: str, features: Mapping[str, list[Any]], categories: Collection[str]
) -> Coded:
    """Numbers as they are, and each column of texts as a complete one-hot group."""
    made, names, places, groups = [], [], {}, []
    for column, values in features.items():
        start, forced = len(names), column in categories
        if forced or any(isinstance(value, str) for value in values):
            levels, codes = _levels(name, column, values, forced)
            names += [f"{column}={level}" for level in levels]
            made.append(np.eye(len(levels))[codes])
            groups.append(tuple(range(start, len(names))))
        else:
            names.append(column)
            made.append(_numbers(values)[:, None])
        places[column] = tuple(range(start, len(names)))
    return Coded(np.concatenate(made, axis=1), names, groups, places)


def _values(name: str, column: str, values: Any) -> list[Any]:
    """Plain Python values, none of them missing."""
    plain = []
    for row, value in enumerate(np.asarray(values, object).tolist()):
        # NaN, and what pandas writes for it, is not equal to itself; NA has no truth.
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            raise _missing(name, row, column, value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not np.isfinite(value):
            if np.isnan(value):
                raise _missing(name, row, column, value)
            raise ValueError(
                f"{name}: row {row}, column {column!r} must be finite, got {value}"
            )
        if not isinstance(value, bool | int | float | str):
            raise ValueError(
                f"{name}: row {row}, column {column!r} must be a number or a text, got "
                f"{value!r}"
            )
        plain.append(value)
    return plain


def _missing(where: str, row: int, column: str, value: Any) -> ValueError:
    return ValueError(
        f"{where}: row {row}, column {column!r} is missing ({value!r}): fill it or "
        "leave the row out"
    )


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.asarray([float(value) for value in values])


def _levels(name: str, column: str, values: Sequence[Any], forced: bool):
    """The levels of a category in order, and the level of each row."""
    if not forced:
        for row, value in enumerate(values):
            if not isinstance(value, str):
                text = next(
                    i for i, level in enumerate(values) if isinstance(level, str)
                )
                raise ValueError(
                    f"{name}: column {column!r} holds numbers and texts, {value!r} in "
                    f"row {row} and {values[text]!r} in row {text}: name it in "
                    "categories, or mend it"
                )
    numeric = not any(isinstance(value, str) for value in values)
    order = sorted(set(values)) if numeric else sorted(set(map(str, values)))
    levels = [str(level) for level in order]
    if not 2 <= len(levels) <= _MOST_LEVELS:
        raise ValueError(
            f"{name}: the category {column!r} must have 2…{_MOST_LEVELS} levels, got "
            f"{len(levels)}, such as {levels[0]!r}: drop it, or code it otherwise"
        )
    place = {level: i for i, level in enumerate(levels)}
    return levels, np.array([place[str(value)] for value in values])


def _labels(name: str, target: str, values: list[Any]):
    """Class indices, and the classes where they are texts."""
    if not any(isinstance(value, str) for value in values):
        return np.asarray(values), None
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name}: the target {target!r} holds numbers and texts")
    classes, y = np.unique(np.asarray(values), return_inverse=True)
    return y.astype(np.int32), classes.tolist()
