"""What training takes: a loss and all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.context import InContext
from r2et_jax.types import Array, LossFn


class Objective(NamedTuple):
    """A loss with named weights, and what belongs to it; `Objective(loss)` wraps any.

    Attributes:
      loss: `loss(params, x [B, n], y [B], weights [W], /, *, reference=None, key=None,
        progress=1.0)`.
      terms: names of the penalties, in the order of the weights.
      decay: `decay(weights [W]) -> scalar`, the coefficient of decoupled weight decay
        that the optimiser applies; None for a method without.
      check: `check(params, x, y, weights)` raises ValueError for what the loss does
        not take, as far as it is known; nothing is computed. None for a loss without.
    """

    loss: LossFn
    terms: tuple[str, ...] = ()
    decay: Callable[[Array], Array] | None = None
    check: Callable[..., None] | None = None


def check_objective(objective: Any) -> None:
    """Raise unless it is an `Objective`, whose decay goes with its loss."""
    if not isinstance(objective, Objective):
        raise ValueError(
            "objective must be an Objective as objectives.objective gives it, whole; "
            "wrap a loss of your own as objectives.Objective(loss); got "
            f"{objective!r}"
        )


def with_context(objective: Objective) -> Objective:
    """The objective of a model whose prediction depends on a context of each example.

    mean_i loss((params, context_i), x_i, y_i, weights), with the reference
    (reference, context_i). Penalties of the parameters alone, such as `wd`, are those
    of the network's weights, once. Every example has a key of its own.

    Args:
      objective: one whose loss is a mean over the examples of a batch, as `objective`
        builds it for `apply((params, context), x)`, such as `models.pair_apply`.

    Returns:
      The same with `loss(params, (x [B, n], context [B, ...]), y [B], weights [W], /,
      *, reference=None, key=None, progress=1.0) -> scalar`; the context is a pytree.
      It serves `training` with x = (x [m, n], context [m, ...]).

    Raises:
      ValueError: for anything but an `Objective`.

    Example:
      >>> from r2et_jax import models, objectives
      >>> model = models.Siamese(models.MLP(hidden=(6,), num_outputs=4))
      >>> pairs = jnp.arange(30.0).reshape(3, 2, 5)
      >>> params = model.init(jax.random.key(0), pairs[0])
      >>> plain = objectives.objective("r2et_nh", models.pair_apply(model), k=2)
      >>> paired = with_context(plain)
      >>> x = pairs[:, 0], pairs[:, 1]
      >>> paired.loss(params, x, jnp.array([1, 0, 1]), jnp.array([0.1])).shape
      ()
    """
    check_objective(objective)

    def whole(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        inputs, contexts = x
        keys = None if key is None else jax.random.split(key, inputs.shape[0])

        def of_example(x, context, y, key) -> Array:
            kept = None if reference is None else InContext(reference, context)
            return objective.loss(
                InContext(params, context),
                x[None],
                y[None],
                weights,
                reference=kept,
                key=key,
                progress=progress,
            )

        return jnp.mean(jax.vmap(of_example)(inputs, contexts, y, keys))

    def check(params, x, y, weights, /):
        inputs, contexts = x
        example_context = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), contexts
        )
        objective.check(InContext(params, example_context), inputs, y, weights)

    return objective._replace(
        loss=whole, check=None if objective.check is None else check
    )
