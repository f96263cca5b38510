"""What a model's tracing tells and costs: traced once, and how large its arrays are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from r2et_jax.devices import programs_in
from r2et_jax.execution import IN_CACHE, kept

# Numbers in the largest array of a chunk: 50 draws of SmoothGrad on images of digits
# take a third less time by four images than by 64.
_IN_CACHE = 2**20


def traced_once(form: Any) -> Any:
    """The form for programs that call its model at many places.

    The model is traced once for each shape in a process and then copied into whatever
    calls it, derivatives and batches of it too: the programs are the same. Flax traces
    a network slowly, and an audit calls it at seventy places.

    Args:
      form: functions, see `subject.Form`.

    Returns:
      A form of the same numbers; the same one for the same functions.
    """
    apply = _copied(form.apply)
    smoothed = form.smoothed and _smoothed(form.smoothed, form.apply, apply)
    return form._replace(apply=apply, smoothed=smoothed)


@kept
def _copied(apply):
    return jax.jit(apply, inline=True)


@kept
def _smoothed(smoothed, apply, copied):
    def of_sharpness(rho):
        made = smoothed(rho)
        # A stand-in that is the model itself must stay so, see `Form.stand_in`.
        return copied if made == apply else made

    return of_sharpness


def examples_in_cache(fn: Callable[..., Any], shared: Any, batched: Any) -> int:
    """Examples at a time whose largest array suits a core's cache.

    Args:
      fn: `fn(shared, *example)`, which is traced.
      shared: its first argument.
      batched: the others, with a leading axis of examples.

    Returns:
      A number in 1…`execution.IN_CACHE`.
    """
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], leaf.dtype), batched
    )
    largest = _largest(jax.make_jaxpr(fn)(shared, *example).jaxpr)
    return min(max(_IN_CACHE // largest, 1), IN_CACHE)


def _largest(program: Any) -> int:
    """Numbers in the largest array that a program makes, those inside of it too."""
    made = (
        int(np.prod(getattr(variable.aval, "shape", ()), dtype=np.int64))
        for equation in program.eqns
        for variable in equation.outvars
    )
    inside = (_largest(p) for e in program.eqns for p in programs_in(e.params))
    return max(*made, *inside, 1, 1)
