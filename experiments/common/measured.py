"""What was measured, as the fields that a record has beside those of its cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2et_jax import metrics


def measured(metric: str, value: Any, stderr: Any, n: Any) -> dict[str, Any]:
    """The fields of one number; the standard error may be None."""
    stderr = None if stderr is None else float(stderr)
    return {"metric": metric, "value": float(value), "stderr": stderr, "n": int(n)}


def summary(metric: str, values: Any) -> dict[str, Any]:
    """Mean and standard error of values [m], one each input; says what is no number."""
    found = metrics.mean_and_stderr(np.asarray(values, np.float64))
    record = measured(metric, found.mean, found.stderr, found.n)
    if found.num_nonfinite:
        record["note"] = f"{int(found.num_nonfinite)} inputs are not finite"
    return record


def each(metric: str, values: Any) -> dict[str, Any]:
    """As `summary`, with the values themselves, None where there is no number."""
    values = np.asarray(values, np.float64)
    short = [round(float(v), 4) if np.isfinite(v) else None for v in values]
    return {**summary(metric, values), "values": short}
