"""Whether the order of methods is that of the explanation that they were trained for.

Trains methods (or finds their models), explains them by the gradient, by SmoothGrad and
by Integrated Gradients, attacks each explanation through itself, and compares the
orders of the methods by P@k. Graphs are explained by gradient × input, which SmoothGrad
averages there. SmoothGrad's draws are fixed: they are the same for an input before and
after the attack, which knows them.

    python -m experiments.explainers --datasets=adult,bank,compas
"""

from __future__ import annotations

from experiments.explainers.measure import measure_dataset
from experiments.explainers.report import FIGURES, QUESTIONS, write_report
from experiments.loop import asked, runs
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("explainers")


def main(values):
    options = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=SINGLE,
        single=("attacks", "k", "epsilon"),
    )
    runs.run(
        options,
        measure_dataset,
        write_report,
        title="P@k under attack by explainer",
        questions=QUESTIONS,
        figures=FIGURES,
    )
