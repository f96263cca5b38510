"""What the metrics share: a common float type, and shapes of whole batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def as_floats(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Cast to one float type: float64 if any argument has it, else float32.

    Explicit, so that the metrics also run under strict dtype promotion, and so that
    half-precision maps are summed in float32.
    """
    converted = [jnp.asarray(array) for array in arrays]
    double = any(array.dtype == jnp.float64 for array in converted)
    dtype = jnp.float64 if double else jnp.float32
    return tuple(array.astype(dtype) for array in converted)


def check_axes(name: str, array: Any, axes: str) -> None:
    """Raise unless the array has as many axes as `axes` names, e.g. "m, n"."""
    if array.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} must have the shape [{axes}], got {array.shape}")


def check_finite(name: str, array: Any) -> None:
    """Raise unless all entries are finite, and name the first; a traced one is passed.

    An input with a nan is at no distance from another one: nobody would see it left
    out.
    """
    if isinstance(array, jax.core.Tracer):
        return
    array = np.asarray(array)
    broken = np.argwhere(~np.isfinite(array))
    if len(broken):
        place = ", ".join(map(str, broken[0]))
        raise ValueError(
            f"{name} must be finite, got {array[tuple(broken[0])]} at [{place}] and "
            f"{len(broken) - 1} other places"
        )
