"""Bounds of a program's values that hold for every input and every parameter.

They tell kinks from functions that only look like one: |Σ e^v| in a logarithm of a sum,
max(variance, 0) in a normalisation, a guard `where(squares > 0, ...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from r2et_jax.programs.steps import Program, Step, known_value

Range = tuple[float, float]  # both ends included
ANY: Range = (-math.inf, math.inf)

# One value in, the same numbers out in another order, shape or type.
STRUCTURAL = frozenset(
    {
        "broadcast_in_dim",
        "copy",
        "copy_p",
        "expand_dims",
        "optimization_barrier",
        "reshape",
        "rev",
        "slice",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)


def ranges_of(program: Program, inputs: dict[int, Range] | None = None):
    """Number -> (smallest, largest) for every value of the program."""
    ranges = dict.fromkeys(program.types, ANY) | (inputs or {})
    for number, value in program.constants.items():
        ranges[number] = _constant_range(value)
    makers = {out: step for step in program.steps for out in step.outputs}
    for step in program.steps:
        if len(step.outputs) == 1 and _is_ordered(step, program):
            taken = [ranges[number] for number in step.inputs]
            low, high = _range(step, taken, program, makers)
            if not (math.isnan(low) or math.isnan(high)):
                ranges[step.outputs[0]] = (low, high)
    return ranges


def _is_ordered(step: Step, program: Program) -> bool:
    """Whether the result is a float, or numbers that are only laid out anew.

    Integers wrap around, complex numbers have no order.
    """
    kind = jnp.issubdtype(program.types[step.outputs[0]].dtype, jnp.floating)
    return kind or step.name in STRUCTURAL


def _constant_range(value) -> Range:
    array = None if value is None else known_value(value)
    if array is None or array.size == 0:
        return ANY
    low, high = float(array.min()), float(array.max())
    return ANY if math.isnan(low) or math.isnan(high) else (low, high)


def _range(step: Step, taken: list[Range], program: Program, makers) -> Range:
    taken_type = program.types[step.inputs[0]].dtype if step.inputs else None
    if taken and jnp.issubdtype(taken_type, jnp.complexfloating):
        return (0.0, math.inf) if step.name == "abs" else ANY
    if step.name in STRUCTURAL or step.name in _KEEPING:
        return taken[0]
    if step.name == "sub" and _is_variance(step, program, makers):
        return 0.0, math.inf
    if step.name == "div" and taken[0][0] >= 0 and _is_share(step, makers):
        return 0.0, 1.0
    if step.name == "mul" and step.inputs[0] == step.inputs[1]:
        return _square(taken[0])
    if step.name == "integer_pow":
        return _power(taken[0], step.params["y"])
    if step.name in {"concatenate", "stack"}:
        return _union(*taken)
    if step.name == "select_n":
        return _union(*taken[1:])
    if step.name in {"reduce_sum", "cumsum"}:
        low, high = taken[0]
        return (0.0 if low >= 0 else -math.inf), (0.0 if high <= 0 else math.inf)
    if step.name == "pad":
        return _union(*taken)
    rule = _RULES.get(step.name)
    return rule(*taken) if rule else ANY


def _union(*ranges: Range) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _product(a: Range, b: Range) -> Range:
    corners = [_times(p, q) for p in a for q in b]
    return min(corners), max(corners)


def _square(a: Range) -> Range:
    low, high = _product(a, a)
    return (0.0 if a[0] <= 0 <= a[1] else max(low, 0.0)), high


def _power(a: Range, power: int) -> Range:
    if power > 0 and power % 2 == 0:
        low, high = _square(a)
        return low ** (power // 2), _raised(high, power // 2)
    return (0.0, math.inf) if power % 2 == 0 or a[0] >= 0 else ANY


def _raised(value: float, power: int) -> float:
    try:
        return value**power
    except OverflowError:
        return math.inf


def _monotone(function: Callable[[float], float], least=-math.inf, most=math.inf):
    """Rule of a growing function with values in [least, most]."""

    def end(value: float, otherwise: float) -> float:
        try:
            return min(max(function(value), least), most)
        except (OverflowError, ValueError):
            return otherwise

    return lambda a: (end(a[0], least), end(a[1], most))


def _abs(a: Range) -> Range:
    low, high = sorted((abs(a[0]), abs(a[1])))
    return (0.0 if a[0] <= 0 <= a[1] else low), high


def _quotient(a: Range, b: Range) -> Range:
    if b[0] > 0 or b[1] < 0:
        return _product(a, (1 / b[1], 1 / b[0]))
    if b[0] >= 0:  # a/0 is ∞ or NaN, of the sign of a
        return (0.0 if a[0] >= 0 else -math.inf), (0.0 if a[1] <= 0 else math.inf)
    return ANY


def _nonnegative(*_: Range) -> Range:
    return 0.0, math.inf


def _within(low: float, high: float):
    return lambda *_: (low, high)


_KEEPING = frozenset(
    {"reduce_max", "reduce_min", "cummax", "cummin", "sort", "dynamic_slice"}
    | {"convert_element_type"}
)
_RULES = {
    "neg": lambda a: (-a[1], -a[0]),
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "add_any": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "div": _quotient,
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "clamp": lambda low, a, high: (
        min(max(a[0], low[0]), high[1]),
        min(max(a[1], low[0]), high[1]),
    ),
    "abs": _abs,
    "square": _square,
    "sign": _within(-1.0, 1.0),
    "exp": _monotone(math.exp, least=0.0),
    "exp2": _nonnegative,
    "expm1": _monotone(math.expm1, least=-1.0),
    "log1p": _monotone(math.log1p),
    "logistic": _within(0.0, 1.0),
    "tanh": _within(-1.0, 1.0),
    "erf": _within(-1.0, 1.0),
    "erfc": _within(0.0, 2.0),
    "sin": _within(-1.0, 1.0),
    "cos": _within(-1.0, 1.0),
    "sqrt": _nonnegative,
    "rsqrt": _nonnegative,
    "cosh": _within(1.0, math.inf),
}


def _is_variance(step: Step, program: Program, makers) -> bool:
    """Whether a difference is E[v²] − (E v)², negative by rounding alone."""
    of_squares, of_mean = (_peeled(number, makers) for number in step.inputs)
    squares, count = _mean(of_squares, program, makers)
    mean = _squared(of_mean, makers)
    values, other_count = _mean(_peeled(mean, makers), program, makers)
    if squares is None or values is None or count != other_count:
        return False
    return _squared(squares, makers) == values


def _is_share(step: Step, makers) -> bool:
    """Whether a quotient is v/Σv, as in a softmax."""
    total = makers.get(_peeled(step.inputs[1], makers))
    return total is not None and (total.name, total.inputs[0]) == (
        "reduce_sum",
        step.inputs[0],
    )


def _peeled(number: int | None, makers) -> int | None:
    """The value behind broadcasts and reshapes, which repeat or lay out its numbers."""
    while number in makers and makers[number].name in {"broadcast_in_dim", "reshape"}:
        number = makers[number].inputs[0]
    return number


def _squared(number: int | None, makers) -> int | None:
    """v for the value v², else None."""
    step = makers.get(number)
    if step is None:
        return None
    if step.name == "square" or (step.name == "integer_pow" and step.params["y"] == 2):
        return step.inputs[0]
    if step.name == "mul" and step.inputs[0] == step.inputs[1]:
        return step.inputs[0]
    return None


def _mean(number: int | None, program: Program, makers):
    """(v, axes) for the value that is the mean of v over them, else (None, None)."""
    step = makers.get(number)
    has_inputs = step is not None and step.inputs  # an iota has none
    total = makers.get(_peeled(step.inputs[0], makers)) if has_inputs else None
    if total is None or step.name != "div" or total.name != "reduce_sum":
        return None, None
    axes, shape = tuple(total.params["axes"]), program.types[total.inputs[0]].shape
    count = math.prod(shape[axis] for axis in axes)
    if _constant_range(program.constants.get(step.inputs[1])) != (count, count):
        return None, None
    return total.inputs[0], axes
