"""How R2ET depends on its hyperparameters, one at a time, the others at their defaults.

k: trained with k, P@k measured. k_prime: pairs of the forms that take some. lambda_1,
lambda_2: weights of the penalties, in multiples of the middle of the preset's grid, one
fit for each weight. schedule: from a vanilla model or from scratch. reference: the
model whose ranking is kept. Other than for the weights, a short grid of weights is
searched by the one selection rule.

    python -m experiments.sensitivity --datasets=compas --factors=k_prime,schedule
"""

from __future__ import annotations

import functools
from typing import Any

from absl import flags as absl_flags

from experiments.console import flags
from experiments.console.progress import track
from experiments.loop import asked, runs, setup
from experiments.measures.evaluation import Evaluator
from experiments.models import trained
from experiments.models.fitting import Fitter
from experiments.problems import presets
from experiments.sensitivity import report
from experiments.sensitivity.measure import FACTORS, measure, settings
from r2et_jax import attacks


def _define(values):
    absl_flags.DEFINE_list(
        "factors",
        None,
        f"hyperparameters that are varied, of {', '.join(FACTORS)} (default: all)",
        flag_values=values,
    )


FLAGS = asked.describe("sensitivity", own=("factors",), define=_define)


def main(values):
    common = asked.read(FLAGS, values, attacks=attacks.NAMES, single=("k", "attacks"))
    given = common.given["factors"]
    factors = FACTORS if given is None else given
    factors = flags.parse_names("factors", factors, known=FACTORS)
    common = common._replace(config={**common.config, "factors": list(factors)})
    runs.run(
        FLAGS.experiment,
        common,
        functools.partial(_measure_dataset, factors),
        report.write_report,
        title=report.TITLE,
        questions=report.QUESTIONS,
        figures={
            "sensitivity": "P@k under attack against one hyperparameter at a time, the "
            "vanilla model as a dashed line."
        },
    )


def _measure_dataset(factors, problem, k, common, store):
    tolerance = presets.TOLERANCES.index(presets.MAIN_TOLERANCE)
    tried = [
        setting
        for method in common.methods
        for setting in settings(problem, method, k, common.preset, factors)
    ]
    evaluators: dict[Any, Evaluator] = {}
    for setting in track(
        tried, description=f"{problem.name} sensitivity", show=common.progress
    ):
        cells = [_cell(problem, setting, seed, common) for seed in common.seeds]
        if all(store.has(**cell) for cell in cells):
            continue
        fitted = Fitter(
            problem,
            seeds=common.seeds,
            protocol=setting.protocol,
            k=setting.k,
            models_dir=common.models_dir,
            progress=False,
        ).fit(setting.method)
        for s, cell in enumerate(cells):
            if store.has(**cell):
                continue
            model, params = fitted.at(s, tolerance)
            at = model, setting.k
            if at not in evaluators:
                evaluators[at] = Evaluator(
                    problem,
                    model,
                    k=setting.k,
                    num_test=setting.protocol.num_test,
                    strongest_budget=setting.protocol.strongest_budget,
                )
            clean, attacked = measure(evaluators[at], params, common)
            calm = {**cell, "attack": "none", "epsilon": 0.0}
            choice = trained.choice_records(calm, fitted.choices[s][tolerance])
            clean = [{**calm, **record} for record in clean]
            store.append([*clean, *choice, *({**cell, **r} for r in attacked)])


def _cell(problem, setting, seed, common) -> dict[str, Any]:
    fields = setup.model_fields(
        FLAGS.experiment,
        problem,
        problem.model(setting.method),
        method=setting.method,
        seed=seed,
        k=setting.k,
        tolerance=presets.MAIN_TOLERANCE,
        schedule=setting.protocol.schedule,
    )
    at = {"attack": common.attacks[0], "epsilon": max(common.epsilon)}
    return {**fields, **at, **setting.fields}
