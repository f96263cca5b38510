"""The front door: bounds of a function over a domain."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.bounds.affine import Affine
from r2et_jax.bounds.domain import Domain
from r2et_jax.bounds.forms import INPUT, Form, Space
from r2et_jax.bounds.policy import Policy
from r2et_jax.bounds.rules import as_form
from r2et_jax.bounds.walk import run
from r2et_jax.programs.steps import Program, program_of
from r2et_jax.types import Array

DEFAULT = Policy()
# Coefficients of a program's largest value, of which several are held at a time, beyond
# which it is said before the wait: a quarter of a GiB.
_MANY = 2**26


def bound(
    fn: Callable[[Array], Any], domain: Domain, *, policy: Policy = DEFAULT
) -> Any:
    """Sound affine bounds of a function's results over a set of inputs.

    The function's program (jaxpr) is run on affine forms in place of numbers; it may be
    that of a gradient. For every input of the domain at which the function is finite,
    in exact arithmetic or as it is computed in the type of the input, each result lies
    in its interval, and so do all sums of results, see `Affine.combined`. Rounding is
    counted outward, with elementary functions right to 16 units in the last place.

    Args:
      fn: a function of one float array; what it closes over is known, and may be
        traced.
      domain: the set of inputs, see `ball`, `box`, `of_threat`, `with_slabs`.
      policy: see `Policy`.

    Returns:
      What fn returns, with an `Affine` for each array. Works under jit, vmap and grad.

    Raises:
      ValueError: when traced, for a primitive without a rule, with the line of the
        model's source that it comes from, and for results that are no float arrays.

    A program whose largest value has more than 2²⁶ coefficients is warned of.

    Example:
      >>> from r2et_jax.bounds import ball
      >>> slope = jax.grad(lambda x: jnp.tanh(x).sum())
      >>> made = bound(slope, ball(jnp.zeros(2), 0.1))
      >>> [round(float(end), 3) for end in (made.lower()[0], made.upper()[0])]
      [0.99, 1.0]

    Source: affine arithmetic (de Figueiredo & Stolfi 2004) and zonotopes of networks
    (Singh et al. 2018, "Fast and effective robustness certification"), over the l2 ball
    as over the box; bounds of any computation graph as in Xu et al. 2020 ("Automatic
    perturbation analysis"), of derivative programs as in Laurel et al. 2022 ("A dual
    number abstraction for static analysis of Clarke Jacobians").
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(domain.center)
    program = program_of(closed, lambda *_: True)
    for aval in closed.out_avals:
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(
                f"bounds are of functions with float results, got one of {aval.dtype}"
            )
    _warn_if_large(program, domain.size)
    space = Space(domain, policy)
    made = run(space, program, [space.input()])
    made = [as_form(space, value) for value in made]
    structure = jax.tree.structure(shape)
    return structure.unflatten(_finished(space, made))


def _warn_if_large(program: Program, n: int) -> None:
    changing, largest = set(program.inputs), 0
    for step in program.steps:
        if changing.intersection(step.inputs):
            changing.update(step.outputs)
            sizes = [math.prod(program.types[made].shape) for made in step.outputs]
            largest = max([largest, *sizes])
    if largest * n > _MANY:
        warnings.warn(
            f"the largest value of the program has {largest:,} entries, and its bounds "
            f"{largest:,} × {n:,} coefficients, of which several such are held at a "
            "time: it may take long to compile, and more memory than there is",
            stacklevel=3,
        )


def _finished(space: Space, forms: list[Form]) -> list[Affine]:
    """The forms with all their symbols in one order, that of the whole call."""
    if len(forms) == 1:
        # What one entry has alone cancels in no difference of two.
        (form,) = forms
        alone = [g for g in form.sparse if g != INPUT and space.is_own(form, g)]
        forms = [space.boxed(form, alone)]
    forms = [space.densified(form) for form in forms]
    groups = sorted({g for form in forms for g, _ in form.layout if g != INPUT})
    made = []
    for form in forms:
        parts = dict(space.parts(form))
        space.interval(form)  # the scale of rounding may come out smaller

        def rows(group, parts=parts, form=form):
            empty = (space.counts[group], *form.shape)
            return parts.get(group, jnp.zeros(empty, form.dtype))

        noise = [rows(group) for group in groups]
        nothing = jnp.zeros((0, *form.shape), form.dtype)
        if [g for g, _ in form.layout] == [INPUT, *groups]:
            noise = [form.dense[space.domain.size :]]
        made.append(
            Affine(
                center=form.center,
                linear=rows(INPUT),
                noise=jnp.concatenate([nothing, *noise]),
                box=form.box,
                size=form.size,
                low=form.low,
                high=form.high,
                domain=space.domain,
            )
        )
    return made
