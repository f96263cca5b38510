"""Thickness of the top-k set: methods × data sets × seeds, its bounds, its stability.

Trains methods (or finds their models), estimates the top-k thickness of test inputs
under three distributions, attacks the same inputs with another attack than the one
that finds the adversarial samples, and bounds the thickness of networks with one hidden
layer. Models are also learnt from samples of several sizes, to compare the thickness of
the inputs that they have seen with that of others.

    python -m experiments.thickness --datasets=adult,bank,compas
    python -m experiments.thickness --datasets=mnist
"""

from __future__ import annotations

from typing import Any

import jax

from experiments.console import flags
from experiments.loop import parts, runs
from experiments.measures import evaluation, thickness
from experiments.measures.numbers import summary
from experiments.problems import presets
from experiments.thickness import report as thickness_report
from experiments.thickness import stability
from r2et_jax import attacks, metrics, objectives

_METHODS = "vanilla,wd,sp,r2et_nh,r2et,rat"


def _define(values):
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "thickness",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,wd,r2et_nh,r2et",
            "standard": _METHODS,
            "paper": _METHODS,
        },
        "attacks": thickness.ATTACK,
        "k": str(presets.TABULAR_K),
        "epsilon": {"smoke": ".5,1", "standard": ".1,.25,.5,1", "paper": ".1,.25,.5,1"},
        "seeds": runs.SEEDS,
    },
    own=parts.OF_PAIRS,
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=objectives.NAMES,
        attacks=[name for name in attacks.SINGLE if name != thickness.ADVERSARY],
    )
    runs.check_single(common, ("k", "attacks"))
    chosen = [parts.choose_largest(found, common) for found in parts.problems(common)]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        thickness_report.write_report,
        experiment=FLAGS.experiment,
        title="Thickness of the top-k set",
        questions=thickness_report.questions(common.attacks[0]),
        figures=thickness_report.FIGURES,
    )


def _measure_dataset(found, k, common, store):
    _measure_models(found, k, common, store)
    stability.measure(FLAGS.experiment, found, k, common, store)


def _measure_models(found, k, common, store):
    effort = thickness.effort(found, common.preset)
    (attack,) = common.attacks
    cells = [("none", None), *((attack, epsilon) for epsilon in common.epsilon)]
    for one in parts.models(
        FLAGS.experiment, found, k, common, description="thickness"
    ):
        for name, epsilon in cells:
            cell = {**one.fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                measurements = measure(
                    found,
                    one,
                    k=k,
                    attack=name,
                    epsilon=epsilon,
                    effort=effort,
                    largest=epsilon == max(common.epsilon),
                )
                store.append([{**cell, **record} for record in measurements])


def measure(
    found,
    one: parts.Trained,
    *,
    k: int,
    attack: str,
    epsilon: float | None,
    effort: thickness.Effort,
    largest: bool = True,
) -> list[dict[str, Any]]:
    """The records of one model at one budget, or under Gaussian noise.

    Args:
      found: the data.
      one: the model and its parameters.
      k: size of the top set.
      attack: which judges robustness; of no account without a budget.
      epsilon: the budget, None for Gaussian noise.
      effort: inputs, and how finely thickness is estimated.
      largest: whether that is the largest budget; at others of the model itself only
        the attack is measured, beside the bounds.
    """
    model, params = one.model, one.params
    sample = thickness.first_inputs(found, model, params, effort.num_inputs)
    estimate = _estimator(found, model, params, sample, k, epsilon, effort)
    if epsilon is None:
        return estimate("gaussian")
    run = evaluation.compiled_attack(model, attack, k, found.view, budget=0)
    ball, key = found.budget(epsilon), jax.random.key(0)
    result = run(params, sample.x, ball, key=key, context=sample.context)
    units = metrics.distinct_inputs(sample.x)
    cells = [summary("p@k", result.best.precision, units)]
    if largest:
        cells += [*estimate("uniform"), *estimate("adversarial")]
    if not found.view.tabular:
        return cells
    bounds = thickness.bounds(
        found,
        model,
        params,
        sample.x,
        result.details.last,
        k=k,
        epsilon=epsilon,
        effort=effort,
    )
    for name, values in bounds._asdict().items():
        cells.append(summary(thickness.BOUND + name, values, units))
    return cells


def _estimator(found, model, params, sample, k, epsilon, effort):
    """`estimate(distribution) -> records`."""
    units = metrics.distinct_inputs(sample.x)

    def estimate(distribution):
        thick = thickness.estimate(
            found,
            model,
            params,
            sample,
            distribution,
            k=k,
            epsilon=epsilon,
            effort=effort,
        )
        cells = (
            summary("thickness", thick.mean, units),
            summary("thickness_min", thick.least, units),
        )
        return [{**record, "distribution": distribution} for record in cells]

    return estimate
