"""Whether a model has a linear part with weights of its own beside the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from r2et_jax.programs.flow import is_float
from r2et_jax.programs.steps import Program, Step, program_of, trace
from r2et_jax.types import ApplyFn, Array, Params

# Degrees in the input. Of a product they add up, with ABSENT for an empty one.
_ABSENT, _CONSTANT, _LINEAR, _OTHER = range(4)
_SUMS = frozenset(
    {"add", "add_any", "sub", "neg", "copy", "convert_element_type", "reduce_precision"}
    | {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "slice"}
    | {"concatenate", "stack", "unstack", "split", "pad", "rev", "reduce_sum", "cumsum"}
)
_PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
# What they take, by what the others say.
_CHOICES = frozenset({"gather", "dynamic_slice", "select_n"})


class _Degrees(NamedTuple):
    """Degrees in the input of a value, and of what each parameter array adds to it.

    Attributes:
      whole: of the value.
      parts: of the terms in which each parameter array stands [P].
    """

    whole: int
    parts: np.ndarray


def has_linear_part(apply: ApplyFn, params: Params, x: Array) -> bool:
    """Whether apply(params, x) = A x + rest(x), A of an array of params alone.

    An array of which all that it adds to the output is linear in x: its paths to there
    are sums, and products with x once and with what does not depend on x. Weights of a
    network stand before an activation, or after one, and so are none. The program is
    read; nothing is computed.

    Args:
      apply: any `apply(params, x) -> array`.
      params, x: their shapes and dtypes matter alone.

    Example:
      >>> import jax.numpy as jnp
      >>> both = {"a": jnp.ones(2), "w": jnp.ones(2)}
      >>> has_linear_part(lambda p, x: p["a"] @ x + abs(p["w"] @ x), both, both["a"])
      True
      >>> has_linear_part(lambda p, x: p["a"] @ x + abs(p["a"] @ x), both, both["a"])
      False
    """
    traced = trace(apply, params, x)
    program = program_of(traced.closed, lambda call, body: True)
    count = traced.num_params
    none = np.full(count, _ABSENT)
    degrees = {
        number: _Degrees(_CONSTANT, np.where(np.arange(count) == place, _CONSTANT, 0))
        if place < count
        else _Degrees(_LINEAR, none)
        for place, number in enumerate(program.inputs)
    }
    constant = _Degrees(_CONSTANT, none)
    for step in program.steps:
        taken = [degrees.get(number, constant) for number in step.inputs]
        made = _made(step, taken, program)
        degrees.update(dict.fromkeys(step.outputs, made))
    results = [degrees.get(number, constant) for number in program.outputs]
    return any(_LINEAR in result.parts for result in results)


def _made(step: Step, taken: list[_Degrees], program: Program) -> _Degrees:
    """The degrees of what a step makes."""
    whole = max((each.whole for each in taken), default=_CONSTANT)
    parts = np.max([each.parts for each in taken], axis=0) if taken else 0
    if whole == _CONSTANT:
        return _Degrees(whole, parts)
    if all(is_float(program, number) for number in step.outputs):
        if step.name in _SUMS:
            return _Degrees(whole, parts)
        if step.name in _CHOICES:
            says = taken[:1] if step.name == "select_n" else taken[1:]
            if all(each.whole == _CONSTANT for each in says):
                return _Degrees(whole, parts)
        divides = step.name == "div" and taken[1].whole == _CONSTANT
        if step.name in _PRODUCTS or divides:
            a, b = taken
            parts = np.maximum(_times(a.parts, b.whole), _times(b.parts, a.whole))
            return _Degrees(min(a.whole + b.whole - 1, _OTHER), parts)
    return _Degrees(_OTHER, np.where(parts > _ABSENT, _OTHER, _ABSENT))


def _times(parts: np.ndarray, whole: int) -> np.ndarray:
    return np.where(parts > _ABSENT, np.minimum(parts + whole - 1, _OTHER), _ABSENT)
