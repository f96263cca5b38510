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

from experiments.loop import asked, parts, runs
from experiments.measures import thickness
from experiments.thickness import report, stability
from experiments.thickness.measure import measure
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("thickness")


def main(values):
    common = asked.read(
        FLAGS,
        values,
        attacks=[name for name in SINGLE if name != thickness.ADVERSARY],
        single=("k", "attacks"),
    )
    runs.run(
        FLAGS.experiment,
        common,
        _measure_dataset,
        report.write_report,
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
