"""Attacks the explanations of test inputs of every model, and records what is left."""

from __future__ import annotations

from experiments.loop import parts
from experiments.measures.evaluation import PER_INPUT, STRONGEST, Evaluator
from experiments.models import trained
from experiments.problems import presets

# Attacks whose P@k of every input is kept, for comparisons between methods.
_COMPARED = (STRONGEST, "er_surrogate")


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    settings = problem.protocol(options.preset)
    evaluators = {}
    for chosen in parts.models(
        problem,
        k,
        options,
        description="attack",
        tolerances=presets.TOLERANCES,
    ):
        if chosen.model not in evaluators:
            evaluators[chosen.model] = Evaluator(
                problem,
                chosen.model,
                k=k,
                num_test=settings.num_test,
                strongest_evaluations=settings.strongest_evaluations,
            )
        evaluator = evaluators[chosen.model]
        _measure_model(chosen, evaluator, options, store, settings.everywhere)


def _measure_model(chosen, evaluator, options, store, everywhere):
    fields, params = chosen.fields, chosen.params
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        measured = [{**clean, **record} for record in evaluator.clean(params)]
        store.append([*measured, *trained.choice_records(clean, chosen.choice)])
    for name in options.attacks:
        largest = [max(options.epsilon)]
        main = fields["tolerance"] == presets.MAIN_TOLERANCE
        whole = everywhere is None or (name in everywhere and main)
        for epsilon in options.epsilon if whole else largest:
            cell = {**fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                measured = evaluator.attacked(params, name, epsilon)
                if name not in _COMPARED or epsilon != max(options.epsilon):
                    measured = [r for r in measured if r["metric"] != PER_INPUT]
                told = {**cell, "norm": options.norm}
                store.append([{**told, **record} for record in measured])
