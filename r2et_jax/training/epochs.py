"""Training of one model: its state, one step, and scanned epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r2et_jax.checks import check_count, check_finite, check_in
from r2et_jax.objectives import Objective
from r2et_jax.objectives.loss import check_objective
from r2et_jax.types import Array, Params

REFERENCES = ("self", "previous_epoch", "fixed")


class TrainState(NamedTuple):
    """All that training of one model carries from step to step.

    Attributes:
      params: parameters.
      optimizer_state: Optax state.
      reference: parameters of the model whose ranking is kept, or None.
      key: random key of the run; the shuffle and the draws of an epoch depend on it
        and on the epoch's number alone.
      epoch: epochs done.
      num_nonfinite: steps with a NaN or an infinity in the gradient, or in the
        parameters after it. Above 0, the parameters are most likely lost.
      average: exponential moving average of the parameters, or None.
    """

    params: Params
    optimizer_state: Any
    reference: Params | None
    key: Array
    epoch: Array
    num_nonfinite: Array
    average: Params | None = None

    @property
    def best_params(self) -> Params:
        """The averaged parameters where there are any, else the last ones."""
        return self.params if self.average is None else self.average


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    key: Array,
    reference: str = "self",
    reference_params: Params | None = None,
    average: bool = False,
) -> TrainState:
    """The state before the first epoch.

    Args:
      params: initial parameters.
      optimizer: Optax transformation.
      key: random key of the run.
      reference: the model whose ranking the penalties keep: "self" (the model being
        trained), "previous_epoch" or "fixed" (such as a vanilla model).
      reference_params: the parameters of the fixed reference; `params` by default.
      average: whether the parameters are averaged too, see `train_epochs`.

    Returns:
      `TrainState`.

    Raises:
      ValueError: for an unknown reference.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax import training
      >>> optimizer = training.adam(0.1)
      >>> state = init_state(jnp.zeros(2), optimizer, key=jax.random.key(0))
      >>> print(state.epoch)
      0
    """
    check_in("reference", reference, REFERENCES)
    kept = None if reference == "self" else params
    if reference_params is not None:
        if reference != "fixed":
            raise ValueError(
                "reference_params belong to reference='fixed', got "
                f"reference={reference!r}"
            )
        kept = reference_params
    return TrainState(
        params,
        optimizer.init(params),
        kept,
        key,
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        params if average else None,
    )


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float | None = None,
) -> Callable[..., TrainState]:
    """One step of the optimiser on one batch.

    Args:
      objective: the loss, and the coefficient of a decoupled weight decay, which the
        optimiser takes as the extra argument `weight_decay` (see `training.adam`);
        `objectives.Objective(loss)` for a loss of one's own.
      optimizer: Optax transformation.
      average_decay: d in [0, 1) of the average a ← d·a + (1 − d)·params, for states
        that carry one.

    Returns:
      `step(state, x [B, n], y [B], weights [W], /, *, key=None, progress=1.0) ->
      TrainState`: key is the batch's, progress the share of the training done.

    Raises:
      ValueError: for anything but an `Objective`; when traced, for a decay and an
        optimiser that leaves it out, and for a batch that is empty or has x and y of
        different lengths; when called outside of any transformation, for NaN and
        infinities in x and y. The objective's own checks come on top.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax import objectives, training
      >>> objective = objectives.objective("wd", lambda w, x: (w * x).sum()[None], k=1)
      >>> optimizer = training.adam(0.1)
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> state = training.init_state(jnp.zeros(2), optimizer, key=jax.random.key(0))
      >>> step = train_step(objective, optimizer)
      >>> print(step(state, x, y, jnp.array([0.0])).params.round(3))
      [-0.1  0.1]
    """
    check_objective(objective)
    updater = optax.with_extra_args_support(optimizer)

    def check_decay(gradient, state):
        """Raise unless the updates depend on the extra argument `weight_decay`."""

        def updates(coefficient):
            return updater.update(
                gradient, state.optimizer_state, state.params, weight_decay=coefficient
            )[0]

        program = jax.make_jaxpr(updates)(jnp.ones(())).jaxpr
        taken = {id(v) for equation in program.eqns for v in equation.invars}
        if id(program.invars[0]) not in taken:
            raise ValueError(
                "the objective has a decoupled weight decay, which the optimiser must "
                "apply: expected one whose update takes weight_decay, such as "
                f"training.adam(1e-3), got {optimizer!r}, which leaves it out"
            )

    def step(state, x, y, weights, /, *, key=None, progress=1.0):
        check_batch(x, y)
        gradient = jax.grad(objective.loss)(
            state.params,
            x,
            y,
            weights,
            reference=state.reference,
            key=key,
            progress=progress,
        )
        extra = {}
        if objective.decay is not None:
            check_decay(gradient, state)
            extra = {"weight_decay": objective.decay(weights)}
        updates, optimizer_state = updater.update(
            gradient, state.optimizer_state, state.params, **extra
        )
        params = optax.apply_updates(state.params, updates)
        broken = ~_is_finite((gradient, params))
        average = state.average
        if average is not None:
            average = optax.incremental_update(params, average, 1 - average_decay)
        return state._replace(
            params=params,
            optimizer_state=optimizer_state,
            num_nonfinite=state.num_nonfinite + broken.astype(jnp.int32),
            average=average,
        )

    return step


def train_epochs(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int,
    reference: str = "self",
    total_epochs: int | None = None,
    average_decay: float | None = None,
) -> Callable[..., TrainState]:
    """Some epochs of training of one model, scanned; not compiled.

    Every epoch visits the data in a new order; the incomplete last batch of an epoch
    is left out.

    Args:
      objective: as in `train_step`.
      optimizer: Optax transformation.
      num_epochs: epochs in one call, at least 1.
      batch_size: examples in a batch; at most the number of examples is used.
      reference: as in `init_state`.
      total_epochs: epochs of the whole training, of which the loss is told the share
        that is done; `num_epochs` by default.
      average_decay: as in `train_step`; None trains without an average.

    Returns:
      `run(state, weights [W], x [m, n], y [m]) -> TrainState`. x may be a pytree of
      arrays [m, ...], such as (x, context) of `objectives.loss.with_context`: the
      loss gets the batch's rows of each.

    Raises:
      ValueError: for anything but an `Objective`, counts below 1, an unknown reference
        or an average_decay outside [0, 1); when traced, for a state of another
        reference or average, for no examples, or for x and y of different lengths; when
        called outside of any transformation, for NaN and infinities in x and y, and for
        labels and weights out of range. Traced ones are not known: they show in
        `num_nonfinite`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax import objectives, training
      >>> objective = objectives.objective("wd", lambda w, x: (w * x).sum()[None], k=1)
      >>> optimizer = training.adam(0.1)
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> state = training.init_state(jnp.zeros(2), optimizer, key=jax.random.key(0))
      >>> epochs = train_epochs(objective, optimizer, num_epochs=3, batch_size=2)
      >>> print(epochs(state, jnp.array([0.0]), x, y).epoch)
      3
    """
    check_count("num_epochs", num_epochs)
    check_count("batch_size", batch_size)
    check_in("reference", reference, REFERENCES)
    if average_decay is not None and not 0 <= average_decay < 1:
        raise ValueError(f"average_decay must lie in [0, 1), got {average_decay!r}")
    total = num_epochs if total_epochs is None else total_epochs
    check_count("total_epochs", total)
    step = train_step(objective, optimizer, average_decay=average_decay)

    def run(state, weights, x, y, /):
        if (state.reference is None) != (reference == "self"):
            raise ValueError(
                f"the state must come from init_state with reference={reference!r}, "
                f"got one {'without' if state.reference is None else 'with'} reference "
                "parameters"
            )
        if (state.average is None) != (average_decay is None):
            raise ValueError(
                f"the state must come from init_state with average="
                f"{average_decay is not None}, got one "
                f"{'without' if state.average is None else 'with'} an average"
            )
        # Rows are taken by indices that are traced, which NumPy does not know.
        x, y = as_arrays(x, y)
        check_batch(x, y)
        if objective.check is not None:
            objective.check(state.params, x, y, weights)
        m, dtype = len(y), _float_of(x)
        size = min(batch_size, m)
        num_batches = m // size

        def epoch(state, _):
            if reference == "previous_epoch":
                state = state._replace(reference=state.params)
            order_key, draw_key = jax.random.split(
                jax.random.fold_in(state.key, state.epoch)
            )
            order = jax.random.permutation(order_key, m)
            batches = order[: num_batches * size].reshape(num_batches, size)

            def batch(state, indexed):
                index, rows = indexed
                done = state.epoch.astype(dtype) + index / num_batches
                state = step(
                    state,
                    jax.tree.map(lambda leaf: leaf[rows], x),
                    y[rows],
                    weights,
                    key=jax.random.fold_in(draw_key, index),
                    progress=jnp.minimum(done / total, 1),
                )
                return state, None

            state, _ = jax.lax.scan(batch, state, (jnp.arange(num_batches), batches))
            return state._replace(epoch=state.epoch + 1), None

        return jax.lax.scan(epoch, state, None, length=num_epochs)[0]

    return run


def as_arrays(x: Any, y: Any) -> tuple[Any, Array]:
    """x and y as arrays of JAX; a ValueError for labels that would wrap in its type."""
    if not isinstance(y, jax.core.Tracer) and np.asarray(y).dtype.kind in "iu":
        given = np.asarray(y)
        kept = given.astype(jax.dtypes.canonicalize_dtype(given.dtype))
        if (kept != given).any():
            raise ValueError(
                "y must be class indices 0…C−1, got "
                f"{np.unique(given[kept != given])[:5].tolist()}, which are beyond "
                f"{kept.dtype}"
            )
    return jax.tree.map(jnp.asarray, (x, y))


def check_batch(x: Any, y: Array) -> None:
    """Raise unless x and y are as many examples; where they are known, finite ones."""
    for leaf in (*jax.tree.leaves(x), y):
        if not getattr(leaf, "shape", None):
            raise ValueError(
                "x and y must be arrays of examples along their first axis, got a "
                f"{type(leaf).__name__} among them: numpy.asarray makes one of a list"
            )
    lengths = {leaf.shape[0] for leaf in (*jax.tree.leaves(x), y)}
    if len(lengths) != 1:
        # Rows beyond the end of an array would be its last one.
        raise ValueError(
            f"x and y must hold as many examples each, got {sorted(lengths)}"
        )
    if lengths == {0}:
        raise ValueError("x and y must hold at least one example, got 0")
    for name, values in (("x", x), ("y", y)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            check_finite(f"{name}{jax.tree_util.keystr(path)}", leaf)


def _float_of(x: Any) -> Any:
    """The float type of the inputs."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x)]
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return floats[0] if floats else jnp.result_type(float)


def _is_finite(tree: Any) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.array(leaves, bool))
