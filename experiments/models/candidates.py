"""What the selection of checkpoints measures on validation data."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.problems.registry import TABULAR, Problem, View, problem
from experiments.problems.sizes import by_size
from r2et_jax import attacks, datasets, threat
from r2et_jax.attacks.runner import attack_batch
from r2et_jax.execution import kept, num_cores
from r2et_jax.metrics.classification import roc_auc_ranked
from r2et_jax.types import Params

_ATTACK = "er_surrogate"


class Candidates:
    """Measures candidates of one architecture on one data set's validation split.

    Args:
      dataset: the data, or its `Problem`.
      model: the Flax module.
      k: size of the top set.
      num_valid: validation inputs under attack, at most.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | datasets.PairDataset | Problem,
        model: Any,
        *,
        k: int,
        num_valid: int,
    ):
        self.problem = problem(dataset)
        self.model = model
        self.k = k
        self.x, self.partner, y = self.problem.inputs("valid")
        self.y = jnp.asarray(y)
        self.num_valid = num_valid

    def auc(self, params: Params) -> np.ndarray:
        """Validation AUC of models with any leading axes."""
        shape, flat = _flatten(params, self._ndim(params))
        run = _auc(self.model, self.problem.view)
        return np.asarray(run(flat, self.x, self.partner, self.y)).reshape(shape)

    def precision(self, params: Params, wanted: np.ndarray) -> np.ndarray:
        """Mean P@k of the wanted models under the selection attack; NaN of others.

        Args:
          params: parameters with leading axes.
          wanted: boolean mask of those axes.
        """
        _, flat = _flatten(params, wanted.ndim)
        precisions = np.full(wanted.size, np.nan)
        x, partner = jax.tree.map(
            lambda leaf: leaf[: self.num_valid], (self.x, self.partner)
        )
        sizes = self.problem.top_sizes(x, self.k)
        ball = self.problem.threat_model(
            self.problem.selection_epsilon, norm=self.problem.selection_view.norm
        )

        def per_candidate(c):
            params = jax.tree.map(lambda leaf: leaf[c], flat)

            def run(k, rows):
                some = jax.tree.map(lambda leaf: leaf[rows], (x, partner))
                view = self.problem.selection_view
                return validation_precision(self.model, k, view)(params, *some, ball)

            return float(jnp.nanmean(jnp.asarray(by_size(sizes, run))))

        rows = np.flatnonzero(wanted)
        if rows.size:
            # The first one compiles; then every core measures a candidate of its own.
            precisions[rows[0]] = per_candidate(rows[0])
            with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
                precisions[rows[1:]] = list(pool.map(per_candidate, rows[1:]))
        return precisions.reshape(wanted.shape)

    def _ndim(self, params: Params) -> int:
        """Number of leading axes, from what the module itself would have."""
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.problem.sample)
        return jax.tree.leaves(params)[0].ndim - jax.tree.leaves(shapes)[0].ndim


def _flatten(params: Params, ndim: int) -> tuple[tuple[int, ...], Params]:
    shape = jax.tree.leaves(params)[0].shape[:ndim]
    return shape, jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[ndim:]), params
    )


@kept
def _auc(model, view: View):
    def run(params, x, partner, y):
        def of_model(params):
            return roc_auc_ranked(y, view.logits(model, params, x, partner))

        return jax.lax.map(of_model, params)

    return jax.jit(run)


@kept
def validation_precision(model, k: int, view: View = TABULAR):
    """Compiled P@k [m] of the selection attack: `run(params, x, partner, budget)`.

    It is er_surrogate, the attack that selection uses for every method; at l2 ≤ 1 for
    tables.
    """
    named = attacks.protocol(_ATTACK, view.attacked(model), k=k, **view.attack_options)
    run = attack_batch(
        named.attack,
        num_steps=named.num_steps,
        track_every=named.track_every,
        **view.batching,
    )

    def precision(params, x, partner, ball: threat.ThreatModel):
        context = view.context(model, params, partner)
        result = run(params, x, ball, key=jax.random.key(0), context=context)
        return result.best.precision

    return jax.jit(precision)
