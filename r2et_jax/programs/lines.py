"""Values as straight lines in one other value: y = scale·root + offset, elementwise.

Two branches of a selection that are lines in what is compared meet at the switching
point or do not; that is how a kink is told from a jump. Scales and offsets that are no
known numbers (a learnt slope) stay expressions of the program's own values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from r2et_jax.programs.ranges import Range
from r2et_jax.programs.steps import Program, Step

# A number; ("value", number of a value); or ("+" | "-" | "*" | "/", left, right).
Coefficient = float | tuple


# What makes lines of lines.
LINEAR = frozenset(
    {"neg", "copy", "convert_element_type", "add", "add_any", "sub", "mul", "div"}
)


class Line(NamedTuple):
    """scale·root + offset; the root is the number of a value, or None for none."""

    root: int | None
    scale: Coefficient
    offset: Coefficient


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def combine(operation: str, left: Coefficient, right: Coefficient) -> Coefficient:
    """The coefficient of an operation on two, at once where both are numbers."""
    if isinstance(left, float) and isinstance(right, float):
        if operation != "/" or right != 0:
            return _OPERATIONS[operation](left, right)
    if operation == "*" and 0.0 in (left, right):
        return 0.0
    if (operation in "+-" and right == 0.0) or (operation in "*/" and right == 1.0):
        return left
    if (operation == "+" and left == 0.0) or (operation == "*" and left == 1.0):
        return right
    return operation, left, right


def evaluate(coefficient: Coefficient, read: Callable[[int], Any]) -> Any:
    """The coefficient as a number or an array, with the program's values read."""
    if isinstance(coefficient, float):
        return coefficient
    if coefficient[0] == "value":
        return read(coefficient[1])
    operation, left, right = coefficient
    return _OPERATIONS[operation](evaluate(left, read), evaluate(right, read))


def is_zero(coefficient: Coefficient, *, beside: tuple[Coefficient, ...]) -> bool:
    """Whether the coefficient vanishes identically, to rounding of those beside it.

    Values that are not known are drawn at random: an expression that vanishes for
    three draws vanishes for all, but with probability 0.
    """
    if isinstance(coefficient, float):
        draws = 1
    else:
        draws = 3

    def drawn(draw: int) -> Callable[[int], float]:
        return lambda n: float(np.random.default_rng((draw, n)).uniform(0.5, 2))

    for draw in range(draws):
        size = max(abs(evaluate(term, drawn(draw))) for term in beside)
        if not abs(evaluate(coefficient, drawn(draw))) <= 1e-6 * size:
            return False
    return True


def subtract(a: Line, b: Line) -> Line | None:
    """a − b as a line, or None for lines of different roots."""
    if a.root is not None and b.root is not None and a.root != b.root:
        return None
    root = b.root if a.root is None else a.root
    return Line(root, combine("-", a.scale, b.scale), combine("-", a.offset, b.offset))


def lines_of(
    program: Program, moves: set[int], ranges: dict[int, Range], same: dict[int, int]
) -> dict[int, Line]:
    """Number -> the value as a line in the value that it comes from.

    Args:
      program: the steps.
      moves: numbers of the values that change with the input.
      ranges: bounds of the values; equal bounds are a known number.
      same: number -> the first number with the same value.
    """
    lines: dict[int, Line] = {}

    def line(number: int) -> Line:
        if number in lines:
            return lines[number]
        if number in moves:
            return Line(same[number], 1.0, 0.0)
        low, high = ranges[number]
        known = low == high and math.isfinite(low)
        return Line(None, 0.0, low if known else ("value", same[number]))

    for step in program.steps:
        if len(step.outputs) == 1 and step.outputs[0] in moves:
            made = line_of(step, [line(number) for number in step.inputs], program)
            lines[step.outputs[0]] = made or line(step.outputs[0])
    return {number: line(number) for number in program.types}


def line_of(step: Step, taken: list[Line], program: Program) -> Line | None:
    """The line that a step makes of lines, None where it makes none."""
    if step.name not in LINEAR:
        return None
    a = taken[0]
    if step.name == "neg":
        return Line(a.root, combine("*", -1.0, a.scale), combine("*", -1.0, a.offset))
    if step.name in {"copy", "convert_element_type"}:
        return a if _keeps_type(step, program) else None
    if len(taken) != 2:
        return None
    b = taken[1]
    if step.name in {"add", "add_any"}:
        minus_b = Line(
            b.root, combine("*", -1.0, b.scale), combine("*", -1.0, b.offset)
        )
        return subtract(a, minus_b)
    if step.name == "sub":
        return subtract(a, b)
    if step.name == "mul" and None in (a.root, b.root):
        moving, factor = (a, b.offset) if b.root is None else (b, a.offset)
        return _scaled("*", moving, factor)
    if step.name == "div" and b.root is None:
        return _scaled("/", a, b.offset)
    return None


def _keeps_type(step: Step, program: Program) -> bool:
    taken, made = (program.types[n].dtype for n in (step.inputs[0], step.outputs[0]))
    return taken == made


def _scaled(operation: str, line: Line, factor: Coefficient) -> Line:
    return Line(
        line.root,
        combine(operation, line.scale, factor),
        combine(operation, line.offset, factor),
    )
