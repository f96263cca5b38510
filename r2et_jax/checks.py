"""Checks of static arguments, shared by every floor of the library."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import jax


def check_k(k: int, num_features: int) -> None:
    """Raise unless k is an integer in 1…n−1, so that a border between ranks exists."""
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise ValueError(f"k must be an integer, got {k!r} of type {type(k).__name__}")
    if not 1 <= k <= num_features - 1:
        raise ValueError(
            f"k must lie in 1…n−1 = 1…{num_features - 1} for n = {num_features} "
            f"features, got k = {k}"
        )


def check_positive(name: str, value: float) -> None:
    """Raise unless value is a finite number above zero; a traced one is let pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_nonnegative(name: str, value: float) -> None:
    """Raise unless value is a finite number of at least zero."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be nonnegative and finite, got {value!r}")


def check_count(name: str, value: int, *, minimum: int = 1) -> None:
    """Raise unless value is an integer of at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < minimum:
        raise ValueError(
            f"{name} must be an integer of at least {minimum}, got {value!r}"
        )


def check_in(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise unless value is one of `known`, which the message lists."""
    if value not in known:
        names = ", ".join(sorted(str(item) for item in known))
        raise ValueError(f"unknown {name} {value!r}; known: {names}")


def check_ndim(name: str, array: Any, ndim: int) -> None:
    """Raise unless the array has the given number of axes."""
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} axes for one example, got shape {array.shape}; "
            "batch with jax.vmap"
        )


def check_same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raise unless both arrays have the same shape."""
    if array.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} must have the same shape, got {array.shape} and "
            f"{other.shape}"
        )


def check_model(apply: Any, params: Any, x: Any) -> None:
    """Raise unless `apply(params, x)` takes one input x to logits [C]; runs nothing."""
    try:
        logits = jax.eval_shape(apply, params, x)
    except Exception as error:
        raise ValueError(
            f"the model does not take an input of shape {x.shape}: {error}"
        ) from error
    if getattr(logits, "ndim", None) != 1 or logits.shape[0] < 1:
        raise ValueError(
            "apply must take one input to logits of shape [C], got "
            f"{getattr(logits, 'shape', type(logits).__name__)} for an input of shape "
            f"{x.shape}"
        )
