"""Elementwise functions of one value that are put together from pieces.

z·(z > 0), z·sign(z), where(z > 0, z, e^z − 1): no lines tell how their pieces meet, so
the function is evaluated on both sides of every point at which it switches. Where two
pieces have one value and two slopes there is a kink; where they have one slope, too,
there is none; where their values differ it is a jump, and no smooth form is near.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.programs.ranges import Range
from r2et_jax.programs.steps import Program, Step, bind
from r2et_jax.types import Array

_COMPARISONS = frozenset({"gt", "ge", "lt", "le"})
# Of two values they switch where the first one equals the second.
_SWITCHING = _COMPARISONS | {"max", "min", "sign", "abs"}
_ELEMENTWISE = _SWITCHING | frozenset(
    {"add", "add_any", "sub", "mul", "div", "neg", "integer_pow", "square", "sqrt"}
    | {"rsqrt", "pow", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic"}
    | {"erf", "sin", "cos", "select_n", "convert_element_type", "copy", "not", "and"}
    | {"or", "xor", "stop_gradient", "eq", "ne", "argmax"}
)
# Distance at which pieces are looked at, for points of size 1; share of what the values
# change there by which pieces that meet may differ, and share of a slope that is none.
_STEP, _MEETS, _EXACT = 1e-3, 1e-3, 1e-4
# Units in the last place that are rounding.
_ROUNDED = 64
# Elementwise steps that are looked at as one function.
_MOST_STEPS = 64
# How far out a function is looked at to see whether its outer pieces are lines.
_OUTWARDS = np.array([1.0, 2.0, 5.0])


class Pieces(NamedTuple):
    """A function of one value.

    Attributes:
      root: number of that value.
      function: `function(values) -> values`, elementwise.
      bends: (t, κ): where its slope changes, and by how much.
      start: (value at 0, slope) of the line left of all bends if all pieces are lines,
        else None.
    """

    root: int
    function: Callable[[Array], Array]
    bends: tuple[tuple[float, float], ...]
    start: tuple[float, float] | None


def roots_of(
    program: Program, depends: set[int], ranges: dict[int, Range], same: dict[int, int]
) -> dict[int, int]:
    """Number -> the value that it is an elementwise function of, with known numbers.

    A value that is no such function of another one is its own root, and so is one that
    many steps make; numbers that are known have none.
    """
    roots: dict[int, int] = {}
    depths: dict[int, int] = {}

    def root(number: int) -> int | None:
        if number not in roots and not _is_known(ranges[number]):
            roots[number] = same[number]
        return roots.get(number)

    for step in program.steps:
        for number in step.outputs:
            if number not in depends or _is_known(ranges[number]):
                continue
            taken = {root(taken) for taken in step.inputs} - {None}
            shape = program.types[number].shape
            if step.name in _ELEMENTWISE | {"stack"} and len(taken) == 1:
                (single,) = taken
                # Conditions side by side, of which `jnp.select` takes the first.
                stacked = step.name == "stack" and step.params["axis"] == 0
                first = step.params.get("axes", (0,)) == (0,)
                depth = 1 + max(depths.get(n, 0) for n in step.inputs)
                same_shape = program.types[single].shape == shape[stacked:]
                if first and same_shape and depth <= _MOST_STEPS // 2:
                    roots[number], depths[number] = single, depth
    return {n: made for n in program.types if (made := root(n)) is not None}


def pieces_of(
    program: Program,
    makers: dict[int, Step],
    ranges: dict[int, Range],
    same: dict[int, int],
    roots: dict[int, int],
    number: int,
    jumps: Collection[int],
) -> Pieces | None:
    """What pieces a value consists of, or None where it jumps or it cannot be told."""
    deepest = roots.get(number)
    if deepest is None or deepest == same[number]:
        return None
    if jnp.finfo(program.types[deepest].dtype).bits < 32:
        return None  # too coarse to look beside a point
    steps = _between(makers, same, roots, deepest, number)
    compared = [n for step in steps if step.name in _SWITCHING for n in step.inputs]
    # Of tanh(y)·(tanh(y) > 0) it is tanh(y) that is compared with a number.
    nearer = [
        same[n]
        for n in compared
        if n in roots and same[n] != deepest and n not in jumps and same[n] not in jumps
    ]
    for root in dict.fromkeys([deepest, *nearer]):
        steps = _between(makers, same, roots, root, number)
        if steps and len(steps) <= _MOST_STEPS:
            made = _of_root(program, ranges, same, steps, root, number)
            if made is not None:
                return made
    return None


def _of_root(program, ranges, same, steps, root: int, number: int) -> Pieces | None:
    """The pieces as a function of that value, None as `pieces_of` returns it."""
    dtype = program.types[root].dtype

    def computed(values: Array, which: tuple[int, ...]) -> list[Array]:
        """Values of these numbers, at the root's."""
        known: dict[int, Any] = {}

        def read(taken: int) -> Array:
            if taken in known:
                return known[taken]
            if same[taken] == root:
                return values
            kind = program.types[taken].dtype
            return jnp.full(values.shape, ranges[taken][0], kind)

        for step in steps:
            known[step.outputs[0]] = bind(step, [read(n) for n in step.inputs])[0]
        return [read(n) for n in which]

    def at(points: np.ndarray, which: tuple[int, ...]) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            made = computed(jnp.asarray(points, dtype), which)
            return np.asarray([np.asarray(values, float) for values in made])

    switches = [step for step in steps if step.name in _SWITCHING]
    unit = float(jnp.finfo(dtype).eps)
    where = _thresholds(switches, at, unit)
    if where is None:
        return None

    def function(values: Array) -> Array:
        return computed(values, (number,))[0]

    def values_and_slopes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.ensure_compile_time_eval():
            given = jnp.asarray(points, dtype)
            made = jax.jvp(function, (given,), (jnp.ones_like(given),))
            return tuple(np.asarray(part, float) for part in made)

    bends = _bends(where, values_and_slopes, unit)
    if bends is None:
        return None
    return Pieces(root, function, bends, _start(where, bends, values_and_slopes))


def _is_known(bounds: Range) -> bool:
    return bounds[0] == bounds[1] and bool(np.isfinite(bounds[0]))


def _between(makers, same, roots, root: int, number: int) -> list[Step]:
    """The steps from the root to the value, in the order of evaluation.

    None of them where there is a way to it from elsewhere.
    """
    needed: dict[int, Step] = {}
    waiting = [number]
    while waiting and len(needed) <= _MOST_STEPS:
        taken = waiting[-1]
        if same[taken] == root or taken in needed or taken not in roots:
            waiting.pop()
            continue
        if roots[taken] == same[taken]:
            return []
        before = [
            n
            for n in makers[taken].inputs
            if same[n] != root and n in roots and n not in needed
        ]
        if before:
            waiting += before
        else:
            needed[waiting.pop()] = makers[taken]
    return list(needed.values())


def _thresholds(switches: list[Step], at, unit: float) -> np.ndarray | None:
    """Points at which some step switches; None where one compares no line."""
    switching: set[float] = set()
    points = np.array([-1.0, 0.0, 1.0, 3.0])
    for step in switches:
        made = at(points, step.inputs)
        gap = made[0] - (made[1] if len(made) > 1 else 0)
        slope = gap[2] - gap[1]
        line = gap[1] + slope * points
        least = _ROUNDED * unit * np.abs(made).max()
        if not np.allclose(gap, line, rtol=0, atol=least):
            return None
        if abs(slope) > least:
            switching.add(float(-gap[1] / slope))
    return np.array(sorted(switching))


def _bends(where: np.ndarray, values_and_slopes, unit: float):
    """(t, κ) of the points at which slopes change; None at a jump."""
    steps = _STEP * np.maximum(1, np.abs(where))
    if (np.diff(where) < 4 * (steps[1:] + steps[:-1])).any():
        return None
    if not len(where):
        return ()
    points = where[:, None] + steps[:, None] * np.array([-2.0, -1.0, 1.0, 2.0])
    values, slopes = (
        part.reshape(points.shape) for part in values_and_slopes(points.ravel())
    )
    # At the point itself both sides are continued, exactly those of degree 2.
    turns = 2 * slopes[:, 2] - slopes[:, 3] - (2 * slopes[:, 1] - slopes[:, 0])
    left = values[:, 1] + steps * (1.5 * slopes[:, 1] - 0.5 * slopes[:, 0])
    right = values[:, 2] - steps * (1.5 * slopes[:, 2] - 0.5 * slopes[:, 3])
    jumps = right - left
    steepest = np.abs(slopes).max(axis=1)
    # Relative to what the values do there, whatever their unit; and what is rounded.
    rounded = np.abs(values).max(axis=1) + np.abs(where) * steepest
    least = _MEETS * np.ptp(values, axis=1) + _ROUNDED * unit * rounded
    if not (np.isfinite(turns).all() and (np.abs(jumps) <= least).all()):
        return None
    return tuple(
        (float(t), float(turn))
        for t, turn, most in zip(where, turns, steepest, strict=True)
        if abs(turn) > _EXACT * most
    )


def _start(where, bends, values_and_slopes) -> tuple[float, float] | None:
    """The line left of all bends, if the function is nothing but lines."""
    if not len(where):
        return None
    between = [
        low + (high - low) * np.array([0.25, 0.75])
        for low, high in zip(where[:-1], where[1:], strict=True)
    ]
    points = np.concatenate(
        [where[0] - _OUTWARDS, *between, where[-1] + _OUTWARDS]
    ).ravel()
    values, slopes = values_and_slopes(points)
    slope = float(slopes[0])
    offset = float(values[0] - slope * points[0])
    right, rising = offset + slope * points, np.full(points.shape, slope)
    for t, turn in bends:
        right = right + turn * np.maximum(points - t, 0)
        rising = rising + turn * (points > t)
    pairs = (values, right), (slopes, rising)
    if all((np.abs(a - b) <= _EXACT * np.abs(a).max()).all() for a, b in pairs):
        return offset, slope
    return None
