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

from experiments.loop import asked, runs
from experiments.measures import thickness
from experiments.thickness import report
from experiments.thickness.measure import measure_dataset
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("thickness")


def main(values):
    options = asked.read(
        FLAGS,
        values,
        attacks=[name for name in SINGLE if name != thickness.ADVERSARY],
        single=("k", "attacks"),
    )
    runs.run(
        options,
        measure_dataset,
        report.write_report,
        title="Thickness of the top-k set",
        questions=report.questions(options.attacks[0]),
        figures=report.FIGURES,
    )
