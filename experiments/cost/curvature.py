"""How much memory do the curvature penalties need?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cost import processes
from experiments.cost.workload import Workload
from experiments.problems import presets
from r2et_jax import models, score
from r2et_jax.objectives import curvature_penalties


def penalty(name: str, apply: Callable, *, num_steps: int) -> Callable[..., jax.Array]:
    """`exact_h` or `ssr`, the latter by `num_steps` Lanczos steps if it needs them."""
    if name == "exact_h":
        return curvature_penalties.frobenius_curvature(apply)
    return curvature_penalties.spectral_curvature(apply, num_steps=num_steps)


def memory(
    name: str,
    *,
    num_features: int,
    hidden: Sequence[int],
    num_outputs: int,
    batch: int = 4,
) -> dict[str, float]:
    """Value and gradient in the weights of a penalty, in a process of its own.

    The network is smooth, so that nothing is known in closed form.

    Returns:
      `peak_bytes` of the resident set since the process began, Python and JAX in it;
      `dense_bytes` of the Hessians of the batch; `value`, the mean, and `slope`, the
      norm of its gradient.
    """
    return processes.alone(
        _measured, name, num_features, tuple(hidden), num_outputs, batch
    )


def _measured(name, num_features, hidden, num_outputs, batch):
    model = models.MLP(hidden=hidden, num_outputs=num_outputs, activation="softplus")
    x = jax.random.normal(jax.random.key(1), (batch, num_features))
    params = model.init(jax.random.key(0), x[0])
    bend = penalty(name, model.apply, num_steps=8)

    def mean(params):
        target = jax.vmap(lambda x: score.predicted_class(model.apply(params, x)))(x)
        each = jax.vmap(bend, (None, 0, 0))
        return jnp.mean(each(params, x, target))

    value, gradient = jax.jit(jax.value_and_grad(mean))(params)
    slope = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
    return {
        "peak_bytes": float(processes.peak_resident()),
        "dense_bytes": float(batch * num_features**2 * x.dtype.itemsize),
        "value": float(value),
        "slope": float(slope),
    }


def measure_penalty_memory(workload: Workload) -> list[dict]:
    """Resident memory of the curvature penalties on a wide smooth network."""
    width = presets.MEMORY_WIDTHS[workload.preset]
    records = []
    for name in ("exact_h", "ssr"):
        numbers = memory(name, num_features=width, hidden=(64,), num_outputs=10)
        fields = {"method": name, "note": f"with its gradient, n = {width}"}
        records += [
            workload.record("penalty_peak_bytes", numbers["peak_bytes"], 1, **fields),
            workload.record("penalty_dense_bytes", numbers["dense_bytes"], 1, **fields),
        ]
    return records
