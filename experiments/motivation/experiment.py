"""Whether the l_p distance of explanations tells how their top-k features changed.

Perturbs each test input in several ways within one budget: random directions, and what
attacks found. Of two perturbations of one input, distance misleads about the ranking
where the one that moves the saliency less keeps fewer of the top-k features: a
discordant pair.

    python -m experiments.motivation --datasets=adult,bank,compas
    python -m experiments.motivation --datasets=mnist
"""

from __future__ import annotations

from experiments.loop import asked, runs
from experiments.motivation.measure import (
    measure_dataset,
)
from experiments.motivation.report import FIGURES, QUESTIONS, write_report
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("motivation")


def main(values):
    options = asked.read(FLAGS, values, attacks=SINGLE, single=("k", "epsilon"))
    runs.run(
        options,
        measure_dataset,
        write_report,
        title="Distance of explanations against overlap of their top features",
        questions=QUESTIONS,
        figures=FIGURES,
    )
