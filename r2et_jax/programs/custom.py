"""Calls with a derivative of their own: which are kinks, and which only look like one.

The softplus of JAX holds max and abs, and its own derivative is smooth; ReLU's own
derivative jumps where its program's does. So the derivative is asked, not the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from r2et_jax.programs.steps import Step, bind, call_title, comes_with_jax

SMOOTH, KINKED, OTHER = "smooth", "kinked", "other"
# Of jax.nn: their derivatives are those of their programs.
_KNOWN = frozenset({"relu", "relu6"})


def judge(step: Step, body: ClosedJaxpr, read: Callable[..., Any]) -> str:
    """What a call with its own derivative is.

    Args:
      step: the call.
      body: its program.
      read: `finding.read`.

    Returns:
      SMOOTH: the derivative has no jumps where the program has kinks; KINKED: it jumps,
      and is that of the program; OTHER: it jumps and is another, or the value jumps.
    """
    if comes_with_jax(step) and call_title(step) in _KNOWN:
        return KINKED
    places = [n for n, aval in enumerate(body.in_avals) if _is_float(aval)]
    reading = read(body, places)
    if +reading.left:
        return OTHER
    if not reading.is_kinked or not _jumps(step, body, places, read):
        return SMOOTH
    return KINKED if _agree(step, body, places) else OTHER


def _jumps(step: Step, body: ClosedJaxpr, places: list[int], read) -> bool:
    """Whether the derivative selects on comparisons of the arguments."""
    pull = jax.make_jaxpr(_pull(lambda *args: bind(step, list(args)), places))
    cotangents = [_like(aval) for aval in body.out_avals if _is_float(aval)]
    derivative = pull([_like(aval) for aval in body.in_avals], cotangents)
    return bool(+read(derivative, range(len(body.in_avals)), judges=False).left)


def _agree(step: Step, body: ClosedJaxpr, places: list[int]) -> bool:
    """Whether the derivative is that of the program, at points drawn at random."""
    if any(isinstance(const, jax.core.Tracer) for const in body.consts):
        return False
    rng = np.random.default_rng(0)

    def draw(aval: Any) -> jax.Array:
        drawn = rng.normal(size=aval.shape) if _is_float(aval) else 0
        return jnp.asarray(np.broadcast_to(drawn, aval.shape), aval.dtype)

    with jax.ensure_compile_time_eval():
        arguments = [draw(aval) for aval in body.in_avals]
        cotangents = [draw(aval) for aval in body.out_avals if _is_float(aval)]
        calls = (lambda *args: bind(step, list(args)), jaxpr_as_fun(body))
        mine, right = (_pull(call, places)(arguments, cotangents) for call in calls)
        return all(
            bool(jnp.all(jnp.abs(a - b) <= 1e-2 * (1 + jnp.abs(b))))
            for a, b in zip(mine, right, strict=True)
        )


def _pull(call: Callable[..., list[Any]], places: list[int]):
    """`pull(arguments, cotangents)` -> the cotangents of the arguments of `places`."""

    def pull(arguments, cotangents):
        def moved(*floats):
            filled = list(arguments)
            for place, value in zip(places, floats, strict=True):
                filled[place] = value
            return [out for out in call(*filled) if _is_float(out)]

        return jax.vjp(moved, *(arguments[place] for place in places))[1](cotangents)

    return pull


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _like(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
