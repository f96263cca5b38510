"""What data of each kind ask of training, attacks and measurements.

Tables of features meet a network of one input. Pairs of images or of brain graphs meet
a Siamese network: its score is explained with respect to the first input, and the
partner is a context that no attack changes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import pair_protocol, training_flags
from experiments.common import protocol as protocols
from r2et_jax import attacks, datasets, models, objectives, saliency, threat
from r2et_jax.checks import check_in
from r2et_jax.types import ApplyFn, Params, SaliencyFn

LOGISTIC = "logistic"
POOLINGS = ("max", "average")
# Width of the embedding, and the hidden layer, of small images.
_SMALL_EMBEDDING, _SMALL_HIDDEN = 16, 32
_SMALL_GRAPH = 30
# Share of the graphs that may have fewer than twice k edges.
_FEW_EDGES = 0.1
_MOST_FEATURES = 50


@dataclasses.dataclass(frozen=True)
class View:
    """How models of one kind of data are explained and attacked.

    It is hashable, for compiled programs to be kept by it.

    Attributes:
      kind: "tabular", "image" or "graph".
      norm: of the attacks' budgets.
      explainer: factory of the explanation, see `r2et_jax.saliency`.
      rho: sharpness of the smooth stand-in for a kinked activation.
      num_steps: of the published attacks; None for as many as they have on tables.
      batch_size: inputs that are attacked at a time; None for the library's choice.
    """

    kind: str = "tabular"
    norm: str = "l2"
    explainer: Callable[..., SaliencyFn] = saliency.gradient
    rho: float = protocols.SURROGATE_RHO
    num_steps: int | None = None
    batch_size: int | None = None

    @property
    def paired(self) -> bool:
        """Whether an input has a partner."""
        return self.kind != "tabular"

    @property
    def attack_options(self) -> dict[str, Any]:
        """Norm, explainer and steps, as keywords of the attacks by name."""
        return {
            "norm": self.norm,
            "explainer": self.explainer,
            "num_steps": self.num_steps,
        }

    @property
    def batching(self) -> dict[str, int]:
        """The batch size as a keyword, where it is not the library's choice."""
        return {} if self.batch_size is None else {"batch_size": self.batch_size}

    def apply(self, model: Any) -> ApplyFn:
        """The model of one input; partners are given as their embeddings."""
        return models.pair_apply(model, embedded=True) if self.paired else model.apply

    def smoothed(self, model: Any, rho: float) -> ApplyFn:
        """Its smooth stand-in for the same parameters."""
        return self.apply(model.surrogate(rho=rho))

    def attacked(self, model: Any) -> attacks.Model:
        """A module and its smooth stand-in, as attacks want them."""
        return attacks.Model(self.apply(model), self.smoothed(model, self.rho))

    def context(self, model: Any, params: Params, partner: Any) -> Any:
        """What `apply` needs beside the inputs: embeddings of the partners, or None."""
        return _embed(model)(params, partner) if self.paired else None

    def logits(self, model: Any, params: Params, x: Any, partner: Any) -> Any:
        """The logit [m] of every input."""
        if not self.paired:
            return model.apply(params, x)[:, 0]
        apply = jax.vmap(models.pair_apply(model), ((None, 0), 0))
        return apply((params, partner), x)[:, 0]


TABULAR = View()
IMAGE = View("image", rho=10.0, num_steps=100, batch_size=64)
GRAPH = View("graph", "linf", saliency.gradient_times_input, 10.0, 100, 32)


class Inputs(NamedTuple):
    """Inputs [m, n] of a split with their partners, None for a table, and labels."""

    x: Any
    partner: Any
    y: Any


class TabularProblem:
    """A table of features and networks of one input.

    Attributes:
      dataset: the data.
      view: how its models are attacked.
      name, fold: of the data, for records.
      num_features: n.
      sample: what a model is initialised with.
      k, epsilon: the default top-k size and, by preset, budgets; None for the
        experiment's own.
      selection_epsilon: budget of the attack by which checkpoints are chosen.
      radius: of the ball that some penalties look at.
      truth: [n] bool, the features in which the classes truly differ, or None.
    """

    view = TABULAR
    fold = 0
    k = epsilon = truth = None
    selection_epsilon = radius = 1.0

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset
        self.name = dataset.name
        self.num_features = dataset.train.x.shape[1]
        self.sample = dataset.train.x[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data."""
        return datasets.fingerprint(self.dataset)

    def protocol(self, preset: str) -> protocols.Protocol:
        """How much is trained and measured, with what the flags change."""
        return training_flags.read_protocol(preset)

    def model(self, method: str) -> Any:
        """The module that a method trains."""
        if method == LOGISTIC:
            return models.Linear()
        found = objectives.method(method)
        module = models.SkipMLP if found.skip else models.MLP
        return module(activation="softplus" if found.smooth else "leaky_relu")

    def methods(self, preset: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """The methods that are trained where none is named."""
        del preset
        return default

    def seeds(self, preset: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds where none is named."""
        del preset
        return default

    def check_method(self, method: str) -> None:
        """Raise ValueError unless the method trains networks of this kind."""
        if method != LOGISTIC:
            objectives.method(method)

    def architecture(self, model: Any) -> str:
        """The model's name in records."""
        return type(model).__name__.lower()

    def training(self, limit: int | None = None) -> tuple[Any, Any]:
        """Inputs and labels as the loss takes them, the first ones alone if limited."""
        train = self.dataset.train
        return jnp.asarray(train.x[:limit]), jnp.asarray(train.y[:limit])

    def inputs(self, split: str, limit: int | None = None) -> Inputs:
        """The first inputs of a split."""
        found = getattr(self.dataset, split)
        return Inputs(jnp.asarray(found.x[:limit]), None, np.asarray(found.y[:limit]))

    def train_inputs(self) -> np.ndarray:
        """Training inputs [N, n], each once."""
        return self.dataset.train.x

    def objective(self, method: str, model: Any, *, k: int) -> objectives.Objective:
        """The loss on what `training` returns."""
        return objectives.objective(
            method,
            model.apply,
            k=k,
            k_prime=protocols.default_k_prime(k, self.num_features),
            surrogate=model.surrogate(rho=self.view.rho).apply,
            epsilon=self.radius,
            layers=model.layers,
        )

    def settle(self, model: Any, params: Params) -> Params:
        """Parameters [S, ...] after what follows an epoch: nothing here."""
        del model
        return params

    def budget(self, epsilon: float) -> threat.ThreatModel:
        """What an attack may do."""
        return threat.threat_model(self.view.norm, epsilon)

    def config(self, method: str) -> dict[str, Any]:
        """What a fitted model depends on beside the data, method and protocol."""
        del method
        return {}


class PairProblem(TabularProblem):
    """Pairs of images or graphs and Siamese networks; attributes as of a table.

    Args:
      dataset: the data.
      pooling: of the convolutional network, one of `POOLINGS`.
    """

    def __init__(self, dataset: datasets.PairDataset, *, pooling: str = "max"):
        check_in("pooling", pooling, POOLINGS)
        self.dataset = dataset
        self.pooling = pooling
        self.name, self.fold = dataset.name, dataset.fold
        self.truth = dataset.truth
        self.num_features = dataset.train.inputs.shape[1]
        train = dataset.train
        self.sample = train.inputs[[train.first[0], train.second[0]]]
        self.view = GRAPH if dataset.kind == "graph" else IMAGE
        self.small = dataset.kind == "image" and dataset.shape[:2] != (28, 28)
        self.k = self._default_k()
        self.epsilon = pair_protocol.budgets(dataset.kind, small=self.small)
        self.selection_epsilon = max(self.epsilon["standard"])
        # A penalty sees a graph's edges relative to their weights, see `training`.
        self.radius = 1.0 if self._is_graph else self.selection_epsilon

    @property
    def _is_graph(self) -> bool:
        return self.view.kind == "graph"

    def _default_k(self) -> int:
        if self.small:
            return protocols.TABULAR_K
        if not self._is_graph:
            return _MOST_FEATURES
        if self.truth is not None:
            return int(self.truth.sum())
        edges = np.count_nonzero(self.dataset.train.inputs, axis=1)
        few = int(np.quantile(edges, _FEW_EDGES))
        return max(1, min(_MOST_FEATURES, few // 2))

    def protocol(self, preset: str) -> protocols.Protocol:
        return training_flags.change(
            pair_protocol.protocol(preset, self.view.kind, self.num_features)
        )

    def model(self, method: str) -> models.Siamese:
        self.check_method(method)
        smooth = objectives.method(method).smooth
        shape = self.dataset.shape
        if self._is_graph:
            small = shape[0] <= _SMALL_GRAPH
            encoder = models.GCN(shape[0], hidden=(64, 32) if small else (256, 128))
        elif self.small:
            encoder = models.MLP((_SMALL_HIDDEN,), num_outputs=_SMALL_EMBEDDING)
        else:
            encoder = models.CNN(pooling=self.pooling, shape=(*shape, 1)[:3])
        if smooth:
            encoder = encoder.clone(activation="softplus")
        return models.Siamese(encoder, centered=self._is_graph)

    def methods(self, preset: str, default: tuple[str, ...]) -> tuple[str, ...]:
        del default
        return pair_protocol.methods(preset, self.view.kind)

    def seeds(self, preset: str, default: tuple[int, ...]) -> tuple[int, ...]:
        # The folds of graphs are runs enough for all but the long preset.
        return default[:1] if self._is_graph and preset != "paper" else default

    def check_method(self, method: str) -> None:
        if method != LOGISTIC:
            found = objectives.method(method)
            if not found.skip and "certified_gap" not in found.terms:
                return
        raise ValueError(
            f"{method} is for tabular data: {self.name} holds pairs, which are judged "
            "by a Siamese network; choose other --methods"
        )

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
        found = getattr(self.dataset, split)
        return Inputs(
            jnp.asarray(found.x[:limit]),
            jnp.asarray(found.partner[:limit]),
            np.asarray(found.y[:limit]),
        )

    def train_inputs(self) -> np.ndarray:
        train = self.dataset.train
        return train.inputs[np.unique([train.first, train.second])]

    def objective(self, method: str, model: Any, *, k: int) -> objectives.Objective:
        built = objectives.objective(
            method,
            self.trained(model),
            k=k,
            k_prime=protocols.default_k_prime(k, self.num_features),
            surrogate=self.trained(model.surrogate(rho=self.view.rho)),
            epsilon=self.radius,
            split=self.split(model),
        )
        return built._replace(loss=objectives.with_context(built.loss))

    def trained(self, model: models.Siamese) -> ApplyFn:
        """The model as a function of what `training` returns."""
        return (_in_factors if self._is_graph else models.pair_apply)(model)

    def split(self, model: models.Siamese) -> tuple[ApplyFn, ApplyFn] | None:
        """The model in two parts, of which the inner may be piecewise linear.

        A graph's normalisation is not piecewise linear in its edges.
        """
        return None if self._is_graph else models.pair_split(model)

    def settle(self, model: Any, params: Params) -> Params:
        """With the centre of the embeddings at the training graphs' mean."""
        if not model.centered:
            return params
        return _recenter(model)(params, self.train_inputs())

    def budget(self, epsilon: float) -> threat.ThreatModel:
        """Inside the box of legal values; absent edges of sparse graphs stay absent."""
        sparse = bool(self.dataset.meta.get("sparse"))
        return threat.threat_model(
            self.view.norm,
            epsilon,
            lower=self.dataset.lower,
            upper=self.dataset.upper,
            absent="frozen" if sparse else "free",
        )

    def config(self, method: str) -> dict[str, Any]:
        return {
            "fold": self.fold,
            "model": models.describe(self.model(method)),
            "norm": self.view.norm,
            "selection_epsilon": self.selection_epsilon,
            "radius": self.radius,
        }


Problem = TabularProblem


def problem(
    dataset: datasets.Dataset | datasets.PairDataset | Problem, **options: Any
) -> Problem:
    """The problem of a data set; a problem is returned as it is.

    Args:
      dataset: the data.
      options: further arguments of `PairProblem`, which tables ignore.
    """
    if isinstance(dataset, TabularProblem):
        return dataset
    if isinstance(dataset, datasets.PairDataset):
        return PairProblem(dataset, **options)
    return TabularProblem(dataset)


def _in_factors(model: models.Siamese) -> ApplyFn:
    """`apply((params, (partner, x)), factors)`: the pair's logit at x ⊙ factors."""
    apply = models.pair_apply(model)

    def scaled(both, factors, /):
        params, (partner, x) = both
        return apply((params, partner), x * factors)

    return scaled


@functools.lru_cache
def _embed(model):
    def one(params, x):
        return model.apply(params, x, method="embed")

    return jax.jit(jax.vmap(one, (None, 0)))


@functools.lru_cache
def _recenter(model):
    """`run(params with any leading axes, x [u, n])`, one model after the other."""

    def flat(params, x):
        return jax.lax.map(lambda one: models.recenter(model, one, x), params)

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
