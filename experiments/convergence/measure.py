"""How the descent of one model goes, input by input, and how thick its ranking is."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.loop import parts
from experiments.measures import convergence, thickness
from experiments.store.numbers import measured, summary

_TRACE_POINTS = 25
RADIUS = 1.0  # of the ball in which thickness is measured


def mean_thickness(problem, chosen, k: int, preset: str) -> dict[str, Any]:
    """The record of the model's mean thickness in the ball of radius RADIUS."""
    sampling = thickness.sampling(problem, preset)
    sample = thickness.first_inputs(
        problem, chosen.model, chosen.params, sampling.num_inputs
    )
    thick = thickness.estimate(
        problem,
        chosen.model,
        chosen.params,
        sample,
        "uniform",
        k=k,
        epsilon=RADIUS,
        sampling=sampling,
    )
    return summary("thickness", thick.mean)


def measure(
    model: Any, params: Any, x: np.ndarray, *, k: int, lengths: convergence.Lengths
) -> list[dict[str, Any]]:
    """The records of one model: metric, value, stderr, n, and `iteration` or `input`.

    Args:
      model: the Flax module.
      params: its parameters.
      x: inputs [m, n].
      k: size of the top set.
      lengths: how many steps.
    """
    result = convergence.descent(model, k, lengths.rate_steps)(params, x)
    counted = convergence.descent(
        model, k, lengths.flip_steps, max_length=convergence.MAX_LENGTH
    )(params, x)
    records = convergence.rate(result)
    rises = records.num_rises + convergence.rate(counted).num_rises
    gaps, steps = convergence.initial_gaps(counted), counted.manipulation_epoch
    related = convergence.dependence(gaps, steps, num_steps=lengths.flip_steps)
    m = len(x)
    moved = records.exponent[np.isfinite(records.exponent)]
    cells = [
        measured("rate_exponent", _median(moved), None, moved.size),
        summary("rate_reached", records.exponent <= -0.5),
        measured("bound_violations", records.num_violations, None, m),
        measured("rises", rises, None, m),
        measured("uncertified", result.num_uncertified.sum(), None, m),
        summary("critical", result.converged),
        summary("stalled", result.stalled),
        summary("class_changed", counted.class_changed),
        summary("initial_gap", gaps),
        summary("steps_to_flip", np.where(steps > 0, steps, np.nan)),
        summary("censored", steps == 0),
        measured("gap_steps_pearson", related.pearson, None, related.n),
        measured("gap_steps_spearman", related.spearman, None, related.n),
        measured("gap_steps_pearson_log", related.pearson_log, None, related.n),
        measured("gap_steps_spearman_all", related.spearman_all, None, m),
    ]
    for t in _points(lengths.rate_steps):
        at = {"iteration": t}
        lowest, bound = records.lowest[:, t - 1], records.bound[:, t - 1]
        gap = result.trace.duality_gap[:, t - 1]
        cells += [
            {**measured("direction_norm", np.median(lowest), None, m), **at},
            {**measured("direction_norm_largest", lowest.max(), None, m), **at},
            {**measured("direction_norm_bound", np.median(bound), None, m), **at},
            {**measured("duality_gap", np.median(gap), None, m), **at},
        ]
    lowest_precision = np.fmin.accumulate(counted.trace.precision, axis=1)
    for t in _points(lengths.flip_steps):
        trace = summary("p@k_trace", lowest_precision[:, t - 1])
        cells.append({**trace, "iteration": t})
    for i in range(m):
        cell = measured("steps", steps[i] or np.nan, None, 1)
        if not steps[i]:
            cell["note"] = "censored"
        cells.append({**cell, "input": i, "initial_gap": float(gaps[i])})
    return cells


def _median(values):
    return np.median(values) if values.size else np.nan


def _points(num_steps):
    """Iterations from 1 to num_steps, evenly spaced on a logarithmic axis."""
    points = np.geomspace(1, num_steps, _TRACE_POINTS)
    return sorted({int(round(point)) for point in points})


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    lengths = convergence.LENGTHS[options.preset]
    x = problem.inputs("test", lengths.num_inputs).x
    for chosen in parts.models(problem, k, options, description="descent"):
        cell = {**chosen.fields, "attack": convergence.ATTACK, "epsilon": None}
        if not store.has(**cell):
            measurements = measure(chosen.model, chosen.params, x, k=k, lengths=lengths)
            store.append([{**cell, **record} for record in measurements])
        thick = {**chosen.fields, "attack": "none", "epsilon": RADIUS}
        if not store.has(**thick):
            store.append(
                {**thick, **mean_thickness(problem, chosen, k, options.preset)}
            )
