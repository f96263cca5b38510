"""Linear operations on affine forms: on the centre and on every row alike.

With f linear, f(c + Σ Aᵀu ± b) = f(c) + Σ f(A)ᵀu ± |f|(b), where |f| has the absolute
values of f's coefficients. Rounding is outward: a sum of K products of magnitudes s is
known up to (K + 2)·eps·|f|(s), whatever its order, so that is added to the box.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds.forms import INPUT, Form, Space
from r2et_jax.types import Array

Arrays = list[Array]
Function = Callable[..., Arrays]


def linear_map(
    space: Space,
    f: Function,
    forms: Sequence[Form],
    *,
    terms: int | Array = 0,
    absolute: Function | None = None,
    ends: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]] | None = None,
    places: Function | None = None,
    elementwise: bool = False,
) -> list[Form]:
    """A function that is affine in all of its arguments together, of forms.

    Args:
      space: the symbols.
      f: `f(*arrays) -> [array, ...]`.
      forms: the arguments.
      terms: products that an entry of the result sums, or those of each entry; 0
        where nothing is computed.
      absolute: |f|, with what f adds in absolute value, too; f itself by default.
      ends: `ends(lows, highs) -> (lows, highs)` of the results; by default those of a
        function that grows with every argument: f of both.
      places: f on arrays of symbols, −1 for none, where f only moves entries around.
      elementwise: whether every entry of the result is of that entry of the arguments.

    Returns:
      One form for each result.
    """
    absolute = absolute or f
    centers = f(*(form.center for form in forms))
    forms, boxed = _condensed(space, f, forms, places, elementwise, centers)
    sizes, boxes = jax.jvp(
        lambda *taken: absolute(*taken),
        tuple(form.size for form in forms),
        tuple(form.box for form in forms),
    )
    bound = [(form.low, form.high) for form in forms]
    lows, highs = (ends or (lambda low, high: (f(*low), f(*high))))(
        [low for low, _ in bound], [high for _, high in bound]
    )
    kept, forms = _sparse(space, f, list(forms), places, elementwise)
    layout, rows = space.aligned(forms)
    dense = [None] * len(centers)
    if layout:
        points = tuple(form.center for form in forms)
        dense = jax.vmap(lambda *t: jax.jvp(lambda *p: f(*p), points, t)[1])(*rows)
    made = []
    rounded = not isinstance(terms, int) or terms > 0
    exact = not rounded and all(form.exact for form in forms)
    for n, center in enumerate(centers):
        box, size, low, high = boxes[n], sizes[n], lows[n], highs[n]
        if rounded:
            info = jnp.finfo(center.dtype)
            gamma = (terms + 2) * info.eps
            slack = gamma * size + 2 * info.tiny
            box, low, high = box * (1 + gamma) + slack, low - slack, high + slack
        sparse = {g: parts[n] for g, parts in kept.items() if parts[n] is not None}
        form = Form(center, dense[n], layout, sparse, box, size, low, high, exact)
        form = space.reduced(form) if len(forms) > 1 else form
        made.append(space.with_fresh_symbols(form) if boxed else form)
    return made


def _condensed(
    space: Space, f, forms, places, elementwise: bool, centers: Arrays
) -> tuple[list[Form], bool]:
    """The forms with no more noise than the policy admits in a result of f.

    Counted are coefficients of dense rows. First the fresh symbols go that one entry
    of one form has alone: between entries of a result without common terms they cancel
    nothing. Then whole groups do, the largest first, in favour of one fresh symbol for
    each entry of their form where these fit in.

    Returns:
      The forms, and whether boxes are left that the results need symbols for.
    """
    forms, limit = list(forms), space.policy.max_coefficients
    size = max(center.size for center in centers)
    if limit is None or space.num_rows(space.noise(forms)) * size <= limit:
        return forms, False

    def is_dense(group):
        return _kept(f, forms, group, places, elementwise) is None

    def is_too_much(groups):
        return space.num_rows(groups) * size > limit

    left = {group for group in space.noise(forms) if is_dense(group)}
    if not is_too_much(left):
        return forms, False
    boxed = False
    for group in sorted(left, reverse=True):
        having = [n for n, form in enumerate(forms) if group in space.noise([form])]
        owner = forms[having[0]]
        if len(having) == 1 and group in owner.sparse and space.is_own(owner, group):
            forms[having[0]] = space.boxed(owner, [group])
            left.discard(group)
            boxed = True
    gone = []
    for group in sorted(left, key=lambda group: (-space.counts[group], group)):
        if not is_too_much(left):
            break
        gone.append(group)
        left.discard(group)
    is_sparse = places is not None or elementwise
    for n, form in enumerate(forms):
        if not space.noise([form]).intersection(gone):
            continue
        form = space.boxed(form, gone)
        fits = (space.num_rows(left) + form.center.size) * size <= limit
        if is_sparse or fits:
            form = space.with_fresh_symbols(form)
        else:
            boxed = True
        forms[n] = form
    return forms, boxed


def _sparse(space: Space, f, forms: list[Form], places, elementwise: bool):
    """What stays sparse, group -> (index, coefficient) or None per result; the rest.

    The rest is the forms without those groups, and with the others dense.
    """
    kept: dict[int, list] = {}
    for group in sorted({g for form in forms for g in form.sparse}):
        parts = _kept(f, forms, group, places, elementwise)
        if parts is not None:
            kept[group] = parts
    left = []
    for form in forms:
        sparse = {g: part for g, part in form.sparse.items() if g not in kept}
        left.append(space.densified(dataclasses.replace(form, sparse=sparse)))
    return kept, left


def _kept(f, forms: list[Form], group: int, places, elementwise: bool):
    if any(g == group for form in forms for g, _ in form.layout):
        return None
    having = [form.sparse[group] for form in forms if group in form.sparse]
    if elementwise:
        index = having[0][0]
        if any(other.shape != index.shape for other, _ in having) or any(
            (other != index).any() for other, _ in having
        ):
            return None
        indices = [index]
    elif places is not None:
        indices = places(
            *(
                form.sparse[group][0]
                if group in form.sparse
                else np.full(form.shape, -1, np.int32)
                for form in forms
            )
        )
        if indices is None:
            return None
        indices = [np.asarray(index) for index in indices]
    else:
        return None
    tangents = tuple(
        form.sparse[group][1] if group in form.sparse else jnp.zeros_like(form.center)
        for form in forms
    )
    points = tuple(form.center for form in forms)
    scales = jax.jvp(lambda *p: f(*p), points, tangents)[1]
    return [
        (index, scale) if (index >= 0).any() else None
        for index, scale in zip(indices, scales, strict=True)
    ]


def moved(space: Space, f: Callable[[Array], Array], form: Form) -> Form:
    """A form whose entries f moves around, repeats or leaves out."""

    def places(index):
        with jax.ensure_compile_time_eval():
            return [np.asarray(f(jnp.asarray(index)))]

    return linear_map(space, lambda x: [f(x)], [form], places=places)[0]


def combination(
    space: Space, terms: Sequence[tuple[Array, Form]], constant: Array
) -> Form:
    """Σ coefficient ⊙ form + constant, of one shape; coefficients may be anything."""
    factors = settled(space, [factor for factor, _ in terms])
    forms = [form for _, form in terms]
    shape = forms[0].shape

    def f(*values):
        total = jnp.broadcast_to(constant, shape)
        for factor, value in zip(factors, values, strict=True):
            total = total + factor * value
        return [total]

    def absolute(*values):
        total = jnp.broadcast_to(jnp.abs(constant), shape)
        for factor, value in zip(factors, values, strict=True):
            total = total + jnp.abs(factor) * value
        return [total]

    def ends(lows, highs):
        low = high = jnp.broadcast_to(constant, shape)
        for factor, least, most in zip(factors, lows, highs, strict=True):
            corners = _scaled(factor, least), _scaled(factor, most)
            low = low + jnp.minimum(*corners)
            high = high + jnp.maximum(*corners)
        return [low], [high]

    (made,) = linear_map(
        space,
        f,
        forms,
        terms=len(terms) + 1,
        absolute=absolute,
        ends=ends,
        elementwise=True,
    )
    return made


def settled(space: Space, values: Any) -> Any:
    """The values themselves, which the compiler puts down before they are used.

    What multiplies every row of a form would be fused into that product, and computed
    again for each row. A choice that is not known when compiled is not fused: where
    the domain is no set of numbers, nothing is.
    """
    known = jnp.all(space.domain.low == space.domain.low)
    if space.domain.epsilon is not None:
        known = space.domain.epsilon == space.domain.epsilon
    nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), values)
    return jax.lax.cond(known, lambda: values, lambda: nothing)


def _scaled(factor: Array, end: Array) -> Array:
    """factor·end, with 0·∞ = 0."""
    return jnp.where(factor == 0, 0, factor * end)


def shifted(space: Space, form: Form, low: Array, high: Array) -> Form:
    """form + something in [low, high]: the middle, and fresh noise."""
    middle = low + (high - low) * 0.5
    unit = jnp.finfo(form.dtype).eps
    center = form.center + middle
    # Of the middle, of the sum and of the half width.
    rounding = unit * (jnp.abs(center) + 2 * jnp.abs(middle))
    moved = dataclasses.replace(
        form,
        center=center,
        size=form.size + jnp.abs(middle),
        low=form.low + middle - rounding,
        high=form.high + middle + rounding,
    )
    radius = jnp.maximum(high - middle, middle - low) * (1 + 2 * unit)
    return space.noisy(moved, jnp.maximum(radius, 0) + rounding)


def clipped(form: Form, low: Array, high: Array) -> Form:
    """The form, known to lie in [low, high] besides."""
    return dataclasses.replace(
        form, low=jnp.fmax(form.low, low), high=jnp.fmin(form.high, high), ends=None
    )


def coefficients(form: Form, group: int = INPUT) -> Any:
    """The dense rows of a group, or None."""
    start = 0
    for g, count in form.layout:
        if g == group:
            return form.dense[start : start + count]
        start += count
    return None
