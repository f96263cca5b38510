"""A saved model under attack, and its records that are not there yet."""

from __future__ import annotations

from typing import Any, NamedTuple

from experiments.console.progress import track
from experiments.loop import setup
from experiments.measures.evaluation import Evaluator
from experiments.problems.registry import Problem
from r2et_jax.types import Params


class Target(NamedTuple):
    """A model under attack.

    Attributes:
      data: whose test inputs are attacked.
      model: the Flax module.
      params: its parameters.
      k: sizes of the top set.
      epsilon: budgets.
      fields: what its records say of it, k aside.
    """

    data: Problem
    model: Any
    params: Params
    k: tuple[int, ...]
    epsilon: tuple[float, ...]
    fields: dict[str, Any]


def measure(target, k, evaluators, options, store):
    """All records of one model and k that are not there yet."""
    data, model, params = target.data, target.model, target.params
    cell = data.name, data.fold, model, k
    if cell not in evaluators:
        settings = data.protocol(options.preset)
        evaluators[cell] = Evaluator(
            data,
            model,
            k=k,
            num_test=settings.num_test,
            strongest_evaluations=settings.strongest_evaluations,
        )
    evaluator = evaluators[cell]
    fields = fields_of(target, k, options.experiment)
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        store.append([{**clean, **record} for record in evaluator.clean(params)])
    cells = [(name, epsilon) for name in options.attacks for epsilon in target.epsilon]
    for name, epsilon in track(
        cells,
        description=f"{data.name} {fields['method']} attack",
        show=options.progress,
    ):
        cell = {**fields, "attack": name, "epsilon": epsilon}
        if not store.has(**cell):
            attacked = evaluator.attacked(params, name, epsilon)
            store.append([{**cell, **record} for record in attacked])


def fields_of(target: Target, k: int, experiment: str) -> dict[str, Any]:
    told = dict(target.fields)
    named = {
        name: told.pop(name) for name in ("method", "seed", "tolerance", "schedule")
    }
    return {
        **setup.model_fields(experiment, target.data, target.model, k=k, **named),
        **told,
    }
