"""What pairs of images or of brain graphs ask of training, attacks and measurements.

They meet a Siamese network: its score is explained with respect to the first input, and
the partner is a context that no attack changes.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.problems import presets, protocols
from experiments.problems.tabular import StructuredProblem
from experiments.problems.views import GRAPH, IMAGE, Inputs, View
from r2et_jax import datasets, models, objectives
from r2et_jax.checks import check_in
from r2et_jax.execution import kept
from r2et_jax.models.siamese import pair_split, recenter
from r2et_jax.objectives.loss import with_context
from r2et_jax.threat.definition import ABSENT_RULES
from r2et_jax.types import ApplyFn, Params

POOLINGS = ("max", "average")
# Width of the embedding, and the hidden layer, of small images.
_SMALL_EMBEDDING, _SMALL_HIDDEN = 16, 32
_SMALL_GRAPH = 30
# Share of the graphs that may have fewer than twice k edges.
_FEW_EDGES = 0.1
_MOST_FEATURES = 50


class PairProblem(StructuredProblem):
    """Pairs of images or graphs and Siamese networks; attributes as of a table.

    Args:
      dataset: the data.
      pooling: of the convolutional network, one of `POOLINGS`.
      absent: whether edges of graphs that are absent may appear under attack, one of
        `threat.definition.ABSENT_RULES`; None: "frozen" where the graphs are sparse.
      norm: of the attacks on images; None for l2. Graphs are attacked in l∞.
    """

    holds = "pairs, which are judged by a Siamese network"

    def __init__(
        self,
        dataset: datasets.PairDataset,
        *,
        pooling: str = "max",
        absent: str | None = None,
        norm: str | None = None,
    ):
        check_in("pooling", pooling, POOLINGS)
        self.dataset = dataset
        self.pooling = pooling
        self.name, self.fold = dataset.name, dataset.fold
        self.truth = dataset.truth
        self.num_features = dataset.train.inputs.shape[1]
        train = dataset.train
        self.sample = train.inputs[[train.first[0], train.second[0]]]
        self.shape = dataset.shape
        self.protocol_kind = dataset.kind
        self.small = dataset.kind == "image" and dataset.shape[:2] != (28, 28)
        if dataset.kind == "graph":
            self._set_views(GRAPH, None, small=False)
        else:
            self._set_views(IMAGE, norm, small=self.small)
        sparse = self._is_graph and bool(dataset.meta.get("sparse"))
        self.default_absent = "frozen" if sparse else "free"
        self.absent = absent if absent and self._is_graph else self.default_absent
        check_in("rule for absent edges", self.absent, ABSENT_RULES)
        self.k = self._default_k()
        sparse_k = min(_MOST_FEATURES, self.num_features - 1)
        self.most_k = sparse_k if sparse else self.k
        # A penalty sees a graph's edges relative to their weights, see `training`.
        self.radius = 1.0 if self._is_graph else self.selection_epsilon

    @property
    def _is_graph(self) -> bool:
        return self.view.kind == "graph"

    def _default_k(self) -> int:
        if self.small:
            return presets.TABULAR_K
        if not self._is_graph:
            return _MOST_FEATURES
        if self.truth is not None:
            return int(self.truth.sum())
        return min(_MOST_FEATURES, self.largest_k)

    @functools.cached_property
    def largest_k(self) -> int:
        """Of graphs half of the edges that nearly all have: absent ones don't rank."""
        if not self._is_graph:
            return self.num_features - 1
        edges = np.count_nonzero(self.dataset.train.inputs, axis=1)
        return max(1, int(np.quantile(edges, _FEW_EDGES)) // 2)

    @functools.cached_property
    def _max_connected(self) -> int | None:
        """The most nodes with edges in a graph of the data, where that saves work."""
        # Edges that may appear may join any nodes.
        if self.absent == "free":
            return None
        # All splits share the data set's graphs.
        graphs, pairs = self.dataset.train.inputs, self.dataset.edges
        most = max(np.unique(pairs[graph != 0]).size for graph in graphs)
        return most if most <= self.shape[0] // 2 else None

    def model(self, method: str) -> models.Siamese:
        self.check_method(method)
        smooth = objectives.method(method).smooth
        shape = self.shape
        if self._is_graph:
            small = shape[0] <= _SMALL_GRAPH
            encoder = models.GCN(
                shape[0],
                hidden=(64, 32) if small else (256, 128),
                max_connected=self._max_connected,
            )
        elif self.small:
            encoder = models.MLP((_SMALL_HIDDEN,), num_outputs=_SMALL_EMBEDDING)
        else:
            encoder = models.CNN(pooling=self.pooling, shape=(*shape, 1)[:3])
        if smooth:
            encoder = encoder.clone(activation="softplus")
        return models.Siamese(encoder, centered=self._is_graph)

    def seeds(self, preset: str, default: tuple[int, ...]) -> tuple[int, ...]:
        # The folds of graphs are runs enough for all but the long preset.
        return default[:1] if self._is_graph and preset != "paper" else default

    def architecture(self, model: models.Siamese) -> str:
        name = f"siamese_{type(model.encoder).__name__.lower()}"
        pooling = getattr(model.encoder, "pooling", None)
        return f"{name}_{pooling}" if pooling else name

    def training(self, limit: int | None = None) -> tuple[Any, Any]:
        train = self.dataset.train
        x, partner = jnp.asarray(train.x[:limit]), jnp.asarray(train.partner[:limit])
        y = jnp.asarray(train.y[:limit])
        if self._is_graph:
            # Factors of the weights: their gradient at 1 is gradient × input.
            return (jnp.ones_like(x), (partner, x)), y
        return (x, partner), y

    def inputs(self, split: str, limit: int | None = None) -> Inputs:
        pairs = getattr(self.dataset, split)
        return Inputs(
            jnp.asarray(pairs.x[:limit]),
            jnp.asarray(pairs.partner[:limit]),
            np.asarray(pairs.y[:limit]),
        )

    def top_sizes(self, x: Any, k: int) -> np.ndarray:
        """Of graphs at most half of the edges: absent ones do not rank."""
        if not self._is_graph:
            return super().top_sizes(x, k)
        return np.clip(np.count_nonzero(x, axis=1) // 2, 1, k)

    def penalty_k(self, k: int) -> int:
        """Of graphs one that nearly all have, since a batch has graphs of all sizes."""
        return min(k, self.largest_k) if self._is_graph else k

    def train_inputs(self, rows: Any = slice(None)) -> np.ndarray:
        train = self.dataset.train
        return train.inputs[np.unique([train.first[rows], train.second[rows]])]

    def objective(
        self, method: str, model: Any, *, k: int, k_prime: int | None = None
    ) -> objectives.Objective:
        k = self.penalty_k(k)
        k_prime = k_prime or protocols.default_k_prime(k, self.num_features)
        view = self.selection_view
        return _objective(view, self.radius, method, model, k, k_prime)

    def trained(self, model: models.Siamese) -> ApplyFn:
        """The model as a function of what `training` returns."""
        return _trained(self.selection_view, model)

    def split(self, model: models.Siamese) -> tuple[ApplyFn, ApplyFn] | None:
        """The model in two parts, of which the inner may be piecewise linear."""
        return _split(self.selection_view, model)

    def settle(self, model: Any, params: Params, inputs: Any = None) -> Params:
        """With the centre of the embeddings at the mean of the training graphs, or of
        those that are given.
        """
        if not model.centered:
            return params
        graphs = self.train_inputs() if inputs is None else inputs
        return _recenter(model)(params, graphs)

    def config(self, method: str) -> dict[str, Any]:
        described = {"fold": self.fold, **super().config(method)}
        # The default is not named: models keep the folders that they have.
        if self.absent != self.default_absent:
            described["absent"] = self.absent
        return described


@kept
def _objective(
    view: View, radius: float, method: str, model: models.Siamese, k: int, k_prime: int
) -> objectives.Objective:
    """One for all folds, whose compiled training is then one too."""
    built = objectives.objective(
        method,
        _trained(view, model),
        k=k,
        k_prime=k_prime,
        surrogate=_trained(view, model.surrogate(rho=view.rho)),
        epsilon=radius,
        split=_split(view, model),
    )
    return with_context(built)


def _trained(view: View, model: models.Siamese) -> ApplyFn:
    return (_in_factors if view.kind == "graph" else models.pair_apply)(model)


def _split(view: View, model: models.Siamese) -> tuple[ApplyFn, ApplyFn] | None:
    # A graph's normalisation is not piecewise linear in its edges.
    return None if view.kind == "graph" else pair_split(model)


def _in_factors(model: models.Siamese) -> ApplyFn:
    """`apply((params, (partner, x)), factors)`: the pair's logit at x ⊙ factors."""
    apply = models.pair_apply(model)

    def scaled(both, factors, /):
        params, (partner, x) = both
        return apply((params, partner), x * factors)

    return scaled


@kept
def _recenter(model):
    """`run(params with any leading axes, x [u, n])`, one model after the other."""

    def flat(params, x):
        return jax.lax.map(lambda parameters: recenter(model, parameters, x), params)

    flat = jax.jit(flat)

    def run(params, x):
        # The scale has one axis of its own.
        shape = params["params"]["scale"].shape[:-1]
        joined = jax.tree.map(
            lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[len(shape) :])), params
        )
        return jax.tree.map(
            lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), flat(joined, x)
        )

    return run
