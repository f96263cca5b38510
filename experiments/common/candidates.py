"""What the selection of checkpoints measures on validation data."""

from __future__ import annotations

import concurrent.futures
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import protocol as protocols
from r2et_jax import attacks, datasets, metrics, threat
from r2et_jax.batching import num_cores
from r2et_jax.types import Params

_ATTACK = "er_surrogate"


class Candidates:
    """Measures candidates of one architecture on one data set's validation split.

    Args:
      dataset: the data.
      model: the Flax module.
      k: size of the top set.
      num_valid: validation inputs under attack, at most.
    """

    def __init__(
        self, dataset: datasets.Dataset, model: Any, *, k: int, num_valid: int
    ):
        self.model = model
        self.k = k
        self.x = jnp.asarray(dataset.valid.x)
        self.y = jnp.asarray(dataset.valid.y)
        self.num_valid = num_valid

    def auc(self, params: Params) -> np.ndarray:
        """Validation AUC of models with any leading axes."""
        shape, flat = _flatten(params, self._ndim(params))
        return np.asarray(_auc(self.model)(flat, self.x, self.y)).reshape(shape)

    def precision(self, params: Params, wanted: np.ndarray) -> np.ndarray:
        """Mean P@k of the wanted models under the selection attack; NaN of others.

        Args:
          params: parameters with leading axes.
          wanted: boolean mask of those axes.
        """
        _, flat = _flatten(params, wanted.ndim)
        found = np.full(wanted.size, np.nan)
        x, run = self.x[: self.num_valid], validation_precision(self.model, self.k)

        def one(c):
            return float(run(jax.tree.map(lambda leaf: leaf[c], flat), x))

        rows = np.flatnonzero(wanted)
        if rows.size:
            # The first one compiles; then every core measures a candidate of its own.
            found[rows[0]] = one(rows[0])
            with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
                found[rows[1:]] = list(pool.map(one, rows[1:]))
        return found.reshape(wanted.shape)

    def _ndim(self, params: Params) -> int:
        """Number of leading axes, from what the module itself would have."""
        own = jax.eval_shape(self.model.init, jax.random.key(0), self.x[0])
        return jax.tree.leaves(params)[0].ndim - jax.tree.leaves(own)[0].ndim


def _flatten(params: Params, ndim: int) -> tuple[tuple[int, ...], Params]:
    shape = jax.tree.leaves(params)[0].shape[:ndim]
    return shape, jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[ndim:]), params
    )


@functools.lru_cache
def _auc(model):
    def one(params, x, y):
        return metrics.roc_auc_ranked(y, model.apply(params, x)[:, 0])

    return jax.jit(lambda params, x, y: jax.lax.map(lambda p: one(p, x, y), params))


def attacked_model(model) -> attacks.Model:
    """A module and its smooth stand-in, as attacks want them."""
    return attacks.Model(
        model.apply, model.surrogate(rho=protocols.SURROGATE_RHO).apply
    )


@functools.lru_cache
def validation_precision(model, k: int):
    """Compiled mean P@k of the selection attack: `run(params, x) -> scalar`.

    It is er_surrogate at l2 ≤ 1, the attack that selection uses for every method.
    """
    named = attacks.named_attack(_ATTACK, attacked_model(model), k=k)
    run = attacks.attack_batch(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )
    budget = threat.threat_model("l2", 1.0)

    def precision(params, x):
        result = run(params, x, budget, key=jax.random.key(0))
        return jnp.nanmean(result.best.precision)

    return jax.jit(precision)
