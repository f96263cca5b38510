"""Flax NNX modules, with running averages and without dropout."""

from __future__ import annotations

from typing import Any

from r2et_jax.adapters.program import (
    Fixed,
    Program,
    examined,
    some_inputs,
    whether_batched,
)
from r2et_jax.checks import check_adapter
from r2et_jax.subject import Subject
from r2et_jax.types import Array


def nnx(
    module: Any, x: Array | None = None, *, batched: bool | None = None, **options: Any
) -> Subject:
    """A Flax NNX module as a subject: a copy of it, set to predict.

    Variables of the kind `nnx.Param` are the parameters; batch statistics and all else
    is fixed.

    Args:
      module: an instance of a module; it is not changed.
      x, batched, **options: as in `adapters.linen`.

    Returns:
      `Subject`.

    Raises:
      ValueError: for another model or a class, or an input that the module does not
        take to [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx as flax_nnx
      >>> made = nnx(flax_nnx.Linear(3, 1, rngs=flax_nnx.Rngs(0)), jnp.ones((2, 3)))
      >>> made.apply(made.params, jnp.ones(3)).shape
      (1,)
    """
    check_adapter("nnx", module)
    from flax import nnx as library

    copy = library.clone(module)
    copy.eval()
    graph, params, rest = library.split(copy, library.Param, ...)
    x = None if x is None else some_inputs(x)

    def make(batched):
        return Program(_predict, graph, Fixed(rest), batched)

    if batched is None:
        batched = x is not None and whether_batched(make, params, x)
    return examined(make(batched), params, x, **options)


def _predict(graph, rest, params, inputs):
    from flax import nnx as library

    return library.merge(graph, params, rest)(inputs)
