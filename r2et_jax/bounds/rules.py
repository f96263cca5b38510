"""The rule of each primitive that is not linear in what moves.

`RULES[name](space, step, taken) -> results`, of affine forms, booleans, known arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds import switches
from r2et_jax.bounds.elementwise import ELEMENTWISE, as_jet
from r2et_jax.bounds.enclosure import enclose
from r2et_jax.bounds.forms import Form, Space
from r2et_jax.bounds.jets import Truth
from r2et_jax.bounds.linear import clipped, combination, linear_map, moved, shifted
from r2et_jax.bounds.linear_steps import exact, linear_step, num_terms
from r2et_jax.bounds.products import bilinear, product
from r2et_jax.programs.steps import Step, bind
from r2et_jax.programs.surrogates import windows

Rule = Callable[[Space, Step, list[Any]], list[Any]]


def as_form(space: Space, value: Any, dtype: Any = None) -> Form:
    """A form of whatever a step takes."""
    if isinstance(value, Form):
        return value
    if isinstance(value, Truth):
        return switches.as_form(space, value, dtype)
    return space.constant(jnp.asarray(value))


def as_truth(value: Any) -> Truth:
    if isinstance(value, Truth):
        return value
    array = jnp.asarray(value)
    return Truth(array, array)


def alike(space: Space, taken: list[Any]) -> list[Form]:
    """The arguments as forms of one shape."""
    dtype = next(value.dtype for value in taken if isinstance(value, Form))
    forms = [as_form(space, value, dtype) for value in taken]
    shape = np.broadcast_shapes(*(form.shape for form in forms))
    return [
        form
        if form.shape == shape
        else moved(space, lambda x: jnp.broadcast_to(x, shape), form)
        for form in forms
    ]


def function_of(space: Space, function, form: Form, knots=()) -> Form:
    """A function of one variable, of a form: its two lines."""
    low, high = space.interval(form)
    lines = enclose(function, low, high, knots=knots, policy=space.policy)
    zero = jnp.zeros((), form.dtype)
    made = combination(space, [(lines.slope, form)], zero)
    return clipped(shifted(space, made, lines.low, lines.high), lines.least, lines.most)


def _two_factors(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    if not all(isinstance(value, Form) for value in taken):
        return linear_step(space, step, taken)
    if step.name == "mul":
        return [product(space, *alike(space, taken))]
    inner, terms = exact(step), num_terms(step, taken)
    made = bilinear(space, lambda a, b: bind(inner, [a, b])[0], *taken, terms=terms)
    return [made]


def _quotient(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    if not isinstance(taken[1], Form):
        return linear_step(space, step, taken)
    x, y = alike(space, taken)

    def reciprocal(jet):
        unit = as_jet(np.ones((), jet.ends.dtype), jet.ends.ndim)
        return ELEMENTWISE["div"]([unit, jet], {})

    return [product(space, x, function_of(space, reciprocal, y))]


def _compare(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    return [switches.compare(space, step.name, *alike(space, taken))]


def _logical(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    return [ELEMENTWISE[step.name]([as_truth(value) for value in taken], step.params)]


def _select(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    which, *cases = taken
    if not isinstance(which, Truth):
        return linear_step(space, step, taken)
    if not any(isinstance(case, Form) for case in cases):
        if any(isinstance(case, Truth) or case.dtype == bool for case in cases):
            return _logical(space, step, taken)
        cases = [as_form(space, case) for case in cases]
    return [switches.select(space, which, *alike(space, cases))]


def _convert(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    if isinstance(taken[0], Truth):
        return [switches.as_form(space, taken[0], step.params["new_dtype"])]
    return linear_step(space, step, taken)


def _larger(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    return [_of_two(space, step.name, *alike(space, taken))]


def _of_two(space: Space, name: str, x: Form, y: Form) -> Form:
    if name == "max":
        return switches.larger(space, x, y)
    return _negated(
        space, switches.larger(space, _negated(space, x), _negated(space, y))
    )


def _clamp(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    low, value, high = alike(space, taken)
    return [_of_two(space, "min", _of_two(space, "max", value, low), high)]


def _negated(space: Space, form: Form) -> Form:
    (made,) = linear_map(
        space,
        lambda x: [-x],
        [form],
        absolute=lambda x: [x],
        ends=lambda lows, highs: ([-highs[0]], [-lows[0]]),
        elementwise=True,
    )
    return made


def peak_over_axes(space: Space, step: Step, form: Form) -> switches.Peak:
    """The largest (or smallest) entry over axes, and which of the entries [*shape]."""
    axes = tuple(int(axis) for axis in step.params["axes"])
    is_max = step.name == "reduce_max"
    tiles = switches.tiled(space, form if is_max else _negated(space, form), axes)
    value, truth = switches.largest(space, tiles)
    value = value if is_max else _negated(space, value)
    kept = [axis for axis in range(len(form.shape)) if axis not in axes]
    order = np.argsort((*kept, *axes))
    turned = tuple(form.shape[axis] for axis in (*kept, *axes))
    parts = (jnp.transpose(part.reshape(turned), order) for part in truth)
    return switches.Peak(value, Truth(*parts))


def _reduce_max(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    return [peak_over_axes(space, step, taken[0]).value]


def _any_or_all(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    return [Truth(*(bind(step, [side])[0] for side in taken[0]))]


def _window_settings(step: Step) -> dict[str, Any]:
    rank = len(step.params["window_dimensions"])
    settings = {"window_dilation": (1,) * rank, "base_dilation": (1,) * rank}
    return {**settings, **step.params}


def _tiles(space: Space, form: Form, settings: dict[str, Any]):
    """The entries of each window on a new last axis, and which are inside."""
    _, valid = windows(jnp.zeros(form.shape, bool), settings)

    def places(index):
        with jax.ensure_compile_time_eval():
            # Numbered from 1, as what is outside of the array is 0.
            return [np.asarray(windows(jnp.asarray(index) + 1, settings)[0]) - 1]

    def f(x):
        return [windows(x, settings)[0]]

    return linear_map(space, f, [form], places=places)[0], valid


def _window_max(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    settings = _window_settings(step)
    if any(hole != 1 for hole in settings["base_dilation"]):
        raise NotImplementedError
    is_max = step.name == "reduce_window_max"
    form = taken[0] if is_max else _negated(space, taken[0])
    value = switches.largest(space, *_tiles(space, form, settings)).value
    return [value if is_max else _negated(space, value)]


def _scattered_to_peak(space: Space, step: Step, taken: list[Any]) -> list[Any]:
    """The derivative of a maximum over windows: each goes to its window's largest."""
    source, operand = (as_form(space, value) for value in taken)
    settings = _window_settings(step)
    sign = {"ge": 1, "le": -1}.get(step.params["select_prim"].name)
    if sign is None:
        raise NotImplementedError
    operand = operand if sign == 1 else _negated(space, operand)
    tiles, valid = _tiles(space, operand, settings)
    truth = switches.largest(space, tiles, valid).truth
    spread = moved(space, lambda x: jnp.broadcast_to(x[..., None], tiles.shape), source)
    nothing = space.constant(jnp.zeros(tiles.shape, source.dtype))
    parts = switches.select(space, truth, nothing, spread)
    example = jnp.zeros(operand.shape, source.dtype)
    _, pull = jax.vjp(lambda x: windows(x, settings)[0], example)
    count = math.prod(settings["window_dimensions"])
    return linear_map(space, lambda x: list(pull(x)), [parts], terms=count)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), _two_factors),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compare),
    **dict.fromkeys(("and", "not", "or", "xor"), _logical),
    **dict.fromkeys(("max", "min"), _larger),
    **dict.fromkeys(("reduce_max", "reduce_min"), _reduce_max),
    **dict.fromkeys(("reduce_and", "reduce_or"), _any_or_all),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), _window_max),
    "clamp": _clamp,
    "convert_element_type": _convert,
    "div": _quotient,
    "select_and_scatter_add": _scattered_to_peak,
    "select_n": _select,
}
