"""The primitives that are linear in what moves: all through one rule.

What only moves entries around keeps sparse symbols sparse and rounds nothing; the rest
sums products, at most `terms` of them for an entry of its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds.forms import Form, Space
from r2et_jax.bounds.jets import Truth
from r2et_jax.bounds.linear import linear_map
from r2et_jax.programs.steps import Step, bind

# Entries are moved around, repeated, left out or put beside known ones.
STRUCTURAL = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "copy",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "pad",
        "reshape",
        "rev",
        "scatter",
        "select_n",
        "slice",
        "split",
        "squeeze",
        "stack",
        "stop_gradient",
        "tile",
        "transpose",
        "unstack",
    }
)


def _contracted(step: Step, shapes: list[tuple[int, ...]]) -> int:
    (dimensions, _), _ = step.params["dimension_numbers"]
    return math.prod(shapes[0][axis] for axis in dimensions)


def _window(step: Step, shapes: list[tuple[int, ...]]) -> int:
    """Products in an entry of a convolution: the kernel's for one output channel."""
    features = step.params["dimension_numbers"].rhs_spec[0]
    return math.prod(shapes[1]) // max(shapes[1][features], 1)


def _one(step: Step, shapes) -> int:
    return 1


_TERMS: dict[str, Callable[[Step, list[tuple[int, ...]]], int]] = {
    "add": _one,
    "add_any": _one,
    "conv_general_dilated": _window,
    "convert_element_type": _one,
    "cumsum": lambda step, shapes: shapes[0][step.params["axis"]],
    "div": _one,
    "dot_general": _contracted,
    "mul": _one,
    "neg": lambda step, shapes: 0,
    "reduce_sum": lambda step, shapes: math.prod(
        shapes[0][axis] for axis in step.params["axes"]
    ),
    "reduce_window_sum": lambda step, shapes: math.prod(
        step.params["window_dimensions"]
    ),
    "scatter-add": lambda step, shapes: math.prod(shapes[2]) + 1,
    "sub": _one,
}
LINEAR = STRUCTURAL | frozenset(_TERMS)
# Linear in each of two arguments.
BILINEAR = frozenset({"conv_general_dilated", "dot_general", "mul"})
_ELEMENTWISE = frozenset(
    {"add", "add_any", "convert_element_type", "div", "mul", "neg", "sub"}
)


def exact(step: Step) -> Step:
    """The step with products in the full precision of its type, on every backend."""
    if "precision" not in step.params:
        return step
    return step._replace(
        params={**step.params, "precision": (jax.lax.Precision.HIGHEST,) * 2}
    )


def num_terms(step: Step, taken: list[Any]) -> int:
    """Products that an entry of the result sums."""
    if step.name in STRUCTURAL:
        return 0
    return _TERMS[step.name](step, [jnp.shape(value) for value in map(_array, taken)])


def _known_terms(step: Step, taken: list[Any]) -> Any:
    """The same for each entry, without those of known zeros, which round nothing.

    Of a convolution as a banded matrix that leaves the products of the kernel.
    """
    if step.name not in {"conv_general_dilated", "dot_general"}:
        return num_terms(step, taken)
    dtype = next(value.dtype for value in taken if isinstance(value, Form))
    present = [
        jnp.ones(value.shape, dtype)
        if isinstance(value, Form)
        else (jnp.asarray(value) != 0).astype(dtype)
        for value in taken
    ]
    return bind(step, present)[0]


def _array(value: Any) -> Any:
    return value.center if isinstance(value, Form) else value


def linear_step(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    """A linear step on forms and known arrays, or a structural one on booleans."""
    if any(isinstance(value, Truth) for value in taken):
        return _of_truths(step, taken)
    step = exact(step)
    places = [n for n, value in enumerate(taken) if isinstance(value, Form)]
    forms = [taken[n] for n in places]

    def filled(values, known=lambda x: x):
        rest = [x if isinstance(x, Form) else known(x) for x in taken]
        for place, value in zip(places, values, strict=True):
            rest[place] = value
        return rest

    def f(*values):
        return bind(step, filled(values))

    def absolute(*values):
        rest = filled(values, _magnitude)
        if step.name == "neg":
            return rest
        if step.name == "sub":
            return [rest[0] + rest[1]]
        return bind(step, rest)

    shapes = {form.shape for form in forms}
    shapes |= {aval.shape for aval in map(jax.typeof, f(*(x.center for x in forms)))}
    return linear_map(
        space,
        f,
        forms,
        terms=_known_terms(step, taken),
        absolute=absolute,
        ends=_ends(step, taken, filled),
        places=_places(step, taken, filled) if step.name in STRUCTURAL else None,
        elementwise=step.name in _ELEMENTWISE and len(shapes) == 1,
    )


def _magnitude(value: Any) -> Any:
    floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
    return jnp.abs(value) if floating else value


def _ends(step: Step, taken: list[Any], filled):
    """The results' intervals from the arguments', by the signs of what is known."""
    known = next((n for n, x in enumerate(taken) if not isinstance(x, Form)), None)

    def growing(lows, highs):
        return bind(step, filled(lows)), bind(step, filled(highs))

    def negated(lows, highs):
        return [-highs[0]], [-lows[0]]

    def subtracted(lows, highs):
        pairs = []
        for first, second in ((lows, highs), (highs, lows)):
            a, b = filled(first), filled(second)
            pairs.append(bind(step, [a[0], b[1]]))
        return pairs[0], pairs[1]

    def scaled(lows, highs):
        a, b = growing(lows, highs)
        return [jnp.minimum(a[0], b[0])], [jnp.maximum(a[0], b[0])]

    def split(lows, highs):
        pairs = []
        for first, second in ((lows, highs), (highs, lows)):
            parts = []
            for values, part in ((first, jnp.maximum), (second, jnp.minimum)):
                rest = filled(values)
                rest[known] = part(rest[known], 0)
                parts.append(bind(step, rest)[0])
            pairs.append([parts[0] + parts[1]])
        return pairs[0], pairs[1]

    if step.name == "neg":
        return negated
    if step.name == "sub":
        return subtracted
    if step.name in {"mul", "div"}:
        return scaled
    return split if step.name in BILINEAR else growing


def _places(step: Step, taken: list[Any], filled):
    """The step on arrays of symbols; None of them where an index is not known yet."""

    def moved(*symbols):
        def known(value):
            if jnp.issubdtype(jnp.result_type(value), jnp.floating):
                return np.full(np.shape(value), -1, np.int32)
            return value

        rest = filled(symbols, known)
        if any(isinstance(value, jax.core.Tracer) for value in rest):
            return None
        with jax.ensure_compile_time_eval():
            return [np.asarray(out) for out in bind(step, [*map(jnp.asarray, rest)])]

    return moved


def _of_truths(step: Step, taken: list[Any]) -> list[Truth]:
    sides = []
    for side in ("surely", "maybe"):
        values = [getattr(x, side) if isinstance(x, Truth) else x for x in taken]
        sides.append(bind(step, values))
    return [Truth(*pair) for pair in zip(*sides, strict=True)]
