"""Thickness, bounds and P@k of one model at one budget."""

from __future__ import annotations

from typing import Any

import jax

from experiments.loop import parts
from experiments.measures import evaluation, thickness
from experiments.store.numbers import summary
from experiments.thickness import stability
from r2et_jax.metrics.summary import distinct_inputs


def measure(
    problem,
    chosen: parts.Trained,
    *,
    k: int,
    attack: str,
    epsilon: float | None,
    sampling: thickness.Sampling,
    largest: bool = True,
) -> list[dict[str, Any]]:
    """The records of one model at one budget, or under Gaussian noise.

    Args:
      problem: the data.
      chosen: the model and its parameters.
      k: size of the top set.
      attack: which judges robustness; of no account without a budget.
      epsilon: the budget, None for Gaussian noise.
      sampling: inputs, and how finely thickness is estimated.
      largest: whether that is the largest budget; at others of the model itself only
        the attack is measured, beside the bounds.
    """
    model, params = chosen.model, chosen.params
    sample = thickness.first_inputs(problem, model, params, sampling.num_inputs)
    estimate = _estimator(problem, model, params, sample, k, epsilon, sampling)
    if epsilon is None:
        return estimate("gaussian")
    run = evaluation.compiled_attack(model, attack, k, problem.view, evaluations=0)
    ball, key = problem.threat_model(epsilon), jax.random.key(0)
    result = run(params, sample.x, ball, key=key, context=sample.context)
    units = distinct_inputs(sample.x)
    cells = [summary("p@k", result.best.precision, units)]
    if largest:
        cells += [*estimate("uniform"), *estimate("adversarial")]
    if not problem.view.tabular:
        return cells
    bounds = thickness.bounds(
        problem,
        model,
        params,
        sample.x,
        result.details.last,
        k=k,
        epsilon=epsilon,
        sampling=sampling,
    )
    for name, values in bounds._asdict().items():
        cells.append(summary(thickness.BOUND + name, values, units))
    return cells


def _estimator(problem, model, params, sample, k, epsilon, sampling):
    """`estimate(distribution) -> records`."""
    units = distinct_inputs(sample.x)

    def estimate(distribution):
        thick = thickness.estimate(
            problem,
            model,
            params,
            sample,
            distribution,
            k=k,
            epsilon=epsilon,
            sampling=sampling,
        )
        cells = (
            summary("thickness", thick.mean, units),
            summary("thickness_min", thick.least, units),
        )
        return [{**record, "distribution": distribution} for record in cells]

    return estimate


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    _measure_models(problem, k, options, store)
    stability.measure(problem, k, options, store)


def _measure_models(problem, k, options, store):
    sampling = thickness.sampling(problem, options.preset)
    (attack,) = options.attacks
    cells = [("none", None), *((attack, epsilon) for epsilon in options.epsilon)]
    for chosen in parts.models(problem, k, options, description="thickness"):
        for name, epsilon in cells:
            cell = {**chosen.fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                measurements = measure(
                    problem,
                    chosen,
                    k=k,
                    attack=name,
                    epsilon=epsilon,
                    sampling=sampling,
                    largest=epsilon == max(options.epsilon),
                )
                store.append([{**cell, **record} for record in measurements])
