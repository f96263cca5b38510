"""What was measured, as the fields that a record has beside those of its cell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from r2et_jax.metrics.summary import mean_and_stderr, means_by_unit


def measured(metric: str, value: Any, stderr: Any, n: Any) -> dict[str, Any]:
    """The fields of one number; the standard error may be None."""
    stderr = None if stderr is None else float(stderr)
    return {"metric": metric, "value": float(value), "stderr": stderr, "n": int(n)}


def summarised(metric: str, total: Any) -> dict[str, Any]:
    """The fields of a `Summary`, or what is like it; says what is no number."""
    record = measured(metric, total.mean, total.stderr, total.n)
    if total.num_nonfinite:
        record["note"] = f"{int(total.num_nonfinite)} inputs are not finite"
    return record


def summary(metric: str, values: Any, units: Any = None) -> dict[str, Any]:
    """Mean and standard error of values [m], one each input; says what is no number.

    Args:
      metric: its name.
      values: the values.
      units: which input each value is of, where several are of one.
    """
    values = np.asarray(values, np.float64)
    return summarised(metric, mean_and_stderr(values, units=units))


def each(metric: str, values: Any, units: Any = None) -> dict[str, Any]:
    """As `summary`, with the values themselves, None where there is no number.

    Of several values of one input, as `units` says, their mean.
    """
    values = np.asarray(values, np.float64)
    listed = values if units is None else means_by_unit(values, units)
    short = [round(float(v), 4) if np.isfinite(v) else None for v in listed]
    return {**summary(metric, values, units), "values": short}


def listed(metric: str, value: float, n: int, values: Iterable) -> dict[str, Any]:
    """The fields of a number with a list behind it, to four digits, for figures."""
    short = [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
    return {**measured(metric, value, None, n), "values": short}
