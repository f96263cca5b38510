"""Convergence of multi-objective descent on all gaps of a ranking.

Trains methods (or finds their models), descends the gaps of test inputs, and records
how fast the directions fall (theory: 1/√T) and whether inputs with a larger initial gap
and models with a thicker ranking take more steps until a top-k feature leaves.

    python -m experiments.convergence --datasets=adult,bank,compas
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.console import flags
from experiments.convergence import claims as claims_convergence
from experiments.loop import parts, runs, setup
from experiments.measures import convergence, thickness
from experiments.measures.numbers import measured, summary
from experiments.problems import presets
from experiments.problems.registry import problem
from experiments.report import tables
from experiments.store import output, records
from experiments.store.records import number
from r2et_jax import datasets, objectives, plots

FLAGS = flags.describe(
    "convergence",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": {
            "smoke": "vanilla,r2et_nh",
            "standard": "vanilla,r2et_nh,r2et,wd",
            "paper": "vanilla,r2et_nh,r2et,wd",
        },
        "attacks": convergence.ATTACK,
        "k": str(presets.TABULAR_K),
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
)
_TRACE_POINTS = 25
_RADIUS = 1.0  # of the ball in which thickness is measured
_GUIDE = "1/√t"
_NOTES = (
    "Descent on all gaps I_i − I_j at once, unbounded region, float64; networks with "
    f"kinks through their smooth surrogate (ρ = {presets.SURROGATE_RHO:g}), |g| as "
    f"√(g² + μ²) − μ with μ = {convergence.MU:g}.",
    "exponent: log(min‖d_T‖/‖d_1‖)/log T after the last step T, median over inputs; "
    "1/√T is −.5. reached: share of inputs at −.5 or less.",
    "critical: share of inputs that came to a Pareto-critical point. stalled: share "
    "without an admissible step before that.",
    "rises, above: accepted steps in which an objective did not fall, and directions "
    "above the bound of Armijo's rule; the theory asks for 0.",
    f"Θ: mean thickness, uniform in the l2 ball of radius {_RADIUS:g}. "
    "gap: smallest initial gap. steps: until the first top-k feature left, each of "
    f"length {convergence.MAX_LENGTH:g} at most, over the inputs where one did; "
    "censored: share of the others.",
    "r, ρ: Pearson's and Spearman's correlation of gap and steps without the censored "
    "inputs; ρ all: Spearman's with them, as one step beyond the last.",
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=datasets.names(),
        methods=objectives.NAMES,
        attacks=(convergence.ATTACK,),
    )
    if common.epsilon:
        raise ValueError("--epsilon has no use here: the region is unbounded")
    chosen = [parts.choose(problem(data), common) for data in setup.load(common)]
    folder, store = setup.open_folder(
        common, (part.found for part in chosen), experiment=FLAGS.experiment
    )
    for found, own, k in parts.in_turn(chosen):
        _measure_dataset(found, k, own, store)
    for path in write_report(folder, store, common):
        print(path)


def _measure_dataset(found, k, common, store):
    effort = convergence.EFFORTS[common.preset]
    x = found.inputs("test", effort.num_inputs).x
    for one in parts.models(FLAGS.experiment, found, k, common, description="descent"):
        cell = {**one.fields, "attack": convergence.ATTACK, "epsilon": None}
        if not store.has(**cell):
            measurements = measure(one.model, one.params, x, k=k, effort=effort)
            store.append([{**cell, **record} for record in measurements])
        thick = {**one.fields, "attack": "none", "epsilon": _RADIUS}
        if not store.has(**thick):
            store.append({**thick, **_thickness(found, one, k, common.preset)})


def _thickness(found, one, k: int, preset: str) -> dict[str, Any]:
    """The record of the model's mean thickness in the ball of radius _RADIUS."""
    effort = thickness.effort(found, preset)
    sample = thickness.first_inputs(found, one.model, one.params, effort.num_inputs)
    found_thick = thickness.estimate(
        found,
        one.model,
        one.params,
        sample,
        "uniform",
        k=k,
        epsilon=_RADIUS,
        effort=effort,
    )
    return summary("thickness", found_thick.mean)


def measure(
    model: Any, params: Any, x: np.ndarray, *, k: int, effort: convergence.Effort
) -> list[dict[str, Any]]:
    """The records of one model: metric, value, stderr, n, and `iteration` or `input`.

    Args:
      model: the Flax module.
      params: its parameters.
      x: inputs [m, n].
      k: size of the top set.
      effort: how many steps.
    """
    result = convergence.descent(model, k, effort.rate_steps)(params, x)
    counted = convergence.descent(
        model, k, effort.flip_steps, max_length=convergence.MAX_LENGTH
    )(params, x)
    found = convergence.rate(result)
    rises = found.num_rises + convergence.rate(counted).num_rises
    gaps, steps = convergence.initial_gaps(counted), counted.manipulation_epoch
    related = convergence.dependence(gaps, steps, num_steps=effort.flip_steps)
    m = len(x)
    moved = found.exponent[np.isfinite(found.exponent)]
    cells = [
        measured("rate_exponent", _median(moved), None, moved.size),
        summary("rate_reached", found.exponent <= -0.5),
        measured("bound_violations", found.num_violations, None, m),
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
    for t in _points(effort.rate_steps):
        at = {"iteration": t}
        lowest, bound = found.lowest[:, t - 1], found.bound[:, t - 1]
        gap = result.trace.duality_gap[:, t - 1]
        cells += [
            {**measured("direction_norm", np.median(lowest), None, m), **at},
            {**measured("direction_norm_largest", lowest.max(), None, m), **at},
            {**measured("direction_norm_bound", np.median(bound), None, m), **at},
            {**measured("duality_gap", np.median(gap), None, m), **at},
        ]
    lowest_precision = np.fmin.accumulate(counted.trace.precision, axis=1)
    for t in _points(effort.flip_steps):
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


def write_report(folder: Path, store: records.RecordStore, common) -> list[Path]:
    """Write table and figures from the records alone; returns their paths."""
    written = []
    for k in common.k:
        suffix = f"_k{k}" if len(common.k) > 1 else ""
        chosen = {"dataset": common.datasets, "method": common.methods, "k": k}
        table = tables.pivot(store.select(**chosen), columns=_columns())
        tables.write_table(folder, table, notes=_NOTES, name=f"table{suffix}")
        written += [folder / f"table{suffix}.{kind}" for kind in ("md", "csv")]
        for dataset in common.datasets:
            here = {**chosen, "dataset": dataset}
            for name, draw in (
                ("direction_norm", _direction_figure),
                ("steps_by_gap", _steps_figure),
            ):
                path = folder / f"{name}_{dataset}{suffix}.png"
                output.save_figure(path, draw(store, common, here))
                written.append(path)
    exhibited = runs.write_exhibit(
        folder,
        store,
        [common],
        written,
        title="How multi-objective descent converges",
        questions=claims_convergence.QUESTIONS,
        figures={
            "direction_norm": "The smallest norm of a direction so far against the "
            "iteration, with the line 1/√t.",
            "steps_by_gap": "Steps until a top-k feature left against the smallest "
            "initial gap, a point for each input.",
        },
    )
    return [*written, exhibited]


def _columns():
    names = {
        "exponent": ("rate_exponent", ".2f"),
        "reached": ("rate_reached", ".2f"),
        "critical": ("critical", ".2f"),
        "stalled": ("stalled", ".2f"),
        "rises": ("rises", ".0f"),
        "above": ("bound_violations", ".0f"),
        "Θ": ("thickness", ".3f"),
        "gap": ("initial_gap", ".3g"),
        "steps": ("steps_to_flip", ".1f"),
        "censored": ("censored", ".2f"),
        "r": ("gap_steps_pearson", ".2f"),
        "ρ": ("gap_steps_spearman", ".2f"),
        "ρ all": ("gap_steps_spearman_all", ".2f"),
    }
    return [
        tables.ColumnSpec(name, {"metric": metric}, format=form)
        for name, (metric, form) in names.items()
    ]


def _direction_figure(store, common, here):
    """Median over inputs, geometric mean over seeds, with a guide line."""
    series, top, longest = {}, 0.0, 1
    for method in common.methods:
        found = store.select(**{**here, "method": method}, metric="direction_norm")
        points = sorted({record["iteration"] for record in found})
        means = []
        for point in points:
            values = [number(r["value"]) for r in found if r["iteration"] == point]
            means.append(np.exp(np.mean(np.log(np.maximum(values, 1e-300)))))
        series[method] = (points, means, None)
        top, longest = max(top, *means), max(longest, *points)
    ends = np.array([1.0, longest])
    series[_GUIDE] = (ends, top / np.sqrt(ends), None)
    return plots.curves(
        series,
        xlabel="iteration t",
        ylabel="min ‖d_s‖ over s ≤ t, median of inputs",
        title=f"{here['dataset']}: multi-objective descent",
        xscale="log",
        yscale="log",
    )


def _steps_figure(store, common, here):
    points, censored = {}, 0
    for method in common.methods:
        found = store.select(**{**here, "method": method}, metric="steps")
        gaps = np.array([number(record["initial_gap"]) for record in found])
        steps = np.array([number(record["value"]) for record in found])
        kept = np.isfinite(steps)
        censored += int((~kept).sum())
        points[method] = (gaps[kept], steps[kept])
    title = f"{here['dataset']}: steps to a flip, {censored} without one"
    return plots.scatter(
        points,
        xlabel="smallest initial gap",
        ylabel="steps until a top-k feature left",
        title=title,
        xscale="log",
        yscale="log",
    )
