"""What in a program changes with its input, and what reaches its output."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.programs.steps import Program, open_bodies

# Piecewise constant in their input: no derivative passes.
FLAT = frozenset({"sign", "floor", "ceil", "round", "stop_gradient"})


def depending(program: Program, inputs: set[int]) -> set[int]:
    """Numbers of the values that change with the given ones in any way."""
    found = set(inputs)
    for step in program.steps:
        if found.intersection(step.inputs):
            found.update(step.outputs)
    return found


def moving(program: Program, inputs: set[int]) -> set[int]:
    """Numbers of the values that have a derivative in the given ones."""
    found = {number for number in inputs if is_float(program, number)}
    for step in program.steps:
        if step.name not in FLAT and found.intersection(step.inputs):
            found.update(n for n in step.outputs if is_float(program, n))
    return found


def reaching(program: Program) -> set[int]:
    """Numbers of the values that the outputs depend on in any way."""
    found = set(program.outputs)
    for step in reversed(program.steps):
        if found.intersection(step.outputs):
            found.update(step.inputs)
    return found


def felt(program: Program, moves: set[int]) -> set[int]:
    """Numbers of the moving values whose derivative reaches an output."""
    found = {number for number in program.outputs if number in moves}
    for step in reversed(program.steps):
        if step.name not in FLAT and found.intersection(step.outputs):
            found.update(number for number in step.inputs if number in moves)
    return found


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
