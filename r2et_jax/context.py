"""Models whose prediction of an input depends on something else, such as a partner.

All of the library is written for `apply(params, x)` of one example. Where every example
has a context of its own, which no attack changes, it travels with the parameters: the
model is `apply((params, context), x)`, as of `models.pair_apply`, and whatever maps
over examples maps over their contexts too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


def of_context(apply: ApplyFn) -> ApplyFn:
    """A model of the context alone, as if it were an input.

    Args:
      apply: `apply(params, x)`, such as the classifier of single inputs.

    Returns:
      `model((params, context), x) -> apply(params, context)`, constant in x.
    """

    def model(both, x, /):
        del x
        return apply(*both)

    return model
