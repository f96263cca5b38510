"""Whether a network is piecewise linear, read off its program."""

from __future__ import annotations

import jax
from jax.extend import core

from r2et_jax.types import ApplyFn, Array, Params


def is_piecewise_linear(apply: ApplyFn, params: Params, x: Array, /) -> bool:
    """Whether the logits' second derivative in x is zero between kinks.

    d²/dt² apply(params, x + t v) is traced, not computed: JAX carries zeros of
    derivatives symbolically, so that the result of a piecewise-linear network depends
    on none of its inputs.

    Args:
      apply: the model.
      params: its parameters; only shapes and dtypes matter, tracers are let pass.
      x: one input of any shape, likewise.

    Returns:
      A Python bool. False may also mean that a zero was not recognised (a custom
      derivative that multiplies by a computed zero), never the reverse.

    Example:
      >>> import jax.numpy as jnp
      >>> is_piecewise_linear(lambda w, x: w @ jax.nn.relu(x), jnp.eye(2), jnp.ones(2))
      True
      >>> is_piecewise_linear(lambda w, x: w @ jnp.tanh(x), jnp.eye(2), jnp.ones(2))
      False
    """

    def second(params, x, v):
        def first(x):
            return jax.jvp(lambda x: apply(params, x), (x,), (v,))[1]

        return jax.jvp(first, (x,), (v,))[1]

    params, x = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, x)
    )
    program = jax.make_jaxpr(second)(params, x, x).jaxpr
    needed = {v for v in program.outvars if not isinstance(v, core.Literal)}
    for equation in reversed(program.eqns):
        if needed.intersection(equation.outvars):
            inputs = equation.invars
            needed.update(v for v in inputs if not isinstance(v, core.Literal))
    return not needed.intersection(program.invars)
