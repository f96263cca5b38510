"""What stands in place of kinked operations, and the values whose signs they switch on.

    relu(s)           softplus_ρ(s) = log(1 + e^{ρs})/ρ
    |s|               softplus_ρ(s) + softplus_ρ(−s), as relu(s) + relu(−s)
    max(a, b)         b + softplus_ρ(a − b)
    max of a window   (1/ρ)·log((1/k) Σ e^{ρ v_i}), k values
    any bend          low + κ·softplus_ρ(s): the branch of s < 0 and a change κ of slope

All tend to the operation as ρ → ∞: they differ by at most (log 2/ρ)·|κ|, twice that
for |s|, and log(k)/ρ for the maximum of a window. What the operation bounds may so be
exceeded: the smooth minimum of two nonnegative values can be negative.

Straight-through forms compute the operation and its derivative exactly; only the
derivative of that derivative, zero between kinks, is the one of the forms above.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.numerics import sigmoid, softplus
from r2et_jax.types import Array


class Forms(NamedTuple):
    """What stands in place of kinked operations.

    Attributes:
      bend: `bend(switch)` in place of relu.
      largest: `largest(values, axes, valid=None, shared=True)` in place of the maximum
        of the valid entries over some axes. Entries that are equally large share the
        derivative, or the first one has it all; then the axes are the last one.
    """

    bend: Callable[[Array], Array]
    largest: Callable[..., Array]

    def absolute(self, switch: Array) -> Array:
        """In place of |s|, written so that both halves share one bend."""
        return 2 * self.bend(switch) - switch


def smooth_forms(rho: Any) -> Forms:
    """softplus_ρ, and (1/ρ)·log of the mean of e^{ρv}; ρ may be traced."""

    def bend(switch):
        sharp = _sharpness(rho, switch)
        return softplus(sharp * switch) / sharp

    def largest(values, axes, valid=None, shared=True):
        del shared
        sharp = _sharpness(rho, values)
        if valid is None:
            count = math.log(math.prod(values.shape[axis] for axis in axes))
        else:
            count = jnp.asarray(np.log(valid.sum(axis=axes)), values.dtype)
        total = jax.nn.logsumexp(sharp * values, axis=axes, where=valid)
        return (total - count) / sharp

    return Forms(bend, largest)


def straight_through_forms(rho: Any) -> Forms:
    """The operations themselves; their slope changes as that of the smooth forms."""

    def largest(values, axes, valid=None, shared=True):
        if valid is not None:
            values = jnp.where(valid, values, -jnp.inf)
        return _largest(axes, shared, values, jnp.asarray(rho, values.dtype))

    return Forms(lambda switch: _relu(switch, jnp.asarray(rho, switch.dtype)), largest)


def _sharpness(rho: Any, like: Array) -> Array | float:
    """ρ in the type of the values that it multiplies."""
    return rho if isinstance(rho, int | float) else jnp.asarray(rho, like.dtype)


@jax.custom_jvp
def _relu(switch: Array, rho: Array) -> Array:
    del rho
    return jnp.maximum(switch, 0)


@_relu.defjvp
def _relu_jvp(primals, tangents):
    return _relu(*primals), _is_positive(*primals) * tangents[0]


@jax.custom_jvp
def _is_positive(switch: Array, rho: Array) -> Array:
    del rho
    return (switch > 0).astype(switch.dtype)


@_is_positive.defjvp
def _is_positive_jvp(primals, tangents):
    switch, rho = primals
    rise = rho * sigmoid(rho * switch) * sigmoid(-rho * switch)
    return _is_positive(switch, rho), rise * tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _largest(axes, shared, values, rho):
    del shared, rho
    return jnp.max(values, axis=axes)


@_largest.defjvp
def _largest_jvp(axes, shared, primals, tangents):
    weights = _is_largest(axes, shared, *primals)
    moved = jnp.sum(weights * tangents[0], axis=axes)
    return _largest(axes, shared, *primals), moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _is_largest(axes, shared, values, rho):
    """The derivative of a maximum: 1 at the largest entry, or a share of it."""
    del rho
    if not shared:
        first = jnp.argmax(values, axis=-1)
        return jax.nn.one_hot(first, values.shape[-1], dtype=values.dtype)
    equal = (values == jnp.max(values, axis=axes, keepdims=True)).astype(values.dtype)
    return equal / jnp.sum(equal, axis=axes, keepdims=True)


@_is_largest.defjvp
def _is_largest_jvp(axes, shared, primals, tangents):
    values, rho = primals
    weights = jax.nn.softmax(rho * values, axis=axes)
    mean = jnp.sum(weights * tangents[0], axis=axes, keepdims=True)
    rise = rho * weights * (tangents[0] - mean)
    return _is_largest(axes, shared, values, rho), rise


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
