"""Measures the statements of this project that no exhibit judges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.console.flags import Options
from experiments.loop import setup
from experiments.measures.evaluation import strongest
from experiments.problems import presets, registry
from r2et_jax import datasets


class Finding(NamedTuple):
    """What one measurement showed: of what, in words, in numbers, and whether."""

    subject: str
    text: str
    numbers: dict[str, float]
    holds: bool


def saturation(options: Options) -> Iterator[Finding]:
    """How far twice the evaluations of `strongest` lower P@k, model by model."""
    for name in options.datasets:
        problem = registry.problem(datasets.load(name, data_dir=options.data_dir))
        k = problem.k or options.k[0]
        fitter = setup.fitter(problem, k, options)
        usual = fitter.protocol.strongest_evaluations
        # No more than the tables attack: a graph takes two hundred times a row's time.
        most = min(presets.SATURATION_INPUTS, fitter.protocol.num_test)
        x, partner, _ = problem.inputs("test", most)
        # The largest budget of the data, at which the tables of robustness are read.
        budgets = (
            problem.epsilon[options.preset] if problem.epsilon else options.epsilon
        )
        threat_model = problem.threat_model(max(budgets))
        for method in presets.SATURATION_METHODS:
            model, params = fitter.fit(method).at(0, 0)
            context = problem.view.context(model, params, partner)
            means = []
            for evaluations in (usual, 2 * usual):
                run = strongest(model, k, evaluations, problem.view)
                result = run(
                    params, x, threat_model, key=jax.random.key(0), context=context
                )
                means.append(float(np.nanmean(result.best.precision)))
            drop = means[0] - means[1]
            yield Finding(
                f"{name}, {method}",
                f"P@{k} of {len(x)} inputs {means[0]:.4f} at {usual} "
                f"evaluations; twice as many lower it by {drop:.4f}",
                {"strongest": means[0], "drop": drop, "evaluations": usual},
                bool(drop < 0.01),
            )
