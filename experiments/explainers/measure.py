"""The explainers of one kind of data, and P@k of one model under attack by each."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.loop import parts
from experiments.measures import evaluation
from experiments.problems import presets
from experiments.problems.registry import View
from experiments.store.numbers import summarised, summary
from r2et_jax import attacks, metrics, saliency
from r2et_jax.types import SaliencyFn, ScoreFn


class Draws(NamedTuple):
    """How much is measured: inputs, draws of SmoothGrad, points of the integral."""

    num_inputs: int
    num_samples: int
    num_points: int


# By preset, of tables and of all other data.
DRAWS = {at: Draws(*values) for at, values in presets.EXPLAINERS.items()}
GRADIENT, SMOOTH, INTEGRATED = "gradient", "smooth_grad", "integrated_gradients"
NAMES = (GRADIENT, SMOOTH, INTEGRATED)
# Standard deviation of SmoothGrad's noise, as published.
_SIGMA = {"tabular": math.sqrt(0.5), "image": 0.1, "graph": 0.1}


@dataclasses.dataclass(frozen=True)
class Smooth:
    """SmoothGrad with fixed draws, as a factory of explanations; see `saliency`."""

    num_samples: int
    sigma: float
    base: Callable[..., SaliencyFn]
    channels: int = 1

    def __call__(self, score: ScoreFn, *, normalize: bool = True) -> SaliencyFn:
        explain = saliency.of_pixels(self.channels, saliency.smooth_grad)(
            score,
            num_samples=self.num_samples,
            sigma=self.sigma,
            base=self.base,
            normalize=normalize,
        )
        return functools.partial(explain, key=jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Integrated:
    """Integrated Gradients as a factory of explanations; see `saliency`."""

    num_points: int
    channels: int = 1

    def __call__(self, score: ScoreFn, *, normalize: bool = True) -> SaliencyFn:
        return saliency.of_pixels(self.channels, saliency.integrated_gradients)(
            score, num_points=self.num_points, normalize=normalize
        )


def views(view: View, draws: Draws, *, channels: int = 1) -> dict[str, View]:
    """Name of an explainer -> the view with it; its own one is called gradient."""
    base = view.explainer if channels == 1 else saliency.gradient
    smooth = Smooth(draws.num_samples, _SIGMA[view.kind], base, channels)
    explainers = (view.explainer, smooth, Integrated(draws.num_points, channels))
    return {
        name: dataclasses.replace(view, explainer=explainer)
        for name, explainer in zip(NAMES, explainers, strict=True)
    }


def measure(
    result: attacks.AttackResult, *, k: int, units: Any = None
) -> list[dict[str, Any]]:
    """The records of one attack: metric, value, stderr, n; `units` as of `summary`."""
    same = metrics.mean_topk_overlap(result.clean_map, k=k, units=units)
    return [
        summary("p@k", result.best.precision, units),
        summarised("same", same),
        summary("vanished", result.vanished == 1, units),
    ]


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    draws = DRAWS[options.preset, problem.view.tabular]
    num_test = min(draws.num_inputs, problem.protocol(options.preset).num_test)
    inputs = problem.inputs("test", num_test)
    x, partner, _ = inputs
    (name,), (epsilon,) = options.attacks, options.epsilon
    ball = problem.threat_model(epsilon)
    explained = views(
        problem.view, draws, channels=x.shape[1] // problem.num_features
    ).items()
    for chosen in parts.models(problem, k, options, description="explain"):
        context = problem.view.context(chosen.model, chosen.params, partner)
        for explainer, view in explained:
            cell = {**chosen.fields, "attack": name, "epsilon": epsilon}
            cell["explainer"] = explainer
            if not store.has(**cell):
                run = evaluation.compiled_attack(
                    chosen.model, name, k, view, evaluations=0
                )
                key = jax.random.key(0)
                result = run(chosen.params, x, ball, key=key, context=context)
                measurements = measure(result, k=k, units=inputs.units)
                store.append([{**cell, **record} for record in measurements])
