"""A function of one variable between two parallel lines, over an interval of it.

    m·t + e_low ≤ φ(t) ≤ m·t + e_high   for low ≤ t ≤ high

The interval is cut into cells, and φ(t) − m·t is bounded in each one by the better of
its interval and of the mean-value form at the cell's middle s,

    φ(s) − m·s ± r·sup|φ′ − m|,   r the cell's half width,

which needs φ to have no jump there. That is off by O(r²), for whichever m. Points where
φ switches between branches are cells of their own, a few units of rounding wide, so
that a kink costs the other cells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from r2et_jax.bounds import jets
from r2et_jax.bounds.jets import ULPS, Jet, Truth
from r2et_jax.bounds.policy import Policy
from r2et_jax.types import Array

Function = Callable[[Jet], Jet | Truth]
MAX_KNOTS = 4
# A slope counts as this share of the gap that it moves through: of equal gaps, flat.
_STEEPNESS = 1e-2


class Lines(NamedTuple):
    """m·t + e_low ≤ φ(t) ≤ m·t + e_high, and least ≤ φ(t) ≤ most; all [*shape]."""

    slope: Array
    low: Array
    high: Array
    least: Array
    most: Array


def enclose(
    function: Function,
    low: Array,
    high: Array,
    *,
    knots: Sequence[Array] = (),
    policy: Policy,
) -> Lines:
    """Two parallel lines around a function, entry by entry.

    Args:
      function: φ as a jet of a jet.
      low, high: the interval of each entry [*shape]; may be infinite.
      knots: points where φ may switch, each of a shape that broadcasts to it.
      policy: slopes and number of cells.
    """
    left, right = _cells(low, high, list(knots)[:MAX_KNOTS], policy.num_cells)
    middle = left + (right - left) * 0.5
    count = left.shape[0]
    starts = jnp.concatenate([left, middle, low[None], high[None], low[None]])
    ends = jnp.concatenate([right, middle, low[None], high[None], high[None]])
    made = function(_identity(starts, ends))
    values, slopes = _parts(made, starts.shape)
    (least, most), (slope_low, slope_high) = (
        part[:, :count] for part in (values, slopes)
    )
    at, whole = values[:, count : 2 * count], -1

    m = _candidates(values, slopes, slope_low, slope_high, high - low, policy.slope)
    m = jnp.where(jnp.isfinite(m), m, 0)[:, None]
    radius = lax.max(right - middle, middle - left)
    corners = m * jnp.stack([left, right])[:, None]
    swing = radius * lax.max(jnp.abs(slope_low - m), jnp.abs(slope_high - m))
    usable = swing < jnp.inf
    if made.sure is not True:
        usable &= jets.spread(made.sure, (1, *starts.shape))[0, :count]
    swing = jnp.where(usable, swing, jnp.inf)
    moved = at[:, None] - m * middle
    e_low = lax.max(least - lax.max(*corners), moved[0] - swing)
    e_high = lax.min(most - lax.min(*corners), moved[1] + swing)
    e_low, e_high, m = jnp.min(e_low, axis=1), jnp.max(e_high, axis=1), m[:, 0]

    unit = ULPS * jnp.finfo(low.dtype).eps
    size = jnp.max(jnp.maximum(jnp.abs(least), jnp.abs(most)), axis=0)
    reach = jnp.maximum(jnp.abs(low), jnp.abs(high))
    slack = unit * (size + 2 * jnp.abs(m) * reach)
    e_low, e_high = e_low - slack, e_high + slack
    score = e_high - e_low + _STEEPNESS * jnp.abs(m) * (high - low)
    best = jnp.argmin(jnp.where(jnp.isnan(score), jnp.inf, score), axis=0)
    e_low, e_high, m = (_picked(part, best) for part in (e_low, e_high, m))
    # Where the interval has no end, the whole of it as one cell.
    good = jnp.isfinite(e_low) & jnp.isfinite(e_high)
    bottom, top = _known(values[0, whole], values[1, whole])
    return Lines(
        jnp.where(good, m, 0),
        jnp.where(good, e_low, bottom),
        jnp.where(good, e_high, top),
        jnp.fmax(jnp.min(least, axis=0), bottom),
        jnp.fmin(jnp.max(most, axis=0), top),
    )


def truth(function: Function, low: Array, high: Array) -> Truth:
    """A predicate of one variable over an interval of it."""
    made = function(_identity(low[None], high[None]))
    shape = (1, 1, *low.shape)
    return Truth(*(jets.spread(part, shape)[0, 0] for part in made))


def _identity(low: Array, high: Array) -> Jet:
    """The variable itself over cells [C, *shape]."""
    ends = jnp.stack([low, high])
    return Jet(ends, jnp.ones((1,) * ends.ndim, ends.dtype))


def _parts(made: Jet, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Ends of values and slopes [2, C, *shape]."""
    shape = (2, *shape)
    values = jets.spread(made.ends, shape)
    if made.slope is None:
        return values, jnp.zeros_like(values)
    return values, jets.spread(made.slope, shape)


def _known(low: Array, high: Array) -> tuple[Array, Array]:
    """Ends with ∓∞ for NaN."""
    return (
        jnp.where(jnp.isnan(low), -jnp.inf, low),
        jnp.where(jnp.isnan(high), jnp.inf, high),
    )


def _picked(parts: Array, best: Array) -> Array:
    """The chosen one of several arrays, entry by entry."""
    chosen = parts[0]
    for n in range(1, parts.shape[0]):
        chosen = jnp.where(best == n, parts[n], chosen)
    return chosen


def _candidates(
    values, slopes, slope_low, slope_high, width: Array, kind: str
) -> Array:
    """Slopes [M, *shape]; the last three cells are both ends and the whole."""
    flat = jnp.zeros_like(width)
    if kind == "flat":
        return flat[None]
    first, last = ((values[0, n] + values[1, n]) * 0.5 for n in (-3, -2))
    chord = (last - first) / jnp.where(width > 0, width, 1)
    # Over a short interval the difference is lost in rounding, and no chord is steeper
    # than φ itself.
    least, most = jnp.min(slope_low, axis=0), jnp.max(slope_high, axis=0)
    chord = jnp.minimum(jnp.maximum(chord, least), most)
    if kind == "chord":
        return chord[None]
    ends = [(slopes[0, n] + slopes[1, n]) * 0.5 for n in (-3, -2)]
    gentle = jnp.where(jnp.abs(ends[0]) < jnp.abs(ends[1]), *ends)
    return jnp.stack([flat, chord, gentle, (chord + gentle) * 0.5])


def _cells(
    low: Array, high: Array, knots: list[Array], count: int
) -> tuple[Array, Array]:
    """Cells that cover the intervals: their left and right ends [C, *shape]."""
    each = max(-(-count // (len(knots) + 1)), 2)
    info = jnp.finfo(low.dtype)
    scale = jnp.maximum(jnp.abs(low), jnp.abs(high))
    edges, narrow = [low], []
    finite = [jnp.where(jnp.isfinite(knot), knot, low) for knot in knots]
    for knot in _sorted(finite):
        room = 8 * info.eps * jnp.maximum(scale, jnp.abs(knot)) + 8 * info.tiny
        ends = [
            jnp.minimum(jnp.maximum(side, low), high)
            for side in (knot - room, knot + room)
        ]
        edges += ends
        narrow.append(ends)
    edges.append(high)
    share = jnp.arange(each + 1, dtype=low.dtype) / each
    share = share.reshape(-1, *(1,) * low.ndim)
    lefts, rights = [], []
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        b = jnp.maximum(a, b)
        points = jnp.minimum(a + share * (b - a), b)
        points = jnp.concatenate([points[:-1], b[None]])
        lefts.append(points[:-1])
        rights.append(points[1:])
    for a, b in narrow:
        lefts.append(a[None])
        rights.append(b[None])
    return jnp.concatenate(lefts), jnp.concatenate(rights)


def _sorted(arrays: list[Array]) -> list[Array]:
    """The arrays' entries in growing order, by exchanges: there are few arrays."""
    arrays = list(arrays)
    for end in range(len(arrays) - 1, 0, -1):
        for n in range(end):
            ends = arrays[n], arrays[n + 1]
            arrays[n], arrays[n + 1] = jnp.minimum(*ends), jnp.maximum(*ends)
    return arrays
