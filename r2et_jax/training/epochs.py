"""Training of one model, and of a whole grid of weights × seeds as one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from r2et_jax.checks import check_count, check_in
from r2et_jax.types import Array, LossFn, Params

REFERENCES = ("self", "previous_epoch", "initial")


class TrainState(NamedTuple):
    """All that training of one model carries from step to step.

    Attributes:
      params: parameters.
      optimizer_state: Optax state.
      reference: parameters of the model whose ranking is kept, or None.
      key: random key of the run; the shuffle of an epoch depends on it and on the
        epoch's number alone.
      epoch: epochs done.
    """

    params: Params
    optimizer_state: Any
    reference: Params | None
    key: Array
    epoch: Array


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    key: Array,
    reference: str = "self",
) -> TrainState:
    """The state before the first epoch.

    Args:
      params: initial parameters.
      optimizer: Optax transformation.
      key: random key of the run.
      reference: the model whose ranking the penalties keep: "self" (the model being
        trained), "previous_epoch" or "initial" (the parameters given here, such as a
        vanilla model's).

    Raises:
      ValueError: for an unknown reference.
    """
    check_in("reference", reference, REFERENCES)
    kept = None if reference == "self" else params
    return TrainState(
        params, optimizer.init(params), kept, key, jnp.zeros((), jnp.int32)
    )


def train_step(
    loss: LossFn, optimizer: optax.GradientTransformation
) -> Callable[..., TrainState]:
    """One step of the optimiser on one batch.

    Returns:
      `step(state, x [B, n], y [B], weights [W]) -> TrainState`.
    """

    def step(state, x, y, weights, /):
        gradient = jax.grad(loss)(
            state.params, x, y, weights, reference=state.reference
        )
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, optimizer_state=optimizer_state)

    return step


def train_epochs(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int,
    reference: str = "self",
) -> Callable[..., TrainState]:
    """Some epochs of training of one model, scanned; not compiled.

    Every epoch visits the data in a new order; the incomplete last batch of an epoch
    is left out.

    Args:
      loss: `loss(params, x, y, weights, *, reference)`.
      optimizer: Optax transformation.
      num_epochs: epochs in one call, at least 1.
      batch_size: examples in a batch; at most the number of examples is used.
      reference: as in `init_state`.

    Returns:
      `run(state, weights [W], x [m, n], y [m]) -> TrainState`.

    Raises:
      ValueError: for counts below 1 or an unknown reference; when traced, for a state
        of another reference.
    """
    check_count("num_epochs", num_epochs)
    check_count("batch_size", batch_size)
    check_in("reference", reference, REFERENCES)
    step = train_step(loss, optimizer)

    def run(state, weights, x, y, /):
        if (state.reference is None) != (reference == "self"):
            raise ValueError(
                f"the state must come from init_state with reference={reference!r}, "
                f"got one {'without' if state.reference is None else 'with'} reference "
                "parameters"
            )
        size = min(batch_size, x.shape[0])
        num_batches = x.shape[0] // size

        def epoch(state, _):
            if reference == "previous_epoch":
                state = state._replace(reference=state.params)
            order = jax.random.permutation(
                jax.random.fold_in(state.key, state.epoch), x.shape[0]
            )
            batches = order[: num_batches * size].reshape(num_batches, size)

            def batch(state, index):
                return step(state, x[index], y[index], weights), None

            state, _ = jax.lax.scan(batch, state, batches)
            return state._replace(epoch=state.epoch + 1), None

        return jax.lax.scan(epoch, state, None, length=num_epochs)[0]

    return run


def compile_grid(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int,
    reference: str = "self",
) -> Callable[..., TrainState]:
    """A grid of seeds × weights trained side by side as one compiled program.

    Args:
      loss, optimizer, num_epochs, batch_size, reference: as in `train_epochs`.

    Returns:
      `run(states, weights [W, p], x, y) -> states`, with states of leading axes
      [S, W] (see `grid_states`). It compiles once for each shape.
    """
    one = train_epochs(
        loss,
        optimizer,
        num_epochs=num_epochs,
        batch_size=batch_size,
        reference=reference,
    )
    # Models of one seed share its shuffles: key and epoch have no axis of weights.
    axes = TrainState(0, 0, 0, None, None)
    over_weights = jax.vmap(one, (axes, 0, None, None), axes)
    over_seeds = jax.vmap(over_weights, (0, None, None, None))
    return jax.jit(over_seeds)


def grid_states(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    keys: Array,
    num_weights: int,
    reference: str = "self",
) -> TrainState:
    """Initial states of a grid: each seed's parameters, repeated for every weight.

    Args:
      params: parameters with a leading axis of seeds [S, ...].
      optimizer: Optax transformation.
      keys: one random key a seed [S].
      num_weights: W ≥ 1.
      reference: as in `init_state`.

    Returns:
      `TrainState` with axes [S, W, ...]; key and epoch have the axis of seeds alone.
    """
    check_count("num_weights", num_weights)

    def one(params, key):
        state = init_state(params, optimizer, key=key, reference=reference)
        carried = (state.params, state.optimizer_state, state.reference)
        repeated = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_weights, *leaf.shape)), carried
        )
        return TrainState(*repeated, state.key, state.epoch)

    return jax.vmap(one)(params, keys)
