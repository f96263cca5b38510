"""Affine forms: values as affine functions of the input, of noise, and a box.

    y = c + Σ_g A_gᵀ u_g ± b

Group 0 of symbols is δ of the domain; every other group is noise, each of its symbols
anywhere in [−1, 1]. Symbols are shared by all values of one program. The box b holds
what rounding loses and what was reduced; it is each entry's own.

A group's coefficients are either dense, one row for each symbol, or sparse: one symbol
for each entry at most, as the fresh noise of an elementwise function has. Which symbol
that is, is known when traced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds.domain import Domain
from r2et_jax.bounds.policy import Policy
from r2et_jax.types import Array

INPUT = 0
Sparse = tuple[np.ndarray, Array]  # symbol of each entry or −1, its coefficient


@dataclasses.dataclass
class Form:
    """One value of a program over the domain.

    Attributes:
      center: c [*shape].
      dense: rows [R, *shape] of the groups of `layout`, in its order, or None.
      layout: (group, number of symbols) of the dense groups, in growing order.
      sparse: group -> (symbol of each entry, coefficient of each entry).
      box: b ≥ 0.
      size: |c| + Σ‖A_g‖ + b or more: the scale of rounding.
      low, high: bounds of the value known otherwise, such as from intervals alone.
      exact: whether nothing was rounded yet: then b is 0.
    """

    center: Array
    dense: Array | None
    layout: tuple[tuple[int, int], ...]
    sparse: dict[int, Sparse]
    box: Array
    size: Array
    low: Array
    high: Array
    exact: bool = False
    ends: tuple[Array, Array] | None = None  # what `Space.interval` found

    @property
    def shape(self) -> tuple[int, ...]:
        return self.center.shape

    @property
    def dtype(self) -> Any:
        return self.center.dtype

    @property
    def is_constant(self) -> bool:
        return self.dense is None and not self.sparse


class Space:
    """The symbols of one program, and what forms in them reach."""

    def __init__(self, domain: Domain, policy: Policy):
        self.domain = domain
        self.policy = policy
        self.counts = {INPUT: domain.size}

    def input(self) -> Form:
        center = self.domain.center
        index = np.arange(center.size, dtype=np.int32).reshape(center.shape)
        low, high = (
            end.reshape(center.shape) for end in (self.domain.low, self.domain.high)
        )
        ones = jnp.ones_like(center)
        unit = jnp.finfo(center.dtype).eps
        slack = unit * (jnp.abs(center) + jnp.maximum(jnp.abs(low), jnp.abs(high)))
        size = jnp.abs(center) + jnp.maximum(jnp.abs(low), jnp.abs(high))
        return Form(
            center=center,
            dense=None,
            layout=(),
            sparse={INPUT: (index, ones)},
            box=jnp.zeros_like(center),
            size=size,
            low=center + low - slack,
            high=center + high + slack,
            exact=True,
        )

    def constant(self, value: Array) -> Form:
        zero, size = jnp.zeros_like(value), jnp.abs(value)
        return Form(value, None, (), {}, zero, size, value, value, exact=True)

    def reach(self, form: Form) -> tuple[Array, Array]:
        """How far the form may go below and above its centre, rounding included."""
        down = up = form.box
        noise, rows = form.dense, sum(count for _, count in form.layout)
        if form.layout and form.layout[0][0] == INPUT:
            part, noise = form.dense[: self.domain.size], form.dense[self.domain.size :]
            up = up + self.domain.support(part)
            # Of a set that is its own mirror image it is the same.
            down = up if self.domain.is_even else down + self.domain.support(-part)
        if noise is not None:
            reach = jnp.sum(jnp.abs(noise), axis=0)
            down, up = down + reach, up + reach
        for group, (index, scale) in form.sparse.items():
            if group == INPUT:
                low, high = (
                    end[np.maximum(index, 0)]
                    for end in (self.domain.low, self.domain.high)
                )
                low, high = (jnp.where(scale == 0, 0, end) for end in (low, high))
                up = up + jnp.maximum(scale * low, scale * high)
                down = down + jnp.maximum(-scale * low, -scale * high)
            else:
                down, up = down + jnp.abs(scale), up + jnp.abs(scale)
        gamma = (rows + len(form.sparse) + 8) * jnp.finfo(form.dtype).eps
        return down + gamma * jnp.abs(down), up + gamma * jnp.abs(up)

    def interval(self, form: Form) -> tuple[Array, Array]:
        """Bounds of the value [*shape]: of the form and otherwise, the better of both.

        Where nothing is known, ∓∞.
        """
        if form.ends is None:
            down, up = self.reach(form)
            unit = 4 * jnp.finfo(form.dtype).eps
            slack = unit * (jnp.abs(form.center) + jnp.maximum(down, up))
            low, high = form.center - down - slack, form.center + up + slack
            form.size = jnp.fmin(
                form.size, jnp.abs(form.center) + jnp.maximum(jnp.abs(down), up) + slack
            )
            low, high = jnp.fmax(low, form.low), jnp.fmin(high, form.high)
            form.ends = (
                jnp.where(jnp.isnan(low), -jnp.inf, low),
                jnp.where(jnp.isnan(high), jnp.inf, high),
            )
        return form.ends

    def densified(self, form: Form, groups: Any = None) -> Form:
        """The form with its sparse groups, or those of them, as dense rows."""
        chosen = [g for g in form.sparse if groups is None or g in groups]
        if not chosen:
            return form
        kept = {g: part for g, part in form.sparse.items() if g not in chosen}
        groups = sorted({*chosen, *(g for g, _ in form.layout)})

        def rows(group):
            return _rows(*form.sparse[group], self.counts[group])

        layout = tuple((g, self.counts[g]) for g in groups)
        dense = self.gathered(form, groups, rows)
        return dataclasses.replace(form, dense=dense, layout=layout, sparse=kept)

    def parts(self, form: Form):
        """(group, its dense rows) of every dense group."""
        start = 0
        for group, count in form.layout:
            yield group, form.dense[start : start + count]
            start += count

    def aligned(self, forms: list[Form]) -> tuple[tuple, list[Array]]:
        """One layout of all the forms' dense groups, and each form's rows in it."""
        groups = sorted({g for form in forms for g, _ in form.layout})
        layout = tuple((g, self.counts[g]) for g in groups)
        rows = []
        for form in forms:

            def missing(group, form=form):
                return jnp.zeros((self.counts[group], *form.shape), form.dtype)

            if layout:
                rows.append(self.gathered(form, groups, missing))
        return layout, rows

    def gathered(
        self, form: Form, groups: list[int], missing: Callable[[int], Array]
    ) -> Array:
        """The rows of some groups, dense ones of the form or what `missing` gives.

        Groups that follow one another are one slice: of many small ones a product with
        them could not be vectorised.
        """
        places, start = {}, 0
        for group, count in form.layout:
            places[group] = start, start + count
            start += count
        pieces: list[Any] = []
        for group in groups:
            if group not in places:
                pieces.append(missing(group))
            elif (
                pieces
                and isinstance(pieces[-1], tuple)
                and pieces[-1][1] == places[group][0]
            ):
                pieces[-1] = pieces[-1][0], places[group][1]
            else:
                pieces.append(places[group])
        parts = [form.dense[slice(*p)] if isinstance(p, tuple) else p for p in pieces]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def noisy(self, form: Form, radius: Array) -> Form:
        """The form ± radius by fresh symbols, one for each entry."""
        count = math.prod(form.shape)
        limit = self.policy.max_symbols
        form = dataclasses.replace(
            form,
            size=form.size + radius,
            low=form.low - radius,
            high=form.high + radius,
            exact=False,
            ends=None,
        )
        # The box, too: as symbols it keeps its signs through what follows.
        radius = (radius + form.box) * (1 + 4 * jnp.finfo(form.dtype).eps)
        if count == 0 or (limit is not None and count > limit):
            return dataclasses.replace(form, box=radius)
        group = len(self.counts)
        self.counts[group] = count
        index = np.arange(count, dtype=np.int32).reshape(form.shape)
        sparse = {**form.sparse, group: (index, radius)}
        box = jnp.zeros_like(form.box)
        return self.reduced(dataclasses.replace(form, sparse=sparse, box=box))

    def reduced(self, form: Form) -> Form:
        """The form with no more noise symbols than the policy admits.

        Whole groups go, the largest first and of ties the oldest, into its box.
        """
        limit = self.policy.max_symbols
        groups = [g for g, _ in form.layout] + list(form.sparse)
        noise = sorted((g for g in groups if g), key=lambda g: (-self.counts[g], g))
        total = sum(self.counts[g] for g in noise)
        gone = []
        while limit is not None and total > limit:
            gone.append(noise[len(gone)])
            total -= self.counts[gone[-1]]
        if not gone:
            return form
        return self.boxed(form, gone)

    def boxed(self, form: Form, gone: Collection[int]) -> Form:
        """The form with these groups of noise in its box."""
        box = form.box
        parts, sparse = dict(self.parts(form)), dict(form.sparse)
        unit = jnp.finfo(form.dtype).eps
        for group in gone:
            if group in sparse:
                moved = jnp.abs(sparse.pop(group)[1])
            elif group in parts:
                moved = jnp.sum(jnp.abs(parts.pop(group)), axis=0)
            else:
                continue
            box = box + moved * (1 + (self.counts[group] + 4) * unit)
        layout = tuple((g, count) for g, count in form.layout if g in parts)
        dense = None
        if layout:
            dense = self.gathered(form, [g for g, _ in layout], parts.__getitem__)
        return dataclasses.replace(
            form, dense=dense, layout=layout, sparse=sparse, box=box, ends=None
        )

    def with_fresh_symbols(self, form: Form) -> Form:
        """The form with its box as symbols, which keep their signs in what follows."""
        return self.noisy(form, jnp.zeros_like(form.box))

    def noise(self, forms: list[Form]) -> set[int]:
        """The groups of noise that the forms have."""
        dense = {g for form in forms for g, _ in form.layout}
        return (dense | {g for form in forms for g in form.sparse}) - {INPUT}

    def num_rows(self, groups: Collection[int]) -> int:
        return sum(self.counts[group] for group in groups)

    def is_own(self, form: Form, group: int) -> bool:
        """Whether each symbol of a sparse group is that of one entry alone."""
        used = form.sparse[group][0].reshape(-1)
        used = used[used >= 0]
        return len(np.unique(used)) == len(used)


def _rows(index: np.ndarray, scale: Array, count: int) -> Array:
    """Sparse coefficients as rows [count, *shape]."""
    flat = index.reshape(-1)
    places = np.flatnonzero(flat >= 0)
    rows = jnp.zeros((count, flat.size), scale.dtype)
    picked = scale.reshape(-1)
    if places.size < flat.size:
        picked = picked[places]
    rows = rows.at[flat[places], places].set(picked)
    return rows.reshape(count, *scale.shape)
