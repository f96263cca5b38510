"""DFFOT, COMP and SUFF of models of one architecture on one data set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.loop import parts
from experiments.problems import presets
from experiments.problems.registry import Problem
from experiments.store.numbers import summary
from r2et_jax import metrics, score
from r2et_jax.context import in_context
from r2et_jax.execution import example_keys, map_batched
from r2et_jax.metrics.faithfulness import conditional_baseline, removal_sizes

BASELINES = ("zero", "mean", "conditional")
RANKINGS = ("saliency", "random")

# Training inputs among which the conditional baseline looks for the nearest.
_MAX_REFERENCES = 2000
# Changed inputs that the model sees at a time; bounds the memory.
_ROWS = 2048


class Measurer:
    """Measures models of one architecture on the test inputs of one data set.

    Args:
      problem: the data.
      model: the Flax module.
      num_inputs: test inputs, at most.
    """

    def __init__(self, problem: Problem, model: Any, *, num_inputs: int):
        self.view, self.model = problem.view, model
        inputs = problem.inputs("test", num_inputs)
        self.x, self.partner, _ = inputs
        self.units = inputs.units
        self.num_features = problem.num_features
        train = problem.train_inputs()
        self._mean = train.mean(axis=0)
        order = np.random.default_rng(0).permutation(len(train))
        self._references = jnp.asarray(train[order[:_MAX_REFERENCES]])
        sizes, flip_sizes = removal_sizes(self.num_features, every=problem.view.tabular)
        num_draws = min(presets.REMOVAL_DRAWS, len(self._references))
        apply = problem.view.apply(model)
        explain = problem.view.explainer(score.log_odds(apply))

        def explained(params, x, context):
            params = in_context(params, context)
            return explain(params, x, score.predicted_class(apply(params, x)))

        def measured(baseline, num_rows):
            """Compiled: `run(params, x, maps, context, what the baseline knows)`."""
            num_rows *= len({*sizes, *flip_sizes}) + len(sizes)

            def run(params, x, maps, context, known):
                measure = metrics.faithfulness(
                    apply, baseline(known), sizes=sizes, flip_sizes=flip_sizes
                )

                def chosen(x, saliency, context, key):
                    return measure(in_context(params, context), x, saliency, key=key)

                return map_batched(
                    chosen,
                    (x, maps, context, example_keys(jax.random.key(0), len(x))),
                    batch_size=max(1, _ROWS // num_rows),
                )

            return jax.jit(run)

        def nearest(known):
            return conditional_baseline(known, num_draws=num_draws)

        self._explain = jax.jit(jax.vmap(explained, (None, 0, 0)))
        self._constant = measured(metrics.constant_baseline, 1)
        self._nearest = measured(nearest, num_draws)

    def records(self, params: Any, baseline: str, ranking: str) -> list[dict[str, Any]]:
        """The records of one model: metric, value, stderr, n.

        Args:
          params: its parameters.
          baseline: one of `BASELINES`.
          ranking: one of `RANKINGS`.
        """
        context = self.view.context(self.model, params, self.partner)
        if ranking == "random":
            shape = len(self.x), self.num_features
            maps = jax.random.uniform(jax.random.key(1), shape)
        else:
            maps = self._explain(params, self.x, context)
        run = self._nearest if baseline == "conditional" else self._constant
        known = {
            "zero": np.zeros_like(self._mean),
            "mean": self._mean,
            "conditional": self._references,
        }[baseline]
        numbers = run(params, self.x, maps, context, known)
        return [summary(*item, self.units) for item in numbers._asdict().items()]


def measure_dataset(problem, k, options, baselines, store):
    """Record what is not there yet of one data set with one k, model by model."""
    limit = min(
        presets.FAITHFULNESS[options.preset], problem.protocol(options.preset).num_test
    )
    measurers: dict[Any, Measurer] = {}
    for chosen in parts.models(problem, k, options, description="remove"):
        if chosen.model not in measurers:
            measurers[chosen.model] = Measurer(problem, chosen.model, num_inputs=limit)
        for baseline in baselines:
            for ranking in RANKINGS:
                cell = {**chosen.fields, "attack": "none", "epsilon": None}
                cell |= {"baseline": baseline, "ranking": ranking}
                if not store.has(**cell):
                    measure = measurers[chosen.model].records
                    measurements = measure(chosen.params, baseline, ranking)
                    store.append([{**cell, **record} for record in measurements])
