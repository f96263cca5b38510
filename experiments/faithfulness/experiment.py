"""Faithfulness of the explanations: DFFOT, COMP and SUFF, methods × data × baselines.

Trains methods (or finds their models), removes the features of test inputs in the order
of their saliency, and records how soon the predicted class flips (DFFOT) and how far
the probability of the predicted class falls without the top features (COMP) and with
them alone (SUFF). What stands for a removed feature is a baseline: zero, the mean of
the training inputs, or values of training inputs that are alike in the kept features
(`r2et_jax.metrics.faithfulness`, which says what this does to one-hot columns). The
same is measured with features in random order, the floor under all these numbers.

Of pairs of images or graphs it is the first input whose features are removed, and the
probability is that of the pair; the partner stays as it is.

    python -m experiments.faithfulness --datasets=adult,bank,compas
    python -m experiments.faithfulness --datasets=mnist
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from experiments.console import flags
from experiments.faithfulness import report as faithfulness_report
from experiments.loop import parts, runs
from experiments.measures.numbers import summary
from experiments.models.fitting import LOGISTIC
from experiments.problems import presets
from experiments.problems.registry import Problem
from r2et_jax import metrics, objectives, score
from r2et_jax.context import in_context
from r2et_jax.execution import example_keys, map_batched

BASELINES = ("zero", "mean", "conditional")
RANKINGS = ("saliency", "random")
NUM_DRAWS = 10
NUM_INPUTS = {"smoke": 50, "standard": 500, "paper": 1000}
# Training inputs among which the conditional baseline looks for the nearest.
_MAX_REFERENCES = 2000
# Up to so many features, DFFOT looks at every number of them; else at steps of 2 %.
_FEW_FEATURES, _STEPS = 64, 50
# Of COMP and SUFF on images and graphs, as in ERASER; on tables every number.
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
# Changed inputs that the model sees at a time; bounds the memory.
_ROWS = 2048
_OWN = ("k", "seeds")
_METHODS = "vanilla,wd,sp,r2et_nh,r2et,r2et_mm,rat"


def _define(values):
    absl_flags.DEFINE_list(
        "baselines",
        list(BASELINES),
        f"what stands for removed features: {', '.join(BASELINES)}",
        flag_values=values,
    )
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "faithfulness",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": {
            "smoke": "vanilla,wd,r2et_nh,r2et",
            "standard": _METHODS,
            "paper": _METHODS,
        },
        "k": str(presets.TABULAR_K),
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
    own=(*parts.OF_PAIRS, "baselines"),
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=(*objectives.NAMES, LOGISTIC),
    )
    for name in ("attacks", "epsilon"):
        if getattr(common, name):
            raise ValueError(f"--{name} has no use here: nothing is attacked")
    given = common.given["baselines"]
    baselines = flags.parse_names("baselines", given, known=BASELINES)
    runs.check_single(common, ("k",))
    chosen = [parts.choose(found, common, _OWN) for found in parts.problems(common)]
    folder, store = parts.start(chosen, common, experiment=FLAGS.experiment, own=_OWN)
    for found, own, k in parts.in_turn(chosen):
        _measure_dataset(found, k, own, baselines, store)

    def write(*args, **part):
        return faithfulness_report.write_report(*args, baselines, **part)

    written, groups = parts.write_reports(folder, store, chosen, _OWN, write)
    written.append(
        faithfulness_report.write_exhibit(folder, store, groups, baselines, written)
    )
    print("\n".join(map(str, written)))


def _measure_dataset(found, k, common, baselines, store):
    limit = min(NUM_INPUTS[common.preset], found.protocol(common.preset).num_test)
    measurers: dict[Any, Measurer] = {}
    for one in parts.models(FLAGS.experiment, found, k, common, description="remove"):
        if one.model not in measurers:
            measurers[one.model] = Measurer(found, one.model, num_inputs=limit)
        for baseline in baselines:
            for ranking in RANKINGS:
                cell = {**one.fields, "attack": "none", "epsilon": None}
                cell |= {"baseline": baseline, "ranking": ranking}
                if not store.has(**cell):
                    measure = measurers[one.model].records
                    measurements = measure(one.params, baseline, ranking)
                    store.append([{**cell, **record} for record in measurements])


class Measurer:
    """Measures models of one architecture on the test inputs of one data set.

    Args:
      found: the data.
      model: the Flax module.
      num_inputs: test inputs, at most.
    """

    def __init__(self, found: Problem, model: Any, *, num_inputs: int):
        self.view, self.model = found.view, model
        inputs = found.inputs("test", num_inputs)
        self.x, self.partner, _ = inputs
        self.units = inputs.units
        self.num_features = found.num_features
        train = found.train_inputs()
        self._mean = train.mean(axis=0)
        order = np.random.default_rng(0).permutation(len(train))
        self._references = jnp.asarray(train[order[:_MAX_REFERENCES]])
        sizes, flip_sizes = removal_sizes(self.num_features, every=found.view.tabular)
        num_draws = min(NUM_DRAWS, len(self._references))
        apply = found.view.apply(model)
        explain = found.view.explainer(score.log_odds(apply))

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

                def one(x, saliency, context, key):
                    return measure(in_context(params, context), x, saliency, key=key)

                return map_batched(
                    one,
                    (x, maps, context, example_keys(jax.random.key(0), len(x))),
                    batch_size=max(1, _ROWS // num_rows),
                )

            return jax.jit(run)

        def nearest(known):
            return metrics.conditional_baseline(known, num_draws=num_draws)

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
        found = run(params, self.x, maps, context, known)
        return [summary(*item, self.units) for item in found._asdict().items()]


def removal_sizes(n: int, *, every: bool) -> tuple[list[int], list[int]]:
    """Numbers of features for COMP and SUFF, and for DFFOT.

    Args:
      n: number of features.
      every: whether COMP and SUFF take every number instead of shares of n.
    """
    sizes = range(1, n + 1)
    if not every:
        sizes = sorted({max(1, round(share * n)) for share in _SHARES})
    if n <= _FEW_FEATURES:
        return list(sizes), list(range(1, n + 1))
    steps = {max(1, round(n * step / _STEPS)) for step in range(1, _STEPS + 1)}
    return list(sizes), sorted(steps | set(sizes))
