"""One kinked step: what stands in its place and the values that it switches on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from r2et_jax.programs import surrogates
from r2et_jax.programs.lines import Coefficient, Line, evaluate
from r2et_jax.programs.pieces import Pieces
from r2et_jax.programs.steps import Step
from r2et_jax.programs.surrogates import Forms
from r2et_jax.types import Array

Read = Callable[[int], Any]  # number of a value -> the value


class Kink(NamedTuple):
    """A kinked step.

    Attributes:
      name: of its primitive.
      replaced: `replaced(read, forms)`, the value with these forms in its place.
      switches: `switches(read)`, arrays of the values whose signs it switches on.
      moves: whether the input moves them, rather than a context laid beside it.
    """

    name: str
    replaced: Callable[[Read, Forms], Array]
    switches: Callable[[Read], list[Array]]
    moves: bool = True


def bent(
    name: str,
    switch: tuple[int, int | None],
    low: int | Line | None,
    slope: Coefficient,
) -> Kink:
    """low + slope·relu(a − b) for the switch (a, b); None stands for zeros."""
    a, b = switch

    def difference(read: Read) -> Array:
        return read(a) if b is None else read(a) - read(b)

    def replaced(read: Read, forms: Forms) -> Array:
        rise = forms.bend(difference(read))
        factor = evaluate(slope, read)
        rise = rise if isinstance(factor, float) and factor == 1 else factor * rise
        return rise if low is None else _base(low, read) + rise

    return Kink(name, replaced, lambda read: [difference(read)])


def _base(low: int | Line, read: Read) -> Array:
    """The value of that number, or of that line."""
    if not isinstance(low, Line):
        return read(low)
    offset = evaluate(low.offset, read)
    if low.root is None:
        return offset
    return evaluate(low.scale, read) * read(low.root) + offset


def absolute(a: int) -> Kink:
    """|a|."""
    return Kink(
        "abs",
        lambda read, forms: forms.absolute(read(a)),
        lambda read: [read(a)],
    )


def clamped(low: int, a: int, high: int) -> Kink:
    """low + relu(a − low) − relu(a − high)."""

    def replaced(read: Read, forms: Forms) -> Array:
        enters = forms.bend(read(a) - read(low))
        return read(low) + enters - forms.bend(read(a) - read(high))

    return Kink(
        "clamp", replaced, lambda read: [read(a) - read(low), read(a) - read(high)]
    )


def reduced(step: Step) -> Kink:
    """The largest or the smallest value over some axes."""
    (a,), axes = step.inputs, tuple(step.params["axes"])
    sign = 1 if step.name == "reduce_max" else -1

    def replaced(read: Read, forms: Forms) -> Array:
        return sign * forms.largest(sign * read(a), axes)

    def switches(read: Read) -> list[Array]:
        return [surrogates.leads(surrogates.merged(sign * read(a), axes))]

    return Kink(step.name, replaced, switches)


def windowed(step: Step) -> Kink:
    """The largest or the smallest value of each window."""
    (a,) = step.inputs
    sign = 1 if step.name == "reduce_window_max" else -1

    def replaced(read: Read, forms: Forms) -> Array:
        values, valid = surrogates.windows(sign * read(a), step.params)
        return sign * forms.largest(values, (values.ndim - 1,), valid, shared=False)

    def switches(read: Read) -> list[Array]:
        values, valid = surrogates.windows(sign * read(a), step.params)
        leads = surrogates.leads(values, valid)
        if valid is None:
            return [leads]
        compared = valid & (valid.sum(axis=-1, keepdims=True) > 1)
        return [leads.reshape(-1)[np.flatnonzero(compared)]]

    return Kink(step.name, replaced, switches)


def pieced(name: str, made: Pieces) -> Kink:
    """The function itself, and κ·(bend(v − t) − relu(v − t)) at each of its bends.

    Of a function that is nothing but lines: the outermost one and κ·bend(v − t).
    """

    def switches(read: Read) -> list[Array]:
        return [read(made.root) - t for t, _ in made.bends]

    def replaced(read: Read, forms: Forms) -> Array:
        value = read(made.root)
        if made.start is not None:
            offset, slope = made.start
            total = offset + slope * value
        else:
            total = made.function(value)
        for (_, turn), switch in zip(made.bends, switches(read), strict=True):
            total = total + turn * forms.bend(switch)
            if made.start is None:
                total = total - turn * jnp.where(switch > 0, switch, 0)
        return total

    return Kink(name, replaced, switches)
