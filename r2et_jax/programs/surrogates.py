"""Smooth stand-ins of kinked operations, and the values whose signs they switch on.

    relu(s)           softplus_ρ(s) = log(1 + e^{ρs})/ρ
    |s|               softplus_ρ(s) + softplus_ρ(−s), as relu(s) + relu(−s)
    max(a, b)         b + softplus_ρ(a − b)
    max of a window   (1/ρ)·log((1/k) Σ e^{ρ v_i}), k values
    any bend          low + κ·softplus_ρ(s): the branch of s < 0 and a change κ of slope

All tend to the operation as ρ → ∞: they differ by at most (log 2/ρ)·|κ|, twice that
for |s|, and log(k)/ρ for the maximum of a window. What the operation bounds may so be
exceeded: the smooth minimum of two nonnegative values can be negative.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.numerics import softplus
from r2et_jax.types import Array


def bend(switch: Array, rho: Any) -> Array:
    """softplus_ρ of a switching value."""
    rho = sharpness(rho, switch)
    return softplus(rho * switch) / rho


def absolute(switch: Array, rho: Any) -> Array:
    """The smooth |s|, written so that both halves share one softplus."""
    return 2 * bend(switch, rho) - switch


def sharpness(rho: Any, like: Array) -> Array | float:
    """ρ in the type of the values that it multiplies."""
    return rho if isinstance(rho, int | float) else jnp.asarray(rho, like.dtype)


def log_mean_exp(values: Array, axes: tuple[int, ...], rho: Any, valid=None) -> Array:
    """(1/ρ)·log of the mean of e^{ρv} over the axes, of the valid entries alone."""
    rho = sharpness(rho, values)
    if valid is None:
        count = math.log(math.prod(values.shape[axis] for axis in axes))
    else:
        count = jnp.asarray(np.log(valid.sum(axis=axes)), values.dtype)
    total = jax.nn.logsumexp(rho * values, axis=axes, where=valid)
    return (total - count) / rho


def leads(values: Array, valid: np.ndarray | None = None) -> Array:
    """v_i − max of the others over the last axis: positive for the largest alone.

    Entries that are not valid, and the only valid one of its axis, lead by ∓∞.
    """
    if valid is not None:
        values = jnp.where(valid, values, -jnp.inf)
    index = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    first = jnp.argmax(values, axis=-1, keepdims=True).astype(jnp.int32)
    largest = jnp.max(
        values, axis=-1, keepdims=True, where=index == first, initial=-jnp.inf
    )
    second = jnp.max(
        values, axis=-1, keepdims=True, where=index != first, initial=-jnp.inf
    )
    return values - jnp.where(index == first, second, largest)


def merged(values: Array, axes: tuple[int, ...]) -> Array:
    """The axes flattened to one that stands last."""
    kept = [axis for axis in range(values.ndim) if axis not in axes]
    moved = jnp.transpose(values, (*kept, *axes))
    return moved.reshape(*(values.shape[axis] for axis in kept), -1)


def windows(values: Array, settings: dict[str, Any]) -> tuple[Array, np.ndarray | None]:
    """The entries of each window on a new last axis, and which are inside the array.

    Args:
      values: array [...].
      settings: window_dimensions, window_strides, padding and window_dilation of
        `reduce_window`.

    Returns:
      [*shape of the result, k], and a mask of the same shape or None for all.
    """
    sizes = settings["window_dimensions"]
    strides, dilation = settings["window_strides"], settings["window_dilation"]
    padding = [(*pair, 0) for pair in settings["padding"]]
    inside = np.pad(
        np.ones(values.shape, bool),
        [(max(a, 0), max(b, 0)) for a, b, _ in padding],
    )
    padded = jax.lax.pad(values, jnp.zeros((), values.dtype), padding)
    counts = [
        (side - (size - 1) * step - 1) // stride + 1
        for side, size, stride, step in zip(
            padded.shape, sizes, strides, dilation, strict=True
        )
    ]
    parts, masks = [], []
    for place in itertools.product(*map(range, sizes)):
        start = [p * step for p, step in zip(place, dilation, strict=True)]
        stop = [
            s + (count - 1) * stride + 1
            for s, count, stride in zip(start, counts, strides, strict=True)
        ]
        parts.append(jax.lax.slice(padded, start, stop, strides))
        cut = tuple(map(slice, start, stop, strides))
        masks.append(inside[cut])
    valid = np.stack(masks, axis=-1)
    return jnp.stack(parts, axis=-1), None if valid.all() else valid
