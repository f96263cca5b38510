"""Products of two affine forms: their first-order part, and the rest as noise.

    x·y = b·x + a·y − a·b + (x − a)(y − b)

a and b are the middles of the factors' intervals, r_x and r_y half their widths. The
rest is within ±r_x·r_y. With u = λ(x − a) + (y − b)/λ, v = λ(x − a) − (y − b)/λ and
λ² = r_y/r_x it is (u² − v²)/4: of a square [0, r²], and over an l2 ball half of r_x·r_y
for factors that move with different coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from r2et_jax.bounds import jets
from r2et_jax.bounds.forms import INPUT, Form, Space
from r2et_jax.bounds.linear import clipped, combination, linear_map, settled, shifted
from r2et_jax.types import Array


def product(space: Space, x: Form, y: Form) -> Form:
    """x·y entry by entry, of one shape."""
    (a, reach_x), (b, reach_y) = (_middle(space, form) for form in (x, y))
    low, high = _rest(space, x, y, (a, b), (reach_x, reach_y))
    made = combination(space, [(b, x), (a, y)], -a * b)
    ends = jets.outward(
        jets.times(*(jnp.stack(space.interval(form)) for form in (x, y)))
    )
    return clipped(shifted(space, made, low, high), *ends)


def _middle(space: Space, form: Form) -> tuple[Array, Array]:
    """A point of the form's interval, and its distance from both ends or more.

    The centre where the interval has no ends.
    """
    low, high = space.interval(form)
    middle = low + (high - low) / 2
    middle = jnp.where(jnp.isfinite(middle), middle, form.center)
    return middle, jnp.maximum(high - middle, middle - low)


def _rest(space: Space, x: Form, y: Form, middles, reaches) -> tuple[Array, Array]:
    """The interval of (x − a)(y − b)."""
    (a, b), (reach_x, reach_y) = middles, reaches
    unit = 16 * jnp.finfo(a.dtype).eps
    most = reach_x * reach_y * (1 + unit)
    most = jnp.where((reach_x == 0) | (reach_y == 0), 0, most)
    if not space.policy.quadratic:
        return -most, most
    scale = _balance(reach_x, reach_y)
    reaches = mixed_reach(space, (scale, x), (1 / scale, y))
    shift_x, shift_y = scale * (x.center - a), (y.center - b) / scale
    squares = [
        (jnp.abs(shift) + reach) ** 2 / 4 * (1 + 8 * unit)
        for shift, reach in zip(
            (shift_x + shift_y, shift_x - shift_y), reaches, strict=True
        )
    ]
    return jnp.fmax(-most, -squares[1]), jnp.fmin(most, squares[0])


def mixed_reach(
    space: Space, first: tuple[Array, Form], second: tuple[Array, Form]
) -> tuple[Array, Array]:
    """How far λx + μy and λx − μy may go from their centres, rounding included."""
    (first_scale, x), (second_scale, y) = first, second
    first_scale, second_scale = settled(space, (first_scale, second_scale))
    box = first_scale * x.box + second_scale * y.box
    sums = [box, box]
    shared, x, y = _shared(space, x, y)
    for p, q in shared:
        parts = first_scale * p, second_scale * q
        sums = [
            total + jnp.abs(parts[0] + sign * parts[1])
            for total, sign in zip(sums, (1, -1), strict=True)
        ]
    layout, rows = space.aligned([x, y])
    count = len(shared) + sum(size for _, size in layout)
    if layout:
        scaled = first_scale * rows[0], second_scale * rows[1]
        for n, mixed in enumerate((scaled[0] + scaled[1], scaled[0] - scaled[1])):
            noise = mixed
            if layout[0][0] == INPUT:
                size = space.domain.size
                part, noise = mixed[:size], mixed[size:]
                reach = space.domain.support(part)
                if not space.domain.is_even:
                    reach = jnp.maximum(reach, space.domain.support(-part))
                sums[n] = sums[n] + reach
            sums[n] = sums[n] + jnp.sum(jnp.abs(noise), axis=0)
    gamma = (count + 16) * jnp.finfo(x.dtype).eps
    # Where the two cancel, what they lost is of the size of each.
    slack = gamma * (first_scale * x.size + second_scale * y.size)
    return tuple(total + gamma * jnp.abs(total) + slack for total in sums)


def _shared(space: Space, x: Form, y: Form):
    """Sparse noise of both forms, entry by entry, and the forms without it, dense."""
    shared = []
    left = [dict(x.sparse), dict(y.sparse)]
    dense = {g for form in (x, y) for g, _ in form.layout} | {INPUT}
    for group in sorted({*x.sparse, *y.sparse} - dense):
        parts = [sparse.get(group) for sparse in left]
        known = [part for part in parts if part is not None]
        if len(known) == 2 and (known[0][0] != known[1][0]).any():
            continue
        zero = jnp.zeros_like(x.center)
        shared.append([zero if part is None else part[1] for part in parts])
        for sparse in left:
            sparse.pop(group, None)
    forms = [
        space.densified(dataclasses.replace(form, sparse=sparse))
        for form, sparse in zip((x, y), left, strict=True)
    ]
    return shared, *forms


def _balance(reach_x: Array, reach_y: Array) -> Array:
    """λ = √(r_y/r_x), or 1 where that is no number to divide by."""
    good = (reach_x > 0) & (reach_y > 0) & jnp.isfinite(reach_x) & jnp.isfinite(reach_y)
    ratio = jnp.where(good, reach_y, 1) / jnp.where(good, reach_x, 1)
    return jnp.clip(jnp.sqrt(ratio), 1e-6, 1e6)


def bilinear(
    space: Space, f: Callable[[Array, Array], Array], x: Form, y: Form, *, terms: int
) -> Form:
    """A function that is linear in each of two forms, such as a matrix product.

    Args:
      space: the symbols.
      f: `f(a, b) -> array`, of which an entry sums products of their entries, each with
        the coefficient 1.
      x, y: the factors.
      terms: how many products.
    """
    (a, reach_x), (b, reach_y) = (_middle(space, form) for form in (x, y))

    def first_order(p, q):
        return [f(p, b) + f(a, q) - f(a, b)]

    def absolute(p, q):
        sizes = jnp.abs(a), jnp.abs(b)
        return [f(p, sizes[1]) + f(sizes[0], q) + f(*sizes)]

    def ends(lows, highs):
        nothing = jnp.full_like(f(a, b), jnp.inf)
        return [-nothing], [nothing]

    (made,) = linear_map(
        space, first_order, [x, y], terms=3 * terms, absolute=absolute, ends=ends
    )
    gamma = 2 * (terms + 2) * jnp.finfo(made.dtype).eps
    most = f(reach_x, reach_y) * (1 + gamma)
    made = shifted(space, made, -most, most)
    # By intervals: |x − a||b| and so on, which is no better than the affine form but
    # where that has lost its symbols.
    whole = f(jnp.abs(a), reach_y) + f(reach_x, jnp.abs(b)) + most
    center = f(a, b)
    slack = gamma * (jnp.abs(whole) + f(jnp.abs(a), jnp.abs(b)))
    return clipped(made, center - whole - slack, center + whole + slack)
