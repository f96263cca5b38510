"""Intervals of an elementwise function's value and derivative over a cell.

A jet holds low ≤ φ(t) ≤ high and the like for φ′(t), for every t of a cell (for φ′ at a
kink: almost every t); `sure` says that no jump of φ lies in the cell, so that
φ(t) − φ(s) is between the slopes times t − s. Both ends stand along a first axis of
length 2, or 1 where they are the same. All arrays of one computation have one rank.

Every result is widened outward by what rounding, and the elementary functions of the
backend, may be off. An end that is NaN is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from r2et_jax.types import Array

# Units of rounding by which an elementary function may be off.
ULPS = 16


class Jet(NamedTuple):
    """A function over cells.

    Attributes:
      ends: low ≤ φ ≤ high [2, ...], or [1, ...] for a known number.
      slope: low ≤ φ′ ≤ high [2, ...]; None for 0.
      sure: whether no jump is in the cell [1, ...]; True for all.
    """

    ends: Array
    slope: Array | None
    sure: Array | bool = True


class Truth(NamedTuple):
    """A boolean over cells: `surely` true everywhere, `maybe` true somewhere."""

    surely: Array
    maybe: Array

    @property
    def known(self) -> Array:
        return self.surely == self.maybe


def low(ends: Array) -> Array:
    return lax.slice_in_dim(ends, 0, 1)


def high(ends: Array) -> Array:
    return lax.slice_in_dim(ends, ends.shape[0] - 1, ends.shape[0])


def pair(least: Array, most: Array) -> Array:
    shape = np.broadcast_shapes(least.shape, most.shape)
    return lax.concatenate([spread(least, shape), spread(most, shape)], 0)


def spread(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape == shape:
        return array
    return lax.broadcast_in_dim(array, shape, tuple(range(len(shape))))


def both(ends: Array) -> Array:
    """The ends along an axis of length 2."""
    return spread(ends, (2, *ends.shape[1:]))


def outward(ends: Array, least: float | None = None, most: float | None = None):
    """Both ends moved outward by the rounding of one operation.

    They stay within [least, most], where the operation's exact results are.
    """
    info = jnp.finfo(ends.dtype)
    ends = both(ends)
    side = np.array([-1, 1], ends.dtype).reshape(2, *(1,) * (ends.ndim - 1))
    slack = lax.mul(lax.abs(ends), side * ends.dtype.type(ULPS * info.eps))
    ends = lax.add(ends, lax.add(slack, side * info.tiny))
    ends = ends if least is None else lax.max(ends, _number(least, ends))
    return ends if most is None else lax.min(ends, _number(most, ends))


def _number(value: float, like: Array) -> Array:
    return lax.full((1,) * like.ndim, value, like.dtype)


def flipped(ends: Array) -> Array:
    return lax.rev(ends, (0,))


def plus(a: Array, b: Array) -> Array:
    return lax.add(a, b)


def minus(a: Array, b: Array) -> Array:
    return lax.sub(a, flipped(b))


def times(a: Array, b: Array) -> Array:
    """The ends of products; NaN for 0·∞."""
    first = lax.mul(a, b)
    if a.shape[0] == 1 and b.shape[0] == 1:
        return first
    if a.shape[0] == 1 or b.shape[0] == 1:
        return pair(lax.min(low(first), high(first)), lax.max(low(first), high(first)))
    second = lax.mul(a, flipped(b))
    least, most = lax.min(first, second), lax.max(first, second)
    return pair(lax.min(low(least), high(least)), lax.max(low(most), high(most)))


def is_positive(ends: Array) -> Array:
    return lax.ge(low(ends), _number(0, ends))


def reciprocal(a: Array) -> Array:
    """The ends of 1/a; NaN where a may be 0."""
    inside = lax.le(lax.mul(low(a), high(a)), _number(0, a))
    inverse = flipped(lax.div(lax.full_like(a, 1), a))
    return lax.select(
        spread(inside, inverse.shape), lax.full_like(inverse, np.nan), inverse
    )


def union(a: Array, b: Array) -> Array:
    return pair(lax.min(low(a), low(b)), lax.max(high(a), high(b)))


def absolute(a: Array) -> Array:
    """The ends of |a|."""
    least, most = low(a), high(a)
    nearest = lax.max(lax.max(least, lax.neg(most)), _number(0, a))
    return pair(nearest, lax.max(lax.neg(least), most))


def power(a: Array, y: int) -> Array:
    """The ends of aʸ for an integer y."""
    if y < 0:
        return reciprocal(outward(power(a, -y)))
    return lax.integer_pow(a if y % 2 else absolute(a), y)


def where(truth: Truth, yes: Array, no: Array) -> Array:
    """The ends of a selection: the hull of both where it is not known."""
    shapes = [part.shape for part in (*truth, yes, no)]
    shape = np.broadcast_shapes(*shapes)
    surely, maybe = (spread(part, shape) for part in truth)
    yes, no = spread(yes, shape), spread(no, shape)
    if truth.surely is truth.maybe:
        return lax.select(surely, yes, no)
    shape = (2, *shape[1:])
    surely, maybe, yes, no = (spread(x, shape) for x in (surely, maybe, yes, no))
    return lax.select(surely, yes, lax.select(maybe, union(yes, no), no))


def growing(function: Callable[[Array], Array]):
    return function


def falling(function: Callable[[Array], Array]):
    return lambda ends: flipped(function(ends))


def peaked(function: Callable[[Array], Array]):
    """The ends of a function that grows up to 0 and falls beyond it."""

    def ends_of(a: Array) -> Array:
        zero = _number(0, a)
        nearest = lax.min(lax.max(low(a), zero), high(a))
        made = function(lax.concatenate([both(a), nearest], 0))
        first, second, top = (lax.slice_in_dim(made, n, n + 1) for n in range(3))
        return pair(lax.min(first, second), top)

    return ends_of


def all_sure(*jets: Jet) -> Array | bool:
    sure: Any = True
    for jet in jets:
        if jet.sure is not True:
            sure = jet.sure if sure is True else lax.bitwise_and(*_same(sure, jet.sure))
    return sure


def _same(a: Array, b: Array) -> tuple[Array, Array]:
    shape = np.broadcast_shapes(a.shape, b.shape)
    return spread(a, shape), spread(b, shape)
