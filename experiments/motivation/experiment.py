"""Whether the l_p distance of explanations tells how their top-k features changed.

Perturbs each test input in several ways within one budget: random directions, and what
attacks found. Of two perturbations of one input, distance misleads about the ranking
where the one that moves the saliency less keeps fewer of the top-k features: a
discordant pair.

    python -m experiments.motivation --datasets=adult,bank,compas
    python -m experiments.motivation --datasets=mnist
"""

from __future__ import annotations

from experiments.loop import asked, parts, runs
from experiments.motivation.measure import example, measure, perturb, points
from experiments.motivation.report import FIGURES, QUESTIONS, write_report
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("motivation")


def main(values):
    common = asked.read(FLAGS, values, attacks=SINGLE, single=("k", "epsilon"))
    runs.run(
        FLAGS.experiment,
        common,
        _measure_dataset,
        write_report,
        title="Distance of explanations against overlap of their top features",
        questions=QUESTIONS,
        figures=FIGURES,
    )


def _measure_dataset(problem, k, common, store):
    (epsilon,) = common.epsilon
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="perturb"
    ):
        cell = {**one.fields, "attack": "+".join(common.attacks), "epsilon": epsilon}
        if not store.has(**cell):
            moved = perturb(problem, one.model, one.params, k=k, common=common)
            units = problem.inputs("test", len(moved.clean)).units
            measurements = measure(moved, units)
            # One run of each method is drawn.
            if one.fields["seed"] == common.seeds[0] and problem.fold == 0:
                names = problem.dataset.columns
                if len(names) != problem.num_features:  # channels of pixels
                    names = [f"pixel {i}" for i in range(problem.num_features)]
                measurements += [*points(moved), *example(moved, names, k=k)]
            store.append([{**cell, **record} for record in measurements])
