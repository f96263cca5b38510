"""Models whose prediction of an input depends on something else, such as a partner.

All of the library is written for `apply(params, x)` of one example. Where every example
has a context of its own, which no attack changes, it travels with the parameters: the
model is `apply((params, context), x)`, as of `models.pair_apply`, and whatever maps
over examples maps over their contexts too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.types import ApplyFn, Array, LossFn, Params


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


def with_context(loss: LossFn) -> LossFn:
    """The loss of a model whose prediction depends on a context of each example.

    mean_i loss((params, context_i), x_i, y_i, weights), with the reference
    (reference, context_i). Penalties of the parameters alone, such as `wd`, are those
    of the network's weights, once. Every example has a key of its own.

    Args:
      loss: a loss that is a mean over the examples of a batch, as `objective` builds it
        for `apply((params, context), x)`, such as `models.pair_apply`.

    Returns:
      `loss(params, (x [B, n], context [B, ...]), y [B], weights [W], /, *,
      reference=None, key=None, progress=1.0) -> scalar`; the context is a pytree. It
      serves `training` with x = (x [m, n], context [m, ...]).

    Example:
      >>> from r2et_jax import models, objectives
      >>> model = models.Siamese(models.MLP(hidden=(6,), num_outputs=4))
      >>> pairs = jnp.arange(30.0).reshape(3, 2, 5)
      >>> params = model.init(jax.random.key(0), pairs[0])
      >>> plain = objectives.objective("r2et_nh", models.pair_apply(model), k=2).loss
      >>> loss = with_context(plain)
      >>> x = pairs[:, 0], pairs[:, 1]
      >>> loss(params, x, jnp.array([1, 0, 1]), jnp.array([0.1])).shape
      ()
    """

    def whole(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        inputs, contexts = x
        keys = None if key is None else jax.random.split(key, inputs.shape[0])

        def one(x, context, y, key) -> Array:
            kept = None if reference is None else InContext(reference, context)
            return loss(
                InContext(params, context),
                x[None],
                y[None],
                weights,
                reference=kept,
                key=key,
                progress=progress,
            )

        return jnp.mean(jax.vmap(one)(inputs, contexts, y, keys))

    return whole
