"""Models whose prediction of an input depends on something else, such as a partner.

All of the library is written for `apply(params, x)` of one example. Where every example
has a context of its own, which no attack changes, it travels with the parameters: the
model is `apply((params, context), x)`, as of `models.pair_apply`, and whatever maps
over examples maps over their contexts too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.checks import check_key_bound, shape_of_outputs
from r2et_jax.types import ApplyFn, Params


class InContext(NamedTuple):
    """Parameters and the context of one example: `apply`'s first argument.

    A pair like any other, `params, context = both`, of which penalties of the network's
    weights know that the context is no weight.

    Attributes:
      params: parameters of the network.
      context: what belongs to the example, a pytree.
    """

    params: Params
    context: Any


def in_context(params: Params, context: Any) -> Any:
    """What a model of one example is called with: `InContext`, or params alone.

    Args:
      params: parameters.
      context: the example's context, a pytree, or None for a model without.

    Returns:
      The first argument of `apply`.
    """
    return params if context is None else InContext(params, context)


def without_context(apply: ApplyFn) -> ApplyFn:
    """A model of the input alone, beside one that has a context.

    Args:
      apply: `apply(params, x)`, such as the classifier of single inputs.

    Returns:
      `model((params, context), x) -> apply(params, x)`.
    """

    def model(both, x, /):
        params, _ = both
        return apply(params, x)

    return model


def check_subject(subject: Any) -> None:
    """Raise unless it is a `Subject`, such as a model without its parameters is not."""
    if not hasattr(subject, "form"):
        raise ValueError(
            "a subject is needed, such as subject(model, params), got a "
            f"{type(subject).__name__}"
        )


def check_takes(subject: Any, x: Any) -> None:
    """Raise unless the model takes each of the inputs x [m, ...]; runs nothing.

    Args:
      subject: a `Subject`.
      x: inputs, or a pytree of them.

    Raises:
      ValueError: for no subject, inputs that are no floats, no batch, or of a shape
        that the model does not take; for a context of another number of inputs; for
        groups of features that an input does not have, and an explanation that draws
        and has no key.
    """
    check_subject(subject)
    check_key_bound(subject.saliency())
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"x must be a batch [m, ...] of inputs, got {x!r}")
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        try:
            floats = dtype is not None and jax.dtypes.issubdtype(dtype, np.floating)
        except TypeError:  # of a library that is neither NumPy nor JAX
            floats = False
        if not floats:
            raise ValueError(
                f"x must hold floats of NumPy or JAX, got dtype {dtype} in a "
                f"{type(leaf).__name__}: numpy.asarray(x, numpy.float32) has such"
            )
        if not np.ndim(leaf) or not len(leaf):
            raise ValueError(
                f"x must be a batch [m, ...] of inputs, got shape {np.shape(leaf)}"
            )
    size = sum(math.prod(np.shape(leaf)[1:]) for leaf in leaves)
    for i, group in enumerate(subject.groups):
        if max(group) >= size:
            raise ValueError(
                f"groups[{i}] must hold features in 0…{size - 1}, got {list(group)}"
            )
    example, context = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], leaf.dtype),
        (x, subject.context),
    )
    shape_of_outputs(subject.apply, in_context(subject.params, context), example)
