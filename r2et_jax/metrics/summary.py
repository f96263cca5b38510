"""Means over inputs with their standard errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Summary(NamedTuple):
    """A mean over inputs, and what stands behind it; as a float, the mean.

    Attributes:
      mean: mean of the finite values; nan if there are none.
      stderr: its standard error over independent inputs; nan of fewer than two.
      n: number of finite values, or of the different inputs that they are of.
      num_nonfinite: number of values that are nan or infinite: show it beside the mean.
    """

    mean: Any
    stderr: Any
    n: Any
    num_nonfinite: Any

    def __float__(self) -> float:
        return float(self.mean)


def mean_and_stderr(
    values: Any,
    *,
    axis: int | tuple[int, ...] | None = 0,
    units: ArrayLike | None = None,
) -> Summary:
    """Mean and standard error of the finite values, and the number of the others.

        mean = (1/n) Σ vᵢ,   stderr = √(Σ (vᵢ − mean)²/(n − 1)) / √n

    Values of one input, such as those of a graph with several partners, are not
    independent. With `units`, vᵢ is the mean of the finite values of the i-th input.

    Args:
      values: array of any shape. A JAX array (traced or not) is summed by JAX in its
        float type; anything else, and whatever has units, by NumPy in float64.
      axis: axis or axes that are reduced; None for all.
      units: the input of each value, labels along axis 0 as of `distinct_inputs`; by
        default every value has its own.

    Returns:
      `Summary` of arrays with the shape of `values` less `axis`.

    Raises:
      ValueError: if there are units and `axis` is not 0, or not one unit for each row.

    Example:
      >>> summary = mean_and_stderr([1.0, 3.0, float("nan")])
      >>> print(summary.mean, summary.stderr, summary.n, summary.num_nonfinite)
      2.0 1.0 2 1
    """
    if units is not None:
        if axis != 0:
            raise ValueError(f"units are those along axis 0, got axis {axis}")
        values = np.asarray(values, np.float64)
        summary = mean_and_stderr(means_by_unit(values, as_units(units, len(values))))
        return summary._replace(num_nonfinite=np.sum(~np.isfinite(values), axis=0))
    if isinstance(values, jax.Array):
        xp: Any = jnp
        dtype = jnp.float64 if values.dtype == jnp.float64 else jnp.float32
        values = values.astype(dtype)
    else:
        xp, dtype = np, np.float64
        values = np.asarray(values, dtype)
    finite = xp.isfinite(values)
    n = xp.sum(finite, axis=axis)
    num_nonfinite = xp.sum(~finite, axis=axis)

    safe = xp.where(finite, values, 0.0)
    count = xp.sum(finite, axis=axis, keepdims=True).astype(dtype)
    mean = xp.sum(safe, axis=axis, keepdims=True) / xp.maximum(count, 1.0)
    squares = xp.sum(
        xp.where(finite, (safe - mean) ** 2, 0.0), axis=axis, keepdims=True
    )
    stderr = xp.sqrt(squares / xp.maximum(count - 1.0, 1.0) / xp.maximum(count, 1.0))
    mean = xp.where(count > 0, mean, xp.nan)
    stderr = xp.where(count > 1, stderr, xp.nan)
    return Summary(
        xp.squeeze(mean, axis=axis), xp.squeeze(stderr, axis=axis), n, num_nonfinite
    )


def distinct_inputs(x: ArrayLike) -> np.ndarray:
    """Labels 0, 1, … [m] of inputs [m, …] by first appearance: equal rows, equal label.

    The `units` of what is measured of them: rows of pairs repeat the input that is
    explained.

    Example:
      >>> print(distinct_inputs([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]))
      [0 1 0]
    """
    known: dict[bytes, int] = {}
    rows = np.asarray(x) + 0  # −0 is 0
    labels = [known.setdefault(row.tobytes(), len(known)) for row in rows]
    return np.array(labels, int)


def as_units(units: ArrayLike | None, num_rows: int) -> np.ndarray:
    """Labels 0 … u − 1 [m] in the order of `units`; by default a label for each row."""
    if units is None:
        return np.arange(num_rows)
    units = np.asarray(units)
    if units.shape != (num_rows,):
        raise ValueError(
            f"units must hold a label for each of the {num_rows} rows, got shape "
            f"{units.shape}"
        )
    return np.unique(units, return_inverse=True)[1]


def means_by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Mean of the finite values [m, …] of each unit [u, …]; nan where it has none.

    Args:
      values: float64.
      units: labels [m] in 0 … u − 1, none of them missing, as of `distinct_inputs`.

    Example:
      >>> print(means_by_unit(np.array([1.0, 3.0, 8.0]), np.array([0, 0, 1])))
      [2. 8.]
    """
    finite = np.isfinite(values)
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], np.arange(units.max(initial=-1) + 1))

    def total(rows: np.ndarray) -> np.ndarray:
        if not len(starts):
            return np.zeros((0, *values.shape[1:]))
        return np.add.reduceat(rows[order].astype(np.float64), starts, axis=0)

    count = total(finite)
    mean = total(np.where(finite, values, 0.0)) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)
