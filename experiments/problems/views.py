"""How models of each kind of data are explained and attacked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.problems import presets
from r2et_jax import models, saliency
from r2et_jax.execution import kept, map_batched
from r2et_jax.metrics.summary import distinct_inputs
from r2et_jax.subject import Subject, subject
from r2et_jax.types import ApplyFn, Params, SaliencyFn


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
      paired: whether an input has a partner.
      chunk: inputs that are predicted or explained at a time; None for all of them.
    """

    kind: str = "tabular"
    norm: str = "l2"
    explainer: Callable[..., SaliencyFn] = saliency.gradient
    rho: float = presets.SURROGATE_RHO
    num_steps: int | None = None
    batch_size: int | None = None
    paired: bool = False
    chunk: int | None = None

    @property
    def tabular(self) -> bool:
        """Whether the inputs are rows of a table; all others have their own choices."""
        return self.kind == "tabular"

    @property
    def attack_options(self) -> dict[str, Any]:
        """Steps and sharpness of the stand-in, as keywords of the attacks by name."""
        return {"num_steps": self.num_steps, "rho": self.rho}

    @property
    def batching(self) -> dict[str, int]:
        """The batch size as a keyword, where it is not the library's choice."""
        return {} if self.batch_size is None else {"batch_size": self.batch_size}

    def apply(self, model: Any, *, within: bool = False) -> ApplyFn:
        """The model of one input; partners are given as their embeddings.

        Args:
          model: the module.
          within: whether absent edges of sparse graphs stay absent, as under attack,
            so that nodes without edges may be left out.
        """
        # Other explanations look at absent edges too, as those under noise do.
        if not within or self.explainer is not saliency.gradient_times_input:
            model = anywhere(model)
        return models.pair_apply(model, embedded=True) if self.paired else model.apply

    def smoothed(self, model: Any, rho: float, *, within: bool = False) -> ApplyFn:
        """Its smooth stand-in for the same parameters."""
        return self.apply(model.surrogate(rho=rho), within=within)

    def attacked(self, model: Any, params: Any = None, context: Any = None) -> Subject:
        """A module with its smooth stand-in and explanation, as attacks want it."""
        return _attacked(self, model).at(params, context)

    def explained(self, model: Any, params: Any, context: Any = None) -> Subject:
        """A module with its explanation, for what is no attack."""
        return _explained(self, model).at(params, context)

    def context(self, model: Any, params: Params, partner: Any) -> Any:
        """What `apply` needs beside the inputs: embeddings of the partners, or None."""
        return embed(model)(params, partner) if self.paired else None

    def logits(self, model: Any, params: Params, x: Any, partner: Any) -> Any:
        """The logit [m] of every input, or all of them [m, C] of several classes."""
        if self.paired:
            apply = jax.vmap(models.pair_apply(model), ((None, 0), 0))
            return apply((params, partner), x)[:, 0]
        if self.chunk is None:
            logits = model.apply(params, x)
        else:
            predict = functools.partial(model.apply, params)
            logits = map_batched(predict, (x,), batch_size=self.chunk)
        return logits[:, 0] if logits.shape[1] == 1 else logits


@kept
def _attacked(view: View, model: Any) -> Subject:
    return subject(
        view.apply(model, within=True),
        None,
        smoothed=lambda rho: view.smoothed(model, rho, within=True),
        explainer=view.explainer,
    )


@kept
def _explained(view: View, model: Any) -> Subject:
    return subject(view.apply(model), None, explainer=view.explainer)


def anywhere(model: Any) -> Any:
    """The model for graphs of any number of edges, of the same parameters."""
    encoder = getattr(model, "encoder", None)
    if getattr(encoder, "max_connected", None) is None:
        return model
    return model.clone(encoder=encoder.clone(max_connected=None))


TABULAR = View()
IMAGE = View("image", rho=10.0, num_steps=100, batch_size=64, paired=True)
GRAPH = View("graph", "linf", saliency.gradient_times_input, 10.0, 100, 32, paired=True)


class Inputs(NamedTuple):
    """Inputs [m, n] of a split with their partners, None where single, and labels."""

    x: Any
    partner: Any
    y: Any

    @property
    def units(self) -> np.ndarray:
        """Which input each row is of [m]: rows that explain the same one are alike."""
        return distinct_inputs(self.x)


@kept
def embed(model):
    """Compiled embeddings of inputs [m, n] by a Siamese network."""

    def predict(params, x):
        return model.apply(params, x, method="embed")

    return jax.jit(jax.vmap(predict, (None, 0)))
