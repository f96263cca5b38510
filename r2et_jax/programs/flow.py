"""What in a program changes with its input, and what reaches its output."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.programs.steps import Program, Step, open_bodies

# Piecewise constant in their input: no derivative passes.
FLAT = frozenset({"sign", "floor", "ceil", "round", "stop_gradient"})
_ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "div", "neg", "convert_element_type", "copy", "max", "min"}
    | {"abs", "exp", "log", "tanh", "logistic", "sqrt", "rsqrt", "integer_pow"}
)


def depending(program: Program, inputs: set[int]) -> set[int]:
    """Numbers of the values that change with the given ones in any way."""
    changing = set(inputs)
    for step in program.steps:
        if changing.intersection(step.inputs):
            changing.update(step.outputs)
    return changing


def moving(program: Program, inputs: set[int]) -> set[int]:
    """Numbers of the values that have a derivative in the given ones."""
    moved = {number for number in inputs if is_float(program, number)}
    for step in program.steps:
        if step.name not in FLAT and moved.intersection(step.inputs):
            moved.update(n for n in step.outputs if is_float(program, n))
    return moved


def moving_entries(program: Program, moves: set[int], inputs: set[int]) -> set[int]:
    """The moving values that still move if entries are told apart where that is easy.

    Two arrays laid side by side and taken apart again, such as the inputs of a model of
    pairs: the part that held no moving entry is left out.
    """
    masks: dict[int, np.ndarray] = {}

    def mask(number: int) -> np.ndarray:
        shape = program.types[number].shape
        return np.full(shape, number in moves and number in inputs)

    for number in program.types:
        if number in inputs or number not in moves:
            masks[number] = mask(number)
    for step in program.steps:
        if not moves.intersection(step.outputs):
            continue
        taken = [masks[number] for number in step.inputs]
        if not any(part.any() for part in taken):
            parts = [np.full(program.types[n].shape, False) for n in step.outputs]
        elif len(step.outputs) > 1:
            parts = _divided(step, taken[0])
        else:
            part = _rearranged(step, taken, program.types[step.outputs[0]].shape)
            parts = [part] if part is not None else None
        for index, number in enumerate(step.outputs):
            whole = np.full(program.types[number].shape, number in moves)
            masks[number] = whole if parts is None else parts[index]
    return {number for number in moves if masks[number].any()}


def _divided(step: Step, mask: np.ndarray) -> list[np.ndarray] | None:
    """The masks of the parts that a step takes an array apart into, else None."""
    if step.name == "unstack":
        return list(np.moveaxis(mask, step.params["axis"], 0))
    if step.name == "split":
        ends = np.cumsum(step.params["sizes"])[:-1]
        return np.split(mask, ends, axis=step.params["axis"])
    return None


def _rearranged(step: Step, masks: list[np.ndarray], shape: tuple[int, ...]):
    """The mask of the moving entries that a step only moves around, else None."""
    first, params = masks[0], step.params
    if step.name == "concatenate":
        return np.concatenate(masks, axis=params["dimension"])
    if step.name == "stack":
        return np.stack(masks, axis=params["axis"])
    if step.name == "slice":
        strides = params["strides"] or (1,) * first.ndim
        bounds = params["start_indices"], params["limit_indices"], strides
        return first[tuple(map(slice, *bounds))]
    if step.name == "squeeze" or (step.name == "reshape" and not params["dimensions"]):
        return first.reshape(shape)
    if step.name == "transpose":
        return first.transpose(params["permutation"])
    if step.name == "broadcast_in_dim":
        spread = [1] * len(shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            spread[place] = first.shape[axis]
        return np.broadcast_to(first.reshape(spread), shape)
    if step.name in _ELEMENTWISE:
        return np.broadcast_to(np.any(np.broadcast_arrays(*masks), axis=0), shape)
    return None


def array_sources(program: Program) -> set[int]:
    """Numbers of the float arguments, and of the float arrays that are closed over."""
    closed = {number for number in program.constants if program.types[number].shape}
    return {n for n in closed.union(program.inputs) if is_float(program, n)}


def mixing(program: Program, sources: set[int]) -> set[int]:
    """Numbers of the values that are made from two of the sources, or more."""
    made_from = {number: {number} & sources for number in program.types}
    for step in program.steps:
        taken = set().union(*(made_from[number] for number in step.inputs))
        for number in step.outputs:
            # Which two does not matter, so that the sets stay small.
            made_from[number] = set(sorted(taken)[:2])
    return {number for number, taken in made_from.items() if len(taken) > 1}


def reaching(program: Program) -> set[int]:
    """Numbers of the values that the outputs depend on in any way."""
    needed = set(program.outputs)
    for step in reversed(program.steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
    return needed


def felt(program: Program, moves: set[int]) -> set[int]:
    """Numbers of the moving values whose derivative reaches an output."""
    carrying = {number for number in program.outputs if number in moves}
    for step in reversed(program.steps):
        if step.name not in FLAT and carrying.intersection(step.outputs):
            carrying.update(number for number in step.inputs if number in moves)
    return carrying


def is_float(program: Program, number: int) -> bool:
    return jnp.issubdtype(program.types[number].dtype, jnp.inexact)


def equal_values(program: Program) -> dict[int, int]:
    """Number -> the first number that holds the same value, itself where none does."""
    same = {number: number for number in program.types}
    known: dict[Any, int] = {}
    for step in program.steps:
        if len(step.outputs) != 1 or any(True for _ in open_bodies(step)):
            continue
        settings = tuple(sorted((k, str(v)) for k, v in step.params.items()))
        taken = tuple(_label(program, same[number]) for number in step.inputs)
        made = program.types[step.outputs[0]]
        key = (step.name, settings, taken, made.shape, str(made.dtype))
        same[step.outputs[0]] = known.setdefault(key, step.outputs[0])
    return same


def _label(program: Program, number: int) -> Any:
    """What two equal values share: a scalar's number and type, else the value's own."""
    value = program.constants.get(number)
    if value is None or isinstance(value, jax.core.Tracer):
        return number
    if getattr(value, "ndim", 0) or program.types[number].shape:
        return number
    return (str(program.types[number].dtype), repr(value))
