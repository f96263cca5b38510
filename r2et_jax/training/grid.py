"""Training of a whole grid of seeds × penalty weights side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r2et_jax.checks import check_count
from r2et_jax.devices import chosen
from r2et_jax.execution import compile_chunked
from r2et_jax.objectives import Objective
from r2et_jax.training.epochs import (
    TrainState,
    as_arrays,
    check_batch,
    init_state,
    train_epochs,
)
from r2et_jax.types import Array, Params

# Models of one seed that share a program on CPU: enough that the batch, which they
# share, meets a wide matrix; few enough that every core gets a program of its own.
_CPU_MODELS = 6
# What each model of a grid has for itself; key and epoch are those of its seed.
_OF_MODELS = ("params", "optimizer_state", "reference", "num_nonfinite", "average")


def compile_grid(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int,
    max_models: int | None = None,
    **options: Any,
) -> Callable[..., TrainState]:
    """A grid of seeds × weights trained side by side by one compiled program.

    The program trains some models of one seed, which share the seed's shuffles. On CPU
    every core runs it on models of its own; elsewhere it takes all seeds at once. Where
    there are several devices, each has models of its own, with equal shares.

    Args:
      objective, optimizer, num_epochs, batch_size: as in `train_epochs`.
      max_models: models of a seed that are trained at once, where memory is short; by
        default all of them, on CPU about 6.
      options: further arguments of `train_epochs`.

    Returns:
      `run(states, weights [W, p], x, y) -> states`, with states of leading axes
      [S, W] (see `grid_states`). It compiles once for each shape.

    Raises:
      ValueError: for max_models < 1, and as `train_epochs` does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax import objectives, training
      >>> objective = objectives.objective("wd", lambda w, x: (w * x).sum()[None], k=1)
      >>> optimizer = training.adam(0.1)
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> keys = jax.random.split(jax.random.key(0), 3)  # seeds
      >>> states = training.grid_states(
      ...     jnp.zeros((3, 2)), optimizer, keys=keys, num_weights=2
      ... )
      >>> run = compile_grid(objective, optimizer, num_epochs=1, batch_size=2)
      >>> run(states, jnp.array([[0.0], [0.1]]), x, y).params.shape
      (3, 2, 2)
    """
    if max_models is not None:
        check_count("max_models", max_models)
    train_one = train_epochs(
        objective, optimizer, num_epochs=num_epochs, batch_size=batch_size, **options
    )
    # Models of one seed share its shuffles: key and epoch have no axis of weights.
    axes = TrainState(0, 0, 0, None, None, 0, 0)
    over_weights = jax.vmap(train_one, (axes, 0, None, None), axes)

    def train(data, batched):
        if batched[1].shape[0] == 1:  # no axis of length 1: XLA does worse with it
            states, weights = jax.tree.map(lambda leaf: leaf[0], batched)
            trained = over_weights(states, weights, *data)
            trained = jax.tree.map(lambda leaf: leaf[None], trained)
        else:
            trained = jax.vmap(over_weights, (0, 0, None, None))(*batched, *data)
        return trained._replace(key=None)

    def chunked_run(size):
        return compile_chunked(train, batch_size=size, work="much")

    runs = {}

    def run(states, weights, x, y, /):
        x, y = as_arrays(x, y)
        check_batch(x, y)
        if objective.check is not None:
            objective.check(_of_one(states.params), x, y, _worst(weights))
        num_seeds, num_weights = states.key.shape[0], weights.shape[0]
        num_devices = len(chosen())
        width = _width(num_weights, num_seeds, num_devices, max_models)
        per_seed = -(-num_weights // width)
        pad = per_seed * width - num_weights

        def split(leaf):
            # [S, W, ...] -> [S · chunks, width, ...], the last models repeated.
            # By the host, where chunks come from: XLA would compile for each shape.
            leaf = np.asarray(leaf)
            filler = np.repeat(leaf[:, -1:], pad, axis=1)
            padded = np.concatenate([leaf, filler], axis=1)
            return padded.reshape(num_seeds * per_seed, width, *leaf.shape[2:])

        def join(leaf):
            whole = leaf.reshape(num_seeds, per_seed * width, *leaf.shape[2:])
            return whole[:, :num_weights]

        tasks = _of_models(states, split)._replace(
            key=jnp.repeat(states.key, per_seed, axis=0),
            epoch=np.repeat(np.asarray(states.epoch), per_seed, axis=0),
        )
        given = np.broadcast_to(weights, (num_seeds, *weights.shape))
        # One task at a time on a core; an accelerator takes as many as may be.
        whole = jax.default_backend() != "cpu" and max_models is None
        size = -(-num_seeds * per_seed // num_devices) if whole else 1
        if size not in runs:
            runs[size] = chunked_run(size)
        done = runs[size]((x, y), (tasks, split(given)))
        return _of_models(done, join)._replace(
            key=states.key, epoch=done.epoch[::per_seed]
        )

    return run


def _of_models(state: TrainState, change: Callable[[Any], Any]) -> TrainState:
    """The states with `change` made to each leaf that every model has for itself."""
    of_each = {name: getattr(state, name) for name in _OF_MODELS}
    return state._replace(**jax.tree.map(change, of_each))


def _of_one(params: Params) -> Params:
    """The shapes of the parameters of one model."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), params
    )


def _worst(weights: Array) -> np.ndarray:
    """The setting with the least weight, that with one that is no number before it."""
    values = np.asarray(weights)
    least = np.where(np.isfinite(values), values, -np.inf).min(axis=1, initial=0)
    return values[np.argmin(least)]


def _width(
    num_weights: int, num_seeds: int, num_devices: int, max_models: int | None
) -> int:
    """Models in a program: equal shares of the weights, none above the limit."""
    limit = max_models
    if limit is None:
        # No device without a model, as far as there are models.
        limit = -(-num_weights // -(-num_devices // num_seeds))
        if jax.default_backend() == "cpu":
            limit = min(limit, _CPU_MODELS)
    return -(-num_weights // -(-num_weights // limit))


def grid_states(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    keys: Array,
    num_weights: int,
    reference: str = "self",
    reference_params: Params | None = None,
    average: bool = False,
) -> TrainState:
    """Initial states of a grid: each seed's parameters, repeated for every weight.

    Args:
      params: parameters with a leading axis of seeds [S, ...].
      optimizer: Optax transformation.
      keys: one random key a seed [S].
      num_weights: W ≥ 1.
      reference, average: as in `init_state`.
      reference_params: as in `init_state`, with a leading axis of seeds.

    Returns:
      `TrainState` with axes [S, W, ...]; key and epoch have the axis of seeds alone.

    Raises:
      ValueError: for num_weights < 1, and as `init_state` does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax import training
      >>> optimizer = training.adam(0.1)
      >>> keys = jax.random.split(jax.random.key(0), 3)  # seeds
      >>> states = grid_states(jnp.zeros((3, 2)), optimizer, keys=keys, num_weights=4)
      >>> states.params.shape
      (3, 4, 2)
    """
    check_count("num_weights", num_weights)

    def start(params, key, reference_params):
        return init_state(
            params,
            optimizer,
            key=key,
            reference=reference,
            reference_params=reference_params,
            average=average,
        )

    def repeat(leaf):
        shape = leaf.shape[0], num_weights, *leaf.shape[1:]
        return jnp.asarray(np.broadcast_to(np.asarray(leaf)[:, None], shape))

    states = jax.vmap(start)(params, keys, reference_params)
    return _of_models(states, repeat)
