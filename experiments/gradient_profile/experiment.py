"""How the saliency of an input spreads over its features: sorted gradient magnitudes.

Trains methods (or finds their models), sorts the saliency of each test input, and
records the mean profile and how uneven it is. The papers build on a long tail: few
features carry most. Magnitudes that carry no information fall off as well once they
are sorted, so that those of independent normal numbers stand beside.

    python -m experiments.gradient_profile --datasets=adult,bank,compas
"""

from __future__ import annotations

from experiments.gradient_profile.measure import (
    measure_dataset,
)
from experiments.gradient_profile.report import FIGURES, QUESTIONS, write_report
from experiments.loop import asked, runs

_OWN = ("k", "seeds")


FLAGS = asked.describe("gradient_profile")


def main(values):
    options = asked.read(FLAGS, values, attacks=("none",))
    if options.epsilon:
        raise ValueError("--epsilon has no use here: inputs are not attacked")
    asked.check_single(options, ("k",))
    runs.run(
        options,
        measure_dataset,
        write_report,
        title="Sorted gradient magnitudes",
        questions=QUESTIONS,
        figures=FIGURES,
        varying=_OWN,
    )
