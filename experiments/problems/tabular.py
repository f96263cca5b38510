"""What tables of features ask, and what images and graphs do in their place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.problems import protocols
from experiments.problems.views import TABULAR, Inputs, View
from r2et_jax import datasets, models, objectives, threat
from r2et_jax.datasets import soundness
from r2et_jax.models.registry import describe
from r2et_jax.types import Params

LOGISTIC = "logistic"
# Widths of the published network for tables.
HIDDEN = (32,)


class TabularProblem:
    """A table of features and networks of one input.

    Attributes:
      dataset: the data.
      view: how its models are attacked.
      name, fold: of the data, for records.
      num_features: features that are ranked.
      num_outputs: logits of a model, one for two classes.
      sample: what a model is initialised with.
      k, epsilon: the default top-k size and, by preset, budgets; None for the
        experiment's own.
      most_k: the default size where every input may have a smaller one, see
        `top_sizes`.
      selection_view, selection_epsilon: the view and the budget of the attack by
        which checkpoints are chosen.
      radius: of the ball that some penalties look at.
      truth: [n] bool, the features in which the classes truly differ, or None.
      absent: rule for features that are zero, one of `threat.definition.ABSENT_RULES`.
      changes: what is other than in the protocol of the presets, by its names.
      hidden: widths of the hidden layers of the networks for tables.
    """

    view = selection_view = TABULAR
    fold = 0
    num_outputs = 1
    k = most_k = epsilon = truth = None
    absent = "free"
    changes: Mapping[str, Any] = MappingProxyType({})
    selection_epsilon = radius = 1.0
    hidden: tuple[int, ...] = HIDDEN

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset
        self.name = dataset.name
        self.num_features = dataset.train.x.shape[1]
        self.sample = dataset.train.x[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data."""
        return soundness.fingerprint(self.dataset)

    def protocol(self, preset: str) -> protocols.Protocol:
        """How much is trained and measured, with what the flags change."""
        return protocols.PRESETS[preset]._replace(**self.changes)

    def model(self, method: str) -> Any:
        """The module that a method trains."""
        if method == LOGISTIC:
            return models.Linear()
        trained_as = objectives.method(method)
        module = models.SkipMLP if trained_as.skip else models.MLP
        activation = "softplus" if trained_as.smooth else "leaky_relu"
        return module(self.hidden, activation=activation)

    def methods(self, preset: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """The methods that are trained where none is named."""
        del preset
        return default

    def seeds(self, preset: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds where none is named."""
        del preset
        return default

    @property
    def largest_k(self) -> int:
        """The largest k that leaves something to rank outside of the top set."""
        return self.num_features - 1

    def check_method(self, method: str) -> None:
        """Raise ValueError unless the method trains networks of this kind."""
        if method != LOGISTIC:
            objectives.method(method)

    def architecture(self, model: Any) -> str:
        """The model's name in records."""
        name = type(model).__name__.lower()
        hidden = getattr(model, "hidden", HIDDEN)
        return name if hidden == HIDDEN else "_".join([name, *map(str, hidden)])

    def training(self, limit: int | None = None) -> tuple[Any, Any]:
        """Inputs and labels as the loss takes them, the first ones alone if limited."""
        train = self.dataset.train
        return jnp.asarray(train.x[:limit]), jnp.asarray(train.y[:limit])

    def inputs(self, split: str, limit: int | None = None) -> Inputs:
        """The first inputs of a split."""
        rows = getattr(self.dataset, split)
        return Inputs(jnp.asarray(rows.x[:limit]), None, np.asarray(rows.y[:limit]))

    def top_sizes(self, x: Any, k: int) -> np.ndarray:
        """The size of the top set of each input [m]: k, or what it has to rank."""
        return np.full(len(x), k)

    def penalty_k(self, k: int) -> int:
        """The one size of the top set in penalties where inputs may have their own."""
        return k

    def train_inputs(self, rows: Any = slice(None)) -> np.ndarray:
        """Training inputs [N, n], each once: all, or those of some rows."""
        return self.dataset.train.x[rows]

    def objective(
        self, method: str, model: Any, *, k: int, k_prime: int | None = None
    ) -> objectives.Objective:
        """The loss on what `training` returns; k′ is the default where it is None."""
        return objectives.objective(
            method,
            model.apply,
            k=k,
            k_prime=k_prime or protocols.default_k_prime(k, self.num_features),
            surrogate=model.surrogate(rho=self.view.rho).apply,
            epsilon=self.radius,
            **self.of_network(model),
        )

    def of_network(self, model: Any) -> dict[str, Any]:
        """What an objective is told of the network besides."""
        # Of deeper networks the gradient's program is bounded.
        return {"layers": model.layers if len(self.hidden) == 1 else None}

    def settle(self, model: Any, params: Params, inputs: Any = None) -> Params:
        """Parameters [S, ...] after what follows an epoch: nothing here."""
        del model, inputs
        return params

    def threat_model(
        self, epsilon: float, *, norm: str | None = None
    ) -> threat.ThreatModel:
        """What an attack may do, in the view's norm where none is given."""
        return threat.threat_model(norm or self.view.norm, epsilon)

    def config(self, method: str) -> dict[str, Any]:
        """What a fitted model depends on beside the data, method and protocol."""
        del method
        # The default is not named: models keep the folders that they have.
        return {} if self.hidden == HIDDEN else {"hidden": list(self.hidden)}


class StructuredProblem(TabularProblem):
    """Images or graphs, single or in pairs: attributes as of a table.

    Attributes:
      protocol_kind: theirs in `protocols.protocol`.
      holds: what the data are, for messages.
      shape: of an image, or (regions,) of a graph.
      selection_view: as `view`, in the norm of the data's kind, whatever the norm of
        the attacks is: one model stands under both.
    """

    protocol_kind: str
    holds: str
    shape: tuple[int, ...]
    selection_view: View

    def _set_views(self, view: View, norm: str | None, *, small: bool) -> None:
        """Set the views, the budgets in the asked norm and that of the selection."""
        self.selection_view = view
        self.view = view if norm is None else dataclasses.replace(view, norm=norm)
        kind = self.protocol_kind
        self.epsilon = protocols.budgets(kind, small=small, norm=self.view.norm)
        usual = protocols.budgets(kind, small=small, norm=view.norm)
        self.selection_epsilon = max(usual["standard"])

    def protocol(self, preset: str) -> protocols.Protocol:
        theirs = protocols.protocol(preset, self.protocol_kind, self.num_features)
        return theirs._replace(**self.changes)

    def methods(self, preset: str, default: tuple[str, ...]) -> tuple[str, ...]:
        del default
        return protocols.methods(preset, self.protocol_kind)

    def check_method(self, method: str) -> None:
        if method != LOGISTIC:
            trained_as = objectives.method(method)
            if not trained_as.skip and "certified_gap" not in trained_as.terms:
                return
        raise ValueError(
            f"{method} is for tabular data: {self.name} holds {self.holds}; choose "
            "other --methods"
        )

    def threat_model(
        self, epsilon: float, *, norm: str | None = None
    ) -> threat.ThreatModel:
        """Inside the box of legal values, by the rule for absent edges."""
        return threat.threat_model(
            norm or self.view.norm,
            epsilon,
            lower=self.dataset.lower,
            upper=self.dataset.upper,
            absent=self.absent,
        )

    def config(self, method: str) -> dict[str, Any]:
        return {
            "model": describe(self.model(method)),
            "norm": self.selection_view.norm,
            "selection_epsilon": self.selection_epsilon,
            "radius": self.radius,
        }
