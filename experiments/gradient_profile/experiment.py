"""How the saliency of an input spreads over its features: sorted gradient magnitudes.

Trains methods (or finds their models), sorts the saliency of each test input, and
records the mean profile and how uneven it is. The papers build on a long tail: few
features carry most. Magnitudes that carry no information fall off as well once they
are sorted, so that those of independent normal numbers stand beside.

    python -m experiments.gradient_profile --datasets=adult,bank,compas
"""

from __future__ import annotations

import numpy as np

from experiments.gradient_profile.measure import explain, measure, normal_maps
from experiments.gradient_profile.report import FIGURES, QUESTIONS, write_report
from experiments.loop import asked, parts, runs

_OWN = ("k", "seeds")


FLAGS = asked.describe("gradient_profile")


def main(values):
    common = asked.read(FLAGS, values, attacks=("none",))
    if common.epsilon:
        raise ValueError("--epsilon has no use here: inputs are not attacked")
    asked.check_single(common, ("k",))
    runs.run(
        FLAGS.experiment,
        common,
        _measure_dataset,
        write_report,
        title="Sorted gradient magnitudes",
        questions=QUESTIONS,
        figures=FIGURES,
        own=_OWN,
    )


def _measure_dataset(problem, k, common, store):
    num_test = problem.protocol(common.preset).num_test
    inputs = problem.inputs("test", num_test)
    x, partner, _ = inputs
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="profile"
    ):
        cell = {**one.fields, "attack": "none", "epsilon": None}
        if not store.has(**cell):
            context = problem.view.context(one.model, one.params, partner)
            maps = explain(one.model, problem.view)(one.params, x, context)
            # Graphs are explained by a product with the input, which has a tail itself.
            factors = np.asarray(x)
            if problem.view.kind != "graph":
                factors = np.ones_like(factors)
            reference = normal_maps(factors, maps.shape[1])
            units = inputs.units
            measurements = measure(np.asarray(maps), reference, k=k, units=units)
            store.append([{**cell, **record} for record in measurements])
