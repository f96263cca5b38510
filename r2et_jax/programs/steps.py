"""A model's program as a flat list of steps, and running it again.

`jax.make_jaxpr` gives the program of a function as equations, some of which hold
programs of their own. Calls are opened here, so that what a kink is made of (a
comparison in one function, its selection in another) stands in one list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from r2et_jax.types import ApplyFn, Array, Params

# Calls that compute what their body computes, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
# Calls whose derivative is not that of their body.
CUSTOM_CALLS = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


class Step(NamedTuple):
    """One primitive operation on numbered values.

    Attributes:
      primitive: the JAX primitive.
      params: its static parameters.
      inputs: numbers of the values that it takes.
      outputs: numbers of the values that it makes.
      context: the JAX settings under which it was traced.
      sources: where in the model's source it was traced, and the calls that it was
        opened from, the innermost first; see `origin`.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    context: Any
    sources: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return self.primitive.name


class Program(NamedTuple):
    """A function as steps on numbered values.

    Attributes:
      inputs: numbers of the arguments.
      outputs: numbers of the results.
      steps: in the order of evaluation.
      constants: number -> value, the literals and what the function closes over.
      types: number -> shape and dtype of the value.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    constants: dict[int, Any]
    types: dict[int, Any]


class _Writer:
    """Collects the steps of a program while its calls are opened."""

    def __init__(self, opens: Callable[[Step, ClosedJaxpr], bool]):
        self.opens = opens
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self.types: dict[int, Any] = {}

    def new(self, aval: Any) -> int:
        self.types[len(self.types)] = aval
        return len(self.types) - 1

    def constant(self, value: Any, aval: Any) -> int:
        number = self.new(aval)
        self.constants[number] = value
        return number

    def write(
        self,
        closed: ClosedJaxpr,
        inputs: tuple[int, ...],
        sources: tuple[Any, ...] = (),
    ) -> tuple[int, ...]:
        jaxpr = closed.jaxpr
        numbers = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            numbers[var] = self.constant(value, var.aval)

        def number(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self.constant(atom.val, atom.aval)
            return numbers[atom]

        for eqn in jaxpr.eqns:
            taken = tuple(number(atom) for atom in eqn.invars)
            body = call_body(eqn.primitive.name, eqn.params)
            places = (eqn.source_info, *sources)
            step = Step(eqn.primitive, eqn.params, taken, (), eqn.ctx, places)
            if body is not None and self.opens(step, body):
                made = self.write(body, taken, places)
            else:
                made = tuple(self.new(var.aval) for var in eqn.outvars)
                self.steps.append(step._replace(outputs=made))
            numbers.update(zip(eqn.outvars, made, strict=True))
        return tuple(number(atom) for atom in jaxpr.outvars)


def call_body(name: str, params: dict[str, Any]) -> ClosedJaxpr | None:
    """The program that a call holds, if the primitive is a call."""
    key = _CALLS.get(name) or CUSTOM_CALLS.get(name)
    body = params.get(key) if key else None
    return ClosedJaxpr(body, ()) if isinstance(body, Jaxpr) else body


def call_title(step: Step) -> str:
    """The name of the function that a step calls, or "" where none is kept."""
    return getattr(_origin(step), "func_name", None) or ""


def comes_with_jax(step: Step) -> bool:
    """Whether the function that a step calls is JAX's own."""
    file = getattr(_origin(step), "func_filename", None) or ""
    return Path(jax.__file__).parent in Path(file).parents


def origin(step: Step) -> str:
    """The line that a step was traced from, "file:line (function)"; "" if not kept.

    The innermost one outside of JAX and Flax, which is the model's own. Functions that
    JAX keeps traced know their own lines alone; then it is that of their call.
    """
    for source in step.sources:
        frames = getattr(getattr(source, "traceback", None), "frames", None)
        for frame in frames or ():
            if not _LIBRARIES.search(frame.file_name):
                return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return ""


_LIBRARIES = re.compile(r"[\\/](jax|jaxlib|flax)[\\/]")


def _origin(step: Step) -> Any:
    """Where the function that a call was made of stands, None where it is not kept."""
    body = step.params.get("call_jaxpr") or step.params.get("jaxpr")
    return getattr(getattr(body, "jaxpr", body), "debug_info", None)


def program_of(
    closed: ClosedJaxpr, opens: Callable[[Step, ClosedJaxpr], bool]
) -> Program:
    """The flat form of a closed jaxpr.

    Args:
      closed: what `jax.make_jaxpr` returns.
      opens: `opens(call, body)`, whether a call is replaced by the steps of its body.
    """
    writer = _Writer(opens)
    inputs = tuple(writer.new(var.aval) for var in closed.jaxpr.invars)
    outputs = writer.write(closed, inputs)
    return Program(inputs, outputs, tuple(writer.steps), writer.constants, writer.types)


class Traced(NamedTuple):
    """The jaxpr of `apply(params, x)` for one input, and its arguments laid flat.

    Attributes:
      closed: the jaxpr.
      arguments: the leaves of params, then those of x.
      num_params: leaves of params among them.
      restore: flat results -> what `apply` returns.
    """

    closed: ClosedJaxpr
    arguments: list[Array]
    num_params: int
    restore: Callable[[list[Array]], Any]


def trace(apply: ApplyFn, params: Params, x: Array) -> Traced:
    """Trace `apply` at the shapes of its arguments; nothing is computed."""
    closed, shape = jax.make_jaxpr(apply, return_shape=True)(params, x)
    leaves, inputs = jax.tree.leaves(params), jax.tree.leaves(x)
    structure = jax.tree.structure(shape)
    return Traced(closed, leaves + inputs, len(leaves), structure.unflatten)


def open_bodies(step: Step) -> Iterator[ClosedJaxpr]:
    """The programs that a step that is no call holds, such as a scan's body."""
    for value in step.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item
            elif isinstance(item, Jaxpr):
                yield ClosedJaxpr(item, ())


def bind(step: Step, values: list[Any]) -> list[Any]:
    """What the step makes of the values."""
    params = step.primitive.get_bind_params(step.params)
    with step.context.manager:
        made = step.primitive.bind(*values, **params)
    return list(made) if step.primitive.multiple_results else [made]


def known_value(value: Any) -> np.ndarray | None:
    """A constant as numbers; None for one that is traced, large or no real number."""
    if isinstance(value, jax.core.Tracer) or np.size(value) > _LARGE:
        return None
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    if not any(jax.numpy.issubdtype(dtype, kind) for kind in _REAL):
        return None
    return np.asarray(value).astype(np.float64)


_LARGE = 2**20
_REAL = (np.floating, np.integer, np.bool_)
