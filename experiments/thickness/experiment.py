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

from experiments.console import flags
from experiments.loop import parts, runs
from experiments.measures import thickness
from experiments.problems import presets
from experiments.thickness import report, stability
from experiments.thickness.measure import measure
from r2et_jax import attacks, objectives

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
    chosen = [
        parts.choose_largest(problem, common) for problem in parts.problems(common)
    ]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        report.write_report,
        experiment=FLAGS.experiment,
        title="Thickness of the top-k set",
        questions=report.questions(common.attacks[0]),
        figures=report.FIGURES,
    )


def _measure_dataset(problem, k, common, store):
    _measure_models(problem, k, common, store)
    stability.measure(FLAGS.experiment, problem, k, common, store)


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
