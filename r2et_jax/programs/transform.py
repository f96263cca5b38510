"""Functions of a model's program: its stand-ins, its switches, what it holds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_positive
from r2et_jax.programs.finding import Reading, read
from r2et_jax.programs.ranges import ranges_of
from r2et_jax.programs.running import run
from r2et_jax.programs.steps import Traced, program_of, trace
from r2et_jax.programs.surrogates import Forms, smooth_forms, straight_through_forms
from r2et_jax.types import ApplyFn, Array, Params


class Contents(NamedTuple):
    """What a model's program holds.

    Attributes:
      kinks: primitive -> at how many places it makes a kink in the input, and `smooth`
        replaces it.
      left: primitive or function -> at how many places a kink or a jump stands that
        stays as it is: a selection whose branches do not meet, a sort, a loop.
      num_switches: length of the vector of switching values, see `kinks`.
    """

    kinks: dict[str, int]
    left: dict[str, int]
    num_switches: int


def smooth(apply: ApplyFn, *, rho: float | Array) -> ApplyFn:
    """The model with smooth forms, of sharpness ρ, in place of its kinks.

    The model's program is read when it is traced: max, min, abs, clamp, ReLU and leaky
    forms, selections between branches that meet, and maxima over axes and windows are
    replaced by the forms of `programs.surrogates`. Everything else is computed as it
    was: what changes only through `stop_gradient`, what is made from one parameter
    alone, guards such as the floor of a norm, and functions with a derivative of their
    own that does not jump, such as a softplus. A model without kinks in its input comes
    back as it is, to the last bit. What switches and has no smooth form (a sort, a
    `cond`, branches that do not meet) stays as it is, and is warned of.

    On the library's models it equals `model.surrogate(rho=rho)`.

    Args:
      apply: any `apply(params, x) -> array`.
      rho: sharpness ρ > 0, possibly traced.

    Returns:
      A function of the same arguments.

    Raises:
      ValueError: for ρ ≤ 0.

    Example:
      >>> apply = lambda params, x: jnp.maximum(x, 0).sum(keepdims=True)
      >>> soft = smooth(apply, rho=5.0)
      >>> round(float(soft(None, jnp.zeros(1))[0]), 4)
      0.1386

    Source: Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to
    blame", section 3, there for ReLU networks.
    """
    check_positive("rho", rho)
    return _with(smooth_forms(rho), apply)


def straight_through(apply: ApplyFn, *, rho: float | Array) -> ApplyFn:
    """The model itself, for whose gradient a derivative goes through smooth kinks.

    Its values and its gradient are the model's, so that a ranking made from the
    gradient is the true one. The derivative of the gradient, zero between the kinks of
    a piecewise-linear model, is instead that of the forms of `smooth` at this
    sharpness: it tells where a kink is near, and what crossing it would change.

    Args:
      apply: any `apply(params, x) -> array`; what is replaced: see `smooth`.
      rho: sharpness ρ > 0, possibly traced.

    Returns:
      A function of the same arguments.

    Raises:
      ValueError: for ρ ≤ 0.

    Example:
      >>> apply = lambda params, x: jnp.maximum(x, 0).sum(keepdims=True)
      >>> bent = straight_through(apply, rho=5.0)
      >>> at = jnp.array([0.1])
      >>> slope = jax.grad(lambda x: bent(None, x)[0])
      >>> bent(None, at).tolist() == at.tolist(), slope(at).tolist()
      (True, [1.0])
      >>> round(float(jax.jacobian(slope)(at)[0, 0]), 4)
      1.175

    Source: the straight-through estimator of Bengio, Léonard & Courville 2013, one
    derivative higher.
    """
    check_positive("rho", rho)
    return _with(straight_through_forms(rho), apply)


def _with(forms: Forms, apply: ApplyFn) -> ApplyFn:
    """The model with these forms in place of its kinks."""

    def replaced(params: Params, x: Array, /) -> Array:
        traced, reading = _read(apply, params, x)
        if +reading.left:
            _warn_of(reading.left)
        if not reading.is_kinked:
            return apply(params, x)
        return traced.restore(run(reading, traced.arguments, forms=forms))

    return replaced


def _warn_of(left: Counter[str]) -> None:
    warnings.warn(
        "the model's program switches where no smooth form is known ("
        f"{left_in_words(left)}): this stays as it is, gradients do not see it, and an "
        "attack through them may leave more than there is; jax.numpy.maximum, abs, "
        "clip, pooling, and where between branches that meet have smooth forms",
        stacklevel=2,
    )


def left_in_words(left: Mapping[str, int]) -> str:
    """ "sort at 1 place, cond at 2 places", of the counts of `Contents.left`."""
    return ", ".join(
        f"{name} at {count}" + (" place" if count == 1 else " places")
        for name, count in left.items()
        if count
    )


def has_kinks(apply: ApplyFn, params: Params, x: Array) -> bool:
    """Whether the model has kinks in its input that `smooth` replaces; runs nothing.

    Args:
      apply: `apply(params, x)` of one input.
      params: its parameters.
      x: an input [n], of which only shape and dtype count.

    Returns:
      True or False.

    Example:
      >>> has_kinks(lambda params, x: jnp.abs(x), None, jnp.ones(2))
      True
      >>> has_kinks(lambda params, x: jax.nn.logsumexp(x), None, jnp.ones(2))
      False
    """
    return _read(apply, params, x)[1].is_kinked


def kinks(apply: ApplyFn) -> Callable[[Params, Array], Array]:
    """The values on whose signs the model's derivative switches.

    The pre-activation of a ReLU, x − c of a clamp at c, v_i − max_{j≠i} v_j for each
    entry i of a maximum over a window. Where all keep their signs, a piecewise-linear
    model is affine. They are differentiable in the input, through the model as it is.

    Args:
      apply: any `apply(params, x) -> array`.

    Returns:
      `switches(params, x) -> [H]`, in the order in which the model computes them; H
      depends on shapes alone and is 0 for a model without kinks. An entry that cannot
      switch, such as one that a mask keeps out of a maximum, is ±1 with the derivative
      0. So are those of the branches of a `cond` that are not taken: 0.

    Example:
      >>> switches = kinks(lambda params, x: jnp.maximum(2 * x, 0))
      >>> switches(None, jnp.array([3.0, -1.0])).tolist()
      [6.0, -2.0]
    """

    def switches(params: Params, x: Array, /) -> Array:
        traced, reading = _read(apply, params, x)
        switching: list[Array] = []
        run(reading, traced.arguments, switching=switching)
        dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x)))
        flat = [values.reshape(-1).astype(dtype) for values in switching]
        joined = jnp.concatenate([jnp.zeros(0, dtype), *flat])
        return jnp.where(jnp.isinf(joined), jnp.sign(joined), joined)

    return switches


def crossing(apply: ApplyFn) -> Callable[[Params, Array, Array], tuple[Array, Array]]:
    """One switching value and its gradient, to move an input across its kink.

    To first order the input x − (1 + c)·z_h·w_h/‖w_h‖² lies beyond the kink, c of the
    way that x was before it. A unit that nothing moves has w_h = 0.

    Args:
      apply: any `apply(params, x) -> array`.

    Returns:
      `cross(params, x, h) -> (z_h, w_h)`: entry h of `kinks(apply)(params, x)`, a
      scalar, and its gradient, of the shape of x; h may be traced. One evaluation and
      one reverse pass.

    Example:
      >>> cross = crossing(lambda params, x: jnp.abs(x @ jnp.array([3.0, 4.0])))
      >>> z, w = cross(None, jnp.array([1.0, 1.0]), 0)
      >>> float(z), w.tolist()
      (7.0, [3.0, 4.0])
    """
    switches = kinks(apply)

    def cross(params: Params, x: Array, h: Array, /) -> tuple[Array, Array]:
        values, pull = jax.vjp(lambda moved: switches(params, moved), x)
        one_hot = (jnp.arange(values.shape[0]) == h).astype(values.dtype)
        (gradient,) = pull(one_hot)
        return values[h], gradient

    return cross


def describe(apply: ApplyFn, params: Params, x: Array) -> Contents:
    """What kinks the model's program holds; nothing is computed.

    Args:
      apply: `apply(params, x)` of one input.
      params: its parameters.
      x: an input [n], of which only shape and dtype count.

    Returns:
      `Contents`.

    Example:
      >>> describe(lambda params, x: jnp.sort(jnp.abs(x)), None, jnp.ones(2))
      Contents(kinks={'abs': 1}, left={'sort': 1}, num_switches=2)
    """
    _, reading = _read(apply, params, x)
    size = jax.eval_shape(kinks(apply), params, x).shape[0]
    return Contents(dict(reading.counts()), dict(+reading.left), size)


def output_bounds(apply: ApplyFn, params: Params, x: Array) -> tuple[float, float]:
    """The smallest and the largest number that a model can return, for any input.

    Args:
      apply: `apply(params, x)` of one input.
      params: its parameters, of which only shapes and dtypes count, as of x.
      x: an input [n].

    Returns:
      (low, high), infinite where the program tells nothing; nothing is computed.

    Example:
      >>> output_bounds(lambda w, x: jax.nn.sigmoid(w @ x), jnp.ones(2), jnp.ones(2))
      (0.0, 1.0)
      >>> output_bounds(lambda w, x: w @ x, jnp.ones(2), jnp.ones(2))
      (-inf, inf)
    """
    program = program_of(trace(apply, params, x).closed, lambda call, body: True)
    known = ranges_of(program)
    bounds = [known[number] for number in program.outputs]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _read(apply: ApplyFn, params: Params, x: Array) -> tuple[Traced, Reading]:
    traced = trace(apply, params, x)
    inputs = range(traced.num_params, len(traced.arguments))
    return traced, read(traced.closed, inputs)
