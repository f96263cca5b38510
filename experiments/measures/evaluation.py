"""Measures one model: clean metrics and guards, then one attack at one budget."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures.linear_graphs import linear_graph_auc
from experiments.models.trained import class_accuracy, class_logits, with_classifier
from experiments.problems.registry import TABULAR, Problem, View, problem
from experiments.problems.sizes import by_size, top_sets
from experiments.store.numbers import each, measured, summarised, summary
from r2et_jax import (
    attacks,
    checks,
    datasets,
    metrics,
)
from r2et_jax.attacks import registry
from r2et_jax.attacks.ensemble import DEFAULT_EVALUATIONS
from r2et_jax.audit import guards
from r2et_jax.context import in_context
from r2et_jax.execution import kept, map_batched
from r2et_jax.metrics.classification import prediction_shift
from r2et_jax.metrics.ground_truth import truth_precision
from r2et_jax.metrics.guards import background_share, data_directions
from r2et_jax.metrics.same import overlap_covariance
from r2et_jax.training.packing import params_sha256

_TRACE_POINTS = 20
STRONGEST = registry.STRONGEST
# Metric whose record has the P@k of every input in its field `values`.
PER_INPUT = "p@k_inputs"


class Evaluator:
    """Measures models of one architecture on the test inputs of one data set.

    What it measured of a model it does not measure again, as when two tolerances
    choose the same checkpoint.

    Args:
      dataset: the data, or its `Problem`.
      model: the Flax module.
      k: size of the top set, the largest one where inputs have their own.
      num_test: test inputs under attack, at most.
      strongest_evaluations: gradient evaluations of `strongest` for each input.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | datasets.PairDataset | Problem,
        model: Any,
        *,
        k: int,
        num_test: int,
        strongest_evaluations: int = DEFAULT_EVALUATIONS,
    ):
        self.problem = problem(dataset)
        self.view = self.problem.view
        self.model = model
        self.k = k
        inputs = self.problem.inputs("test", num_test)
        self.x, self.partner, self.y = inputs
        # Errors are over different inputs, which pairs may share.
        self.units = inputs.units
        self.sizes = self.problem.top_sizes(self.x, k)
        self.strongest_evaluations = strongest_evaluations
        self._measured: dict[Any, list[dict[str, Any]]] = {}
        self._single: tuple[str, Any] | None = None

    def clean(self, params: Any) -> list[dict[str, Any]]:
        """Metrics without an attack, and the guards against cheating."""
        context = self._context(params)
        first = jax.tree.map(lambda leaf: leaf[0], context)
        checks.check_model(
            self.view.apply(self.model), in_context(params, first), self.x[0]
        )
        keys = jax.random.split(jax.random.key(0), len(self.x))

        def explain(k, rows):
            run = _explain(self.model, k, self.view)
            return run(params, self.x[rows], self._at(rows, context), keys[rows])

        out = by_size(self.sizes, explain)
        maps, gradients, noisy, tied = (np.asarray(value) for value in out)
        tied = np.where(np.isfinite(maps).all(axis=1), tied, np.nan)
        test = self.problem.inputs("test")
        logits = self._logits(params, test)
        null = metrics.null_share(
            gradients,
            self.problem.train_inputs(),
            directions=self._directions,
            units=self.units,
        )
        same = metrics.mean_topk_overlap(
            top_sets(maps, self.sizes), k=self.k, units=self.units
        )
        records = [
            measured("auc", metrics.roc_auc(test.y, logits), None, len(test.y)),
            summarised("same", same),
            summarised("null", null),
            self._mean("tied", tied),
        ]
        if self.view.tabular:
            # A pair's logit is a function of both inputs.
            r2 = metrics.linear_r2(test.x, logits)
            records.append(measured("linear_r2", r2, None, len(test.y)))
            records += self._copies()
        if self.view.kind == "image":
            records.append(self._background(maps))
        if self.view.paired:
            share, single = class_accuracy(self.problem, *self._classifier(params))
            records.append(measured("class_accuracy", share, None, single))
        if self.view.kind == "graph":
            # With few graphs, the first question is whether anything was learnt.
            train = self.problem.inputs("train")
            auc = metrics.roc_auc(train.y, self._logits(params, train))
            records.append(measured("train_auc", auc, None, len(train.y)))
            linear, single = _linear_auc(self.problem)
            records += [
                measured("linear_auc", linear, None, len(test.y)),
                measured("linear_class_auc", single, None, len(test.y)),
                *self._truth(maps),
            ]
        guard = summary("p@k", noisy, self.units)
        guard.update(attack="noise", epsilon=guards.NOISE)
        return [*records, guard]

    def attacked(self, params: Any, name: str, epsilon: float) -> list[dict[str, Any]]:
        """Metrics under one attack at a budget of the data's threat model.

        Args:
          params: parameters.
          name: name of the attack.
          epsilon: budget.
        """
        cell = (params_sha256(params), name, epsilon)
        if cell not in self._measured:
            ball, context = self.problem.threat_model(epsilon), self._context(params)
            key = jax.random.key(0)

            def attack(k, rows):
                run = compiled_attack(
                    self.model,
                    name,
                    k,
                    self.view,
                    evaluations=self.strongest_evaluations,
                )
                some = self._at(rows, context)
                return run(params, self.x[rows], ball, key=key, context=some)

            result = by_size(self.sizes, attack)
            recorded = self._of_strongest if name == STRONGEST else self._of_one
            self._measured[cell] = recorded(params, result)
        return self._measured[cell]

    def _of_one(self, params, result):
        manipulated, steps = result.manipulated_at > 0, result.details
        epochs = result.manipulated_at[manipulated]
        records = [
            *self._outcome(params, result),
            self._mean("p@k_last", steps.last_precision),
            *self._changed(
                params, steps.last, result.clean_logits, steps.last_logits, "_last"
            ),
            self._mean("vanished", result.vanished == 1),
            self._mean("manipulated", manipulated),
            self._mean("manipulation_epoch", epochs, manipulated)
            if epochs.size
            else None,
            *self._agreement(result.clean_map, result.best_map),
            *self._truth(result.best_map),
            *self._trace(steps),
        ]
        return [record for record in records if record is not None]

    def _of_strongest(self, params, result):
        records = self._outcome(params, result)
        manipulated, rounds = result.manipulated_at > 0, result.details
        left = result.manipulated_at[manipulated]
        records += [
            self._mean("vanished", result.vanished == 1),
            self._mean("manipulated", manipulated),
            self._mean("manipulation_budget", left, manipulated) if left.size else None,
            *self._agreement(result.clean_map, result.best_map),
            *self._truth(result.best_map),
        ]
        records = [record for record in records if record is not None]
        curve = [
            {**self._mean("p@k_curve", values), "evaluations": int(spent)}
            for spent, values in zip(
                rounds.curve_evaluations, rounds.curve, strict=True
            )
        ]
        return [*records, *curve]

    def _logits(self, params, inputs) -> np.ndarray:
        run = _logits(self.model, self.view)
        return np.asarray(run(params, inputs.x, inputs.partner))

    def _context(self, params):
        return self.view.context(self.model, params, self.partner)

    @staticmethod
    def _at(rows, context):
        return jax.tree.map(lambda leaf: leaf[rows], context)

    @functools.cached_property
    def _directions(self) -> np.ndarray:
        return data_directions(self.problem.train_inputs())

    def _copies(self) -> list[dict[str, Any]]:
        """How many rows of the whole table equal another one, where it is known."""
        data = self.problem.dataset
        if "copies" not in data.meta:
            return []
        rows = sum(len(split.y) for split in (data.train, data.valid, data.test))
        return [measured("copies", data.meta["copies"]["rows"], None, rows)]

    def _background(self, maps) -> dict[str, Any]:
        # A pixel is background if all of its channels are zero.
        pixels = np.abs(self.x).reshape(*maps.shape, -1).max(axis=-1)
        shares = background_share(maps, pixels, k=self.k, units=self.units)
        return summarised("bg", shares)

    def _truth(self, maps) -> list[dict[str, Any]]:
        """Precision of the top-k against the truth, where it is known."""
        truth = self.problem.truth
        if truth is None:
            return []
        precision = truth_precision(truth, maps, k=self.k, units=self.units)
        return [summarised("truth_precision", precision)]

    def _mean(self, metric, values, rows=slice(None)):
        """The record of values of all inputs, or of some rows of them."""
        return summary(metric, values, self.units[rows])

    def _agreement(self, clean_maps, maps) -> list[dict[str, Any]]:
        """Correlation and distance of the explanations before and after."""
        pair = jnp.asarray(clean_maps), jnp.asarray(maps)
        return [self._mean("pcc", _pearson(*pair)), self._mean("mse", _mse(*pair))]

    def _outcome(self, params, result):
        """What every attack reports of the inputs that it found."""
        clean_logits, logits = result.clean_logits, result.best_logits
        precision, units = result.best.precision, self.units
        shift = prediction_shift(clean_logits, logits, units=units)
        # For the error of P@k⁺, which the reports compute.
        covariance = overlap_covariance(
            precision, top_sets(result.clean_map, self.sizes), k=self.k, units=units
        )
        return [
            self._mean("p@k", precision),
            self._mean("p@k_same_class", result.best_same_class.precision),
            measured("p@k_same_covariance", covariance, None, len(np.unique(units))),
            each(PER_INPUT, precision, units),
            measured("aauc", self._auc(logits), None, len(self.y)),
            measured("cauc", self._auc(clean_logits), None, len(self.y)),
            *self._changed(params, result.best.perturbed, clean_logits, logits),
            summarised("prediction_change", shift),
        ]

    def _changed(self, params, perturbed, clean_logits, logits, suffix=""):
        """How often a predicted class changed: any, and of pairs each by itself."""
        parts = {"": (clean_logits, logits)}
        if self.view.paired:
            classify = functools.partial(class_logits, *self._classifier(params))
            single = classify(self.x), classify(perturbed)
            both = tuple(zip(parts[""], single, strict=True))
            parts = {"": both, "_pair": parts[""], "_class": single}
        records = []
        for part, ends in parts.items():
            changed = metrics.sensitivity(*ends, units=self.units)
            records.append(summarised(f"sensitivity{part}{suffix}", changed))
        return records

    def _classifier(self, params):
        """The model of pairs whose classifier of single inputs is fitted."""
        digest = params_sha256(params)
        if self._single is None or self._single[0] != digest:
            self._single = digest, with_classifier(self.problem, self.model, params)
        return self._single[1]

    def _auc(self, logits) -> float:
        """Of the attacked inputs; NaN where all of these are of one class."""
        if np.all(self.y == self.y[0]):
            return np.nan
        logits = np.asarray(logits)
        return metrics.roc_auc(self.y, logits[:, 0] if logits.shape[1] == 1 else logits)

    def _trace(self, steps) -> list[dict[str, Any]]:
        """Mean P@k along the iterations, at about _TRACE_POINTS of them."""
        num_tracked = steps.precision.shape[1]
        stride = max(1, num_tracked // _TRACE_POINTS)
        lowest = np.fmin.accumulate(steps.precision, axis=1)
        return [
            {
                **self._mean("p@k_trace", lowest[:, t]),
                "step_share": (t + 1) / num_tracked,
            }  # fmt: skip
            for t in range(stride - 1, num_tracked, stride)
        ]


_pearson = jax.jit(jax.vmap(metrics.pearson))
_mse = jax.jit(jax.vmap(metrics.mse))


@kept
def _linear_auc(problem: Problem) -> tuple[float, float]:
    return linear_graph_auc(problem.dataset)


@kept
def _logits(model, view: View):
    if view.tabular:
        return functools.partial(view.logits, model)
    return jax.jit(functools.partial(view.logits, model))


@kept
def _explain(model, k: int, view: View):
    """Compiled maps, raw gradients, P@k under noise, and ties at the border."""
    look = guards.look(view.explained(model, None).form, k=k)

    def each_input(params, x, context, key):
        seen = look(in_context(params, context), x, key=key)
        return seen.map, seen.gradient, seen.noise_precision, seen.tied

    def run(params, x, context, keys):
        args = x, context, keys
        each = functools.partial(each_input, params)
        return map_batched(each, args, batch_size=view.chunk or len(x))

    return jax.jit(run)


def compiled_attack(
    model: Any, name: str, k: int, view: View = TABULAR, *, evaluations: int
) -> Callable[..., Any]:
    """An attack by name, compiled once for every module.

    Args:
      model: the Flax module.
      name: of `attacks.NAMES`.
      k: size of the top set.
      view: how its kind of data is attacked.
      evaluations: of the gradient by `STRONGEST` for each input; of no account for
        others.

    Returns:
      `run(params, x, threat, *, key, context=None)`.
    """
    limit = {"evaluations": evaluations} if name == STRONGEST else {}
    attack = attacks.attack(name, k=k, **limit, **view.attack_options, **view.batching)

    def run(params, x, threat, /, *, key, context=None):
        return attack(view.attacked(model, params, context), x, threat, key=key)

    return run


def strongest(model, k: int, evaluations: int, view: View = TABULAR):
    """The compiled ensemble on a module: `run(params, x, threat, *, key, context)`."""
    return compiled_attack(model, STRONGEST, k, view, evaluations=evaluations)
