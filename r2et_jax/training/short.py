"""Training of one model in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count, check_key, check_weights
from r2et_jax.execution import kept
from r2et_jax.objectives import Objective
from r2et_jax.objectives.loss import check_objective
from r2et_jax.training.epochs import as_arrays, check_batch, init_state, train_epochs
from r2et_jax.training.optimizers import adam
from r2et_jax.types import Array, Params


def train(
    objective: Objective,
    params: Params,
    x: Any,
    y: Array,
    *,
    weights: Mapping[str, float] | Sequence[float] | Array = (),
    num_epochs: int,
    key: Array,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
) -> Params:
    """Train one model by Adam, its ranking kept by itself.

    For schedules, averages, another reference or a grid of weights see `train_epochs`,
    `compile_grid` and `search`. It compiles once for each objective and shape.

    Args:
      objective: what is minimised, see `objectives.objective`.
      params: initial parameters.
      x: inputs [m, n], or a pytree of arrays [m, ...] as in `train_epochs`.
      y: class indices [m].
      weights: of the objective's penalties: name -> weight, or in the order of its
        `terms`.
      num_epochs: epochs, at least 1.
      key: random key of the order of the examples and of what penalties draw.
      batch_size: examples in a batch.
      learning_rate: of Adam.

    Returns:
      The trained parameters.

    Raises:
      ValueError: for weights of other penalties than the objective's, numbers out of
        range, NaN and infinities in the data; whatever the objective refuses; if a step
        met NaN or infinity.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.objectives import objective
      >>> x = jax.random.normal(jax.random.key(0), (64, 6))
      >>> model, y = MLP(), (x[:, 0] > 0).astype(int)
      >>> params = model.init(jax.random.key(1), x[0])
      >>> goal = objective("r2et", model.apply, k=2)
      >>> weights = {"gap": 1.0, "curvature": 0.01}
      >>> trained = train(
      ...     goal, params, x, y, weights=weights, num_epochs=2, key=jax.random.key(2)
      ... )
    """
    check_objective(objective)
    check_count("num_epochs", num_epochs)
    check_count("batch_size", batch_size)
    check_key(key)
    terms = objective.terms
    if isinstance(weights, Mapping):
        if set(weights) != set(terms):
            raise ValueError(
                f"weights must name the objective's penalties {terms}, got "
                f"{tuple(weights)}"
            )
        weights = [weights[term] for term in terms]
    weights = jnp.asarray(weights, float)
    if weights.shape != (len(terms),):
        raise ValueError(
            f"weights must be one for each of the penalties {terms}, got shape "
            f"{weights.shape}"
        )
    check_weights(f"weights of {terms}", weights)
    optimizer, run = _training(objective, num_epochs, batch_size, learning_rate)
    if np.asarray(y).dtype.kind in "OSU":
        raise ValueError(
            "y must be class indices 0…C−1, such as np.unique(y, return_inverse=True)"
            f"[1], got {np.asarray(y).dtype} such as {str(np.asarray(y).flat[0])!r}"
        )
    x, y = as_arrays(x, y)
    check_batch(x, y)
    if objective.check is not None:
        objective.check(params, x, y, weights)
    state = run(init_state(params, optimizer, key=key), weights, x, y)
    if state.num_nonfinite > 0:
        raise ValueError(
            f"training met NaN or infinity in {state.num_nonfinite} of its steps, and "
            "its parameters are lost: expected a smaller learning_rate than "
            f"{learning_rate} or smaller weights than {weights.tolist()}"
        )
    return state.params


@kept
def _training(objective: Objective, num_epochs, batch_size, learning_rate):
    optimizer = adam(learning_rate)
    run = train_epochs(
        objective, optimizer, num_epochs=num_epochs, batch_size=batch_size
    )
    return optimizer, jax.jit(run)
