"""Evaluating a program with other forms of its kinks, or with its switches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.programs.finding import Reading
from r2et_jax.programs.steps import Step, bind
from r2et_jax.programs.surrogates import Forms
from r2et_jax.types import Array


def run(
    reading: Reading,
    arguments: list[Any],
    *,
    forms: Forms | None = None,
    switching: list[Array] | None = None,
) -> list[Any]:
    """The outputs of a program that was read.

    Args:
      reading: the program and its kinks.
      arguments: its inputs.
      forms: what stands in place of its kinks, or None for the program as it is.
      switching: a list that the switching values are appended to, or None.
    """
    program = reading.program
    values = dict(program.constants)
    values.update(zip(program.inputs, arguments, strict=True))
    for index, step in enumerate(program.steps):
        kink, bodies = reading.kinks.get(index), reading.bodies.get(index)
        if kink is None and forms is not None:
            kink = reading.beside.get(index)
        if kink is not None and switching is not None and kink.moves:
            switching.extend(kink.switches(values.__getitem__))
        taken = [values[number] for number in step.inputs]
        if kink is not None and forms is not None:
            made = [kink.replaced(values.__getitem__, forms)]
        elif bodies is not None:
            made = _RUNS[step.name](step, bodies, taken, forms, switching)
        else:
            made = bind(step, taken)
        if kink is not None or bodies is not None:
            made = [
                _like(value, program.types[number])
                for value, number in zip(made, step.outputs, strict=True)
            ]
        values.update(zip(step.outputs, made, strict=True))
    return [values[number] for number in program.outputs]


def _like(value: Array, aval: Any) -> Array:
    """The value in the shape and type that the program's own result has."""
    return jnp.broadcast_to(value, aval.shape).astype(aval.dtype)


def _flat(switching: list[Array] | None) -> list[Array]:
    """The switching values of a body as one vector, in a list; empty for none."""
    flat = [jnp.asarray(values).reshape(-1) for values in switching or []]
    return [jnp.concatenate(flat)] if flat else []


def _scan(
    step: Step,
    bodies,
    taken: list[Any],
    forms: Forms | None,
    switching: list[Array] | None,
):
    settings, (body,) = step.params, bodies
    first, second = settings["num_consts"], settings["num_carry"]
    second += first

    def turn(carry, xs):
        inner: list[Array] | None = None if switching is None else []
        made = run(body, [*taken[:first], *carry, *xs], forms=forms, switching=inner)
        return made[: second - first], (made[second - first :], _flat(inner))

    carry, (ys, switches) = jax.lax.scan(
        turn,
        taken[first:second],
        taken[second:],
        length=settings["length"],
        reverse=settings["reverse"],
        unroll=settings["unroll"],
    )
    if switching is not None:
        switching.extend(switches)
    return [*carry, *ys]


def _cond(
    step: Step,
    bodies,
    taken: list[Any],
    forms: Forms | None,
    switching: list[Array] | None,
):
    index, *operands = taken

    def branch(body: Reading):
        def computed(*operands):
            inner: list[Array] | None = None if switching is None else []
            return run(body, list(operands), forms=forms, switching=inner), _flat(inner)

        return computed

    branches = [branch(body) for body in bodies]
    made = [jax.eval_shape(computed, *operands)[1] for computed in branches]

    def placed(number: int):
        """The branch, with zeros for the switching values of the others."""

        def computed(*operands):
            out, inner = branches[number](*operands)
            rows = [
                part if n == number else jnp.zeros(part.shape, part.dtype)
                for n in range(len(branches))
                for part in (inner if n == number else made[n])
            ]
            return out, rows

        return computed

    out, switches = jax.lax.switch(
        index, [placed(number) for number in range(len(branches))], *operands
    )
    if switching is not None:
        switching.extend(switches)
    return out


_RUNS = {"scan": _scan, "cond": _cond}
