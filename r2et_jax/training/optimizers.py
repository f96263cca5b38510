"""Adam as the experiments train with it, as an Optax chain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from r2et_jax.checks import check_count, check_in, check_positive

SCHEDULES = ("constant", "cosine")


def adam(
    learning_rate: float = 1e-3,
    *,
    schedule: str = "constant",
    num_steps: int | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with optional clipping, decoupled weight decay and a learning-rate schedule.

        W ← W − η_t (m̂/(√v̂ + ϵ) + c·W)

    The decay c is an extra argument of each update, `weight_decay`, so that models of
    a grid can have one each; only weight matrices decay, as in coupled L2.

    Args:
      learning_rate: η > 0 at the start.
      schedule: "constant", or "cosine" from η to zero over `num_steps`.
      num_steps: steps of the whole training, for the cosine alone.
      clip_norm: largest global l2 norm of a gradient, or None.

    Returns:
      An Optax transformation; `update(gradient, state, params, weight_decay=c)`, c = 0
      by default.

    Raises:
      ValueError: for numbers that are not positive, an unknown schedule, or a cosine
        without num_steps.

    Example:
      >>> optimizer = adam(1e-3, clip_norm=1.0)
      >>> state = optimizer.init({"w": jnp.ones((2, 2))})

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """
    check_positive("learning_rate", learning_rate)
    check_in("schedule", schedule, SCHEDULES)
    rate = learning_rate
    if schedule == "cosine":
        if num_steps is None:
            raise ValueError("a cosine schedule needs num_steps, got None")
        check_count("num_steps", num_steps)
        rate = optax.cosine_decay_schedule(learning_rate, num_steps)
    parts = [
        optax.scale_by_adam(),
        decoupled_decay(),
        optax.scale_by_learning_rate(rate),
    ]
    if clip_norm is not None:
        check_positive("clip_norm", clip_norm)
        parts.insert(0, optax.clip_by_global_norm(clip_norm))
    return optax.chain(*parts)


def decoupled_decay() -> optax.GradientTransformationExtraArgs:
    """Adds `weight_decay`·W to the updates of weight matrices, not of biases."""

    def update(updates, state, params=None, *, weight_decay=None, **extra):
        del extra
        if weight_decay is None:
            return updates, state
        if params is None:
            raise ValueError("weight decay needs the parameters, got None")

        def decayed(change, param):
            return change + weight_decay * param if jnp.ndim(param) >= 2 else change

        return jax.tree.map(decayed, updates, params), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
