"""Arrays of others as the numbers that they say they are: never cut, wrapped or halved.

A cast of NumPy takes 1.5 for 1, 2³² for 0 and 2 + 3i for 2, and 1e39 for ∞. Here what a
cast would change ends in a ValueError that names the file or data set and the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def real_numbers(where: str, field: str, values: Any) -> np.ndarray:
    """Values as a float64 array, of whatever shape.

    Args:
      where: the file or data set, for messages.
      field: the name of the array, for messages.
      values: an array, or nested sequences, of real numbers or booleans.

    Returns:
      The array; NaN and infinite values are let pass.

    Raises:
      ValueError: complex numbers, text, objects, masked values, uneven rows.
    """
    if np.ma.is_masked(values):
        raise ValueError(
            f"{where}: {field} has {np.ma.count_masked(values)} masked values, "
            "expected them filled or left out"
        )
    try:
        array = np.asarray(values)
        if array.dtype == object:  # what a table of mixed columns gives
            array = np.asarray([float(_number(v)) for v in array.flat]).reshape(
                array.shape
            )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: {field} must hold real numbers in rows of one length ({error})"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {field} must hold real numbers, got {array.dtype}")
    return array.astype(np.float64)


def float32(
    where: str, field: str, values: np.ndarray, *, infinite: bool = False
) -> np.ndarray:
    """Real numbers in float32, finite after the cast as well.

    Args:
      where, field: as in `real_numbers`.
      values: an array of numbers.
      infinite: let infinite values pass, though none that only the cast makes so.

    Returns:
      The array as float32.

    Raises:
      ValueError: names the first place and value that is NaN, infinite, or too large.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {field} must hold real numbers, got {values.dtype}")
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    wrong = ~np.isfinite(result)
    if infinite:
        wrong &= np.isfinite(values) | np.isnan(values)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        at = place[0] if len(place) == 1 else place
        raise ValueError(
            f"{where}: {field} at {at} is {values[place]}, expected a number that is "
            "finite in float32"
        )
    return result


def integers(
    where: str, field: str, values: np.ndarray, *, low: int, high: int
) -> np.ndarray:
    """Integers of a range as int64, none of them cut or wrapped.

    Args:
      where, field: as in `real_numbers`.
      values: an array of an integer dtype.
      low: the least value that is allowed.
      high: the largest one.

    Returns:
      The array as int64.

    Raises:
      ValueError: another dtype, or a value outside of low…high.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{where}: {field} must hold integers, got {values.dtype}")
    wrong = np.flatnonzero((values < low) | (values > high))
    if wrong.size:
        raise ValueError(
            f"{where}: {field} has the value {values.flat[wrong[0]]}, expected "
            f"integers in {low}…{high}"
        )
    return values.astype(np.int64)


def texts(where: str, field: str, values: np.ndarray) -> tuple[str, ...]:
    """A row of texts as Python's.

    Raises:
      ValueError: another dtype or more axes.
    """
    if values.dtype.kind != "U" or values.ndim != 1:
        raise ValueError(
            f"{where}: {field} must hold texts in one row, got {values.dtype} of shape "
            f"{values.shape}"
        )
    return tuple(values.tolist())


def check_shape(
    where: str, field: str, array: np.ndarray, shape: Sequence[int | str]
) -> None:
    """Raise unless an array has a shape, in which a text stands for any length."""
    fits = len(shape) == array.ndim and all(
        isinstance(want, str) or want == got
        for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape))
        raise ValueError(
            f"{where}: {field} must have shape [{expected}], got {array.shape}"
        )


def _number(value: Any) -> Any:
    if isinstance(value, str | bytes | complex | np.complexfloating) or value is None:
        raise TypeError(f"got {value!r}")
    return value
