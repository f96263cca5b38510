"""Comparisons, selections and maxima of affine forms: one branch, or a hull of both."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds import jets
from r2et_jax.bounds.elementwise import ELEMENTWISE, as_jet
from r2et_jax.bounds.enclosure import enclose
from r2et_jax.bounds.forms import Form, Space
from r2et_jax.bounds.jets import Jet, Truth
from r2et_jax.bounds.linear import clipped, combination, linear_map, moved, shifted


def minus(space: Space, x: Form, y: Form) -> Form:
    """x − y, in which what they share cancels."""
    unit = jnp.ones((), x.dtype)
    return combination(space, [(unit, x), (-unit, y)], jnp.zeros((), x.dtype))


def compare(space: Space, name: str, x: Form, y: Form) -> Truth:
    """A comparison of two forms by the interval of their difference."""
    ends = jnp.stack(space.interval(minus(space, x, y)))
    zero = jnp.zeros((1,) * ends.ndim, ends.dtype)
    made = ELEMENTWISE[name]([Jet(ends, None), Jet(zero, None)], {})
    return Truth(*(side[0] for side in made))


def select(space: Space, which: Truth, no: Form, yes: Form) -> Form:
    """`yes` where the predicate holds, `no` where not; where it may do both, the middle
    of the two and noise that reaches either."""
    share = jnp.where(which.surely, 1.0, jnp.where(which.maybe, 0.5, 0.0))
    share = jnp.broadcast_to(share, yes.shape).astype(yes.dtype)
    terms = [(share, yes), (1 - share, no)]
    terms = [term for term in terms if not _is_zero(term[1])]
    zero = jnp.zeros((), yes.dtype)
    made = combination(space, terms, zero) if terms else space.constant(no.center)
    difference = no if len(terms) == 1 and terms[0][1] is no else yes
    if len(terms) == 2:
        difference = minus(space, yes, no)
    low, high = space.interval(difference)
    radius = jnp.maximum(jnp.abs(low), jnp.abs(high)) / 2
    radius = jnp.where(which.known, 0, radius)
    both = Truth(*(jnp.broadcast_to(side, yes.shape)[None] for side in which))
    ends = jets.where(both, *(jnp.stack(space.interval(form)) for form in (yes, no)))
    return clipped(shifted(space, made, -radius, radius), *ends)


def _is_zero(form: Form) -> bool:
    """Whether a form is known to be zero when traced."""
    if not form.is_constant or isinstance(form.center, jax.core.Tracer):
        return False
    return not np.any(np.asarray(form.center)) and not np.any(np.asarray(form.box))


def as_form(space: Space, truth: Truth, dtype) -> Form:
    """A boolean as a number: 0, 1, or one of both."""
    low, high = truth.surely.astype(dtype), truth.maybe.astype(dtype)
    return clipped(
        shifted(space, space.constant(jnp.zeros_like(low)), low, high), low, high
    )


def larger(space: Space, x: Form, y: Form) -> Form:
    """max(x, y) = y + relu(x − y)."""
    difference = minus(space, x, y)
    low, high = space.interval(difference)
    zero = jnp.zeros_like(low)
    lines = enclose(
        lambda jet: ELEMENTWISE["max"]([jet, as_jet(zero, jet.ends.ndim)], {}),
        low,
        high,
        knots=[zero],
        policy=space.policy,
    )
    ones, m = jnp.ones_like(low), lines.slope
    rise = combination(space, [(m, difference), (ones, y)], jnp.zeros((), x.dtype))
    made = shifted(space, rise, lines.low, lines.high)
    ends = zip(space.interval(x), space.interval(y), strict=True)
    return clipped(made, *(jnp.maximum(*pair) for pair in ends))


class Peak(NamedTuple):
    """The largest of several entries.

    Attributes:
      value: the maximum [...].
      truth: for each entry [..., K] whether it is the maximum.
    """

    value: Form
    truth: Truth


def largest(space: Space, tiles: Form, valid: np.ndarray | None = None) -> Peak:
    """The maximum over the last axis.

    Beside the entry that is largest at the centre, the maximum rises by what any other
    may exceed that one, as one expression: by nothing where the order is sure.

    Args:
      space: the symbols.
      tiles: [..., K].
      valid: which entries count, of the same shape; None for all.
    """
    center = tiles.center
    if valid is not None:
        center = jnp.where(valid, center, -jnp.inf)
    best = jnp.argmax(center, axis=-1, keepdims=True)
    here = jnp.arange(tiles.shape[-1], dtype=best.dtype) == best

    def chosen(x):
        return jnp.take_along_axis(x, best, axis=-1)

    def ahead(x):
        return [x - chosen(x)]

    (lead,) = linear_map(
        space,
        ahead,
        [tiles],
        terms=2,
        absolute=lambda x: [x + chosen(x)],
        ends=lambda lows, highs: (
            [lows[0] - chosen(highs[0])],
            [highs[0] - chosen(lows[0])],
        ),
    )
    _, most = space.interval(lead)
    others = jnp.where(here, -jnp.inf, most)
    if valid is not None:
        others = jnp.where(valid, others, -jnp.inf)
    excess = jnp.maximum(jnp.max(others, axis=-1), 0)
    (value,) = linear_map(space, lambda x: [chosen(x)[..., 0]], [tiles])
    low, high = space.interval(tiles)
    if valid is not None:
        low, high = (jnp.where(valid, end, -jnp.inf) for end in (low, high))
    value = shifted(space, value, jnp.zeros_like(excess), excess)
    value = clipped(value, jnp.max(low, axis=-1), jnp.max(high, axis=-1))
    alone = here & (jnp.max(others, axis=-1, keepdims=True) < 0)
    return Peak(value, Truth(alone, here | (others >= 0)))


def tiled(space: Space, form: Form, axes: tuple[int, ...]) -> Form:
    """The form with these axes as one that stands last."""
    kept = [axis for axis in range(len(form.shape)) if axis not in axes]

    def flatten(x):
        turned = jnp.transpose(x, (*kept, *axes))
        return turned.reshape(*(x.shape[axis] for axis in kept), -1)

    return moved(space, flatten, form)
