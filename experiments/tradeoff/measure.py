"""Measures P@k and both AUC of every model, or takes what robustness has measured."""

from __future__ import annotations

import functools
from typing import Any

import jax

from experiments.loop import parts
from experiments.measures.evaluation import Evaluator
from experiments.problems import presets
from experiments.store.numbers import measured
from r2et_jax import metrics

_KEPT = ("p@k", "aauc", "sensitivity")


def measure_dataset(problem, k, options, store, known):
    """Record what is not there yet of one data set with one k, model by model."""
    settings = problem.protocol(options.preset)
    (attack,), (epsilon,) = options.attacks, options.epsilon
    programs: dict[Any, tuple] = {}
    for chosen in parts.models(
        problem,
        k,
        options,
        description="attack",
        tolerances=presets.TOLERANCES,
    ):
        cell = {**chosen.fields, "attack": attack, "epsilon": epsilon}
        if store.has(**cell):
            continue
        if (shared := known.of(cell, _KEPT)) is not None:
            store.append(shared)
            continue
        if chosen.model not in programs:
            evaluator = Evaluator(
                problem,
                chosen.model,
                k=k,
                num_test=settings.num_test,
                strongest_evaluations=settings.strongest_evaluations,
            )
            logits = jax.jit(functools.partial(problem.view.logits, chosen.model))
            programs[chosen.model] = evaluator, logits
        evaluator, logits = programs[chosen.model]
        test = problem.inputs("test")
        auc = metrics.roc_auc(test.y, logits(chosen.params, test.x, test.partner))
        attacked = evaluator.attacked(chosen.params, attack, epsilon)
        kept = [record for record in attacked if record["metric"] in _KEPT]
        kept.append(measured("auc", auc, None, len(test.y)))
        store.append([{**cell, **record} for record in kept])
