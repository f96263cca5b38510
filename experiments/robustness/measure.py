"""Attacks the explanations of test inputs of every model, and records what is left."""

from __future__ import annotations

from experiments.loop import parts
from experiments.measures.evaluation import PER_INPUT, STRONGEST, Evaluator
from experiments.models import trained
from experiments.problems import presets

# Attacks whose P@k of every input is kept, for comparisons between methods.
_COMPARED = (STRONGEST, "er_surrogate")


def measure_dataset(problem, k, common, store):
    """Record what is not there yet of one data set with one k, model by model."""
    settings = problem.protocol(common.preset)
    evaluators = {}
    for one in parts.models(
        problem,
        k,
        common,
        description="attack",
        tolerances=presets.TOLERANCES,
    ):
        if one.model not in evaluators:
            evaluators[one.model] = Evaluator(
                problem,
                one.model,
                k=k,
                num_test=settings.num_test,
                strongest_budget=settings.strongest_budget,
            )
        evaluator = evaluators[one.model]
        _measure_model(one, evaluator, common, store, settings.everywhere)


def _measure_model(one, evaluator, common, store, everywhere):
    fields, params = one.fields, one.params
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        measured = [{**clean, **record} for record in evaluator.clean(params)]
        store.append([*measured, *trained.choice_records(clean, one.choice)])
    for name in common.attacks:
        largest = [max(common.epsilon)]
        main = fields["tolerance"] == presets.MAIN_TOLERANCE
        whole = everywhere is None or (name in everywhere and main)
        for epsilon in common.epsilon if whole else largest:
            cell = {**fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                measured = evaluator.attacked(params, name, epsilon)
                if name not in _COMPARED or epsilon != max(common.epsilon):
                    measured = [r for r in measured if r["metric"] != PER_INPUT]
                told = {**cell, "norm": common.norm}
                store.append([{**told, **record} for record in measured])
