"""Whether the l_p distance of explanations tells how their top-k features changed.

Perturbs each test input in several ways within one budget: random directions, and what
attacks found. Of two perturbations of one input, distance misleads about the ranking
where the one that moves the saliency less keeps fewer of the top-k features: a
discordant pair.

    python -m experiments.motivation --datasets=adult,bank,compas
    python -m experiments.motivation --datasets=mnist
"""

from __future__ import annotations

from experiments.console import flags
from experiments.loop import parts, runs
from experiments.motivation.measure import RANDOM, example, measure, perturb, points
from experiments.motivation.report import FIGURES, QUESTIONS, write_report
from experiments.problems import presets
from r2et_jax import attacks, objectives


def _define(values):
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "motivation",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,r2et",
            "standard": "vanilla,wd,sp,r2et_nh,r2et",
            "paper": "vanilla,wd,sp,r2et_nh,r2et",
        },
        "attacks": f"{RANDOM},er_surrogate,mse",
        "k": str(presets.TABULAR_K),
        "epsilon": "1",
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
        attacks=attacks.SINGLE,
    )
    runs.check_single(common, ("k", "epsilon"))
    chosen = [
        parts.choose_largest(problem, common) for problem in parts.problems(common)
    ]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        write_report,
        experiment=FLAGS.experiment,
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
