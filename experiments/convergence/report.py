"""Rates, gaps and steps of the descent: table, figures and verdicts from records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.convergence.measure import RADIUS
from experiments.measures import convergence
from experiments.problems import presets
from experiments.report import judging, statistics, tables
from experiments.report.exhibit import Verdict, together
from experiments.report.judging import Question
from experiments.report.statistics import association
from experiments.store import output, records
from experiments.store.records import number
from r2et_jax import plots

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
    f"Θ: mean thickness, uniform in the l2 ball of radius {RADIUS:g}. "
    "gap: smallest initial gap. steps: until the first top-k feature left, each of "
    f"length {convergence.MAX_LENGTH:g} at most, over the inputs where one did; "
    "censored: share of the others.",
    "r, ρ: Pearson's and Spearman's correlation of gap and steps without the censored "
    "inputs; ρ all: Spearman's with them, as one step beyond the last.",
)


def write_report(folder: Path, store: records.RecordStore, options) -> list[Path]:
    """Write table and figures from the records alone; returns their paths."""
    written = []
    for k in options.k:
        suffix = f"_k{k}" if len(options.k) > 1 else ""
        chosen = {"dataset": options.datasets, "method": options.methods, "k": k}
        table = tables.pivot(store.select(**chosen), columns=_columns())
        tables.write_table(folder, table, notes=_NOTES, name=f"table{suffix}")
        written += [folder / f"table{suffix}.{ending}" for ending in ("md", "csv")]
        for dataset in options.datasets:
            here = {**chosen, "dataset": dataset}
            for name, draw in (
                ("direction_norm", _direction_figure),
                ("steps_by_gap", _steps_figure),
            ):
                path = folder / f"{name}_{dataset}{suffix}.png"
                output.save_figure(path, draw(store, options, here))
                written.append(path)
    exhibited = judging.write_exhibit(
        folder,
        store,
        [options],
        written,
        title="How multi-objective descent converges",
        questions=QUESTIONS,
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


def _direction_figure(store, options, here):
    """Median over inputs, geometric mean over seeds, with a guide line."""
    series, top, longest = {}, 0.0, 1
    for method in options.methods:
        recorded = store.select(**{**here, "method": method}, metric="direction_norm")
        points = sorted({record["iteration"] for record in recorded})
        means = []
        for point in points:
            values = [number(r["value"]) for r in recorded if r["iteration"] == point]
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


def _steps_figure(store, options, here):
    points, censored = {}, 0
    for method in options.methods:
        recorded = store.select(**{**here, "method": method}, metric="steps")
        gaps = np.array([number(record["initial_gap"]) for record in recorded])
        steps = np.array([number(record["value"]) for record in recorded])
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


def _of(store, dataset, options, method):
    """Metric -> the records of one method."""
    recorded = store.select(dataset=dataset, method=method, k=options.k[0])
    whole = [r for r in recorded if "iteration" not in r and "input" not in r]
    return {
        name: records.select(whole, metric=name)
        for name in dict.fromkeys(r["metric"] for r in whole)
    }


def _judge_rate(store, dataset, options):
    verdicts, texts = [], []
    for method in options.methods:
        of = _of(store, dataset, options, method)
        wrong = sum(
            records.number(r["value"])
            for metric in ("rises", "bound_violations")
            for r in of[metric]
        )
        exponent = statistics.of_records(of["rate_exponent"])
        falls = statistics.above(exponent._replace(mean=-exponent.mean), 0.5)
        verdicts.append(False if wrong else falls)
        texts.append(f"{method} {statistics.shown(exponent)} ({wrong:.0f} violations)")
    return Verdict(together(verdicts), ", ".join(texts))


def _judge_gaps(store, dataset, options):
    verdicts, texts = [], []
    for method in options.methods:
        of = _of(store, dataset, options, method)
        related = statistics.of_records(of["gap_steps_spearman_all"])
        censored = statistics.of_records(of["censored"])
        verdicts.append(statistics.above(related, 0))
        texts.append(
            f"{method} {statistics.shown(related)} ({censored.mean:.0%} kept their top "
            "k)"
        )
    return Verdict(together(verdicts), ", ".join(texts))


def _judge_models(store, dataset, options):
    """Spearman's correlation of thickness and mean steps over the methods of a run."""
    steps, thick = {}, {}
    for method in options.methods:
        recorded = store.select(dataset=dataset, method=method, k=options.k[0])
        last = max(
            (r["iteration"] for r in records.select(recorded, metric="p@k_trace")),
            default=0,
        )
        for r in records.select(recorded, metric="steps"):
            value = last + 1 if r["value"] is None else r["value"]
            steps.setdefault((method, r["seed"], r["fold"]), []).append(value)
        for r in records.select(recorded, metric="thickness"):
            thick[method, r["seed"], r["fold"]] = records.number(r["value"])
    points = {
        model: (width, float(np.mean(steps[model]))) for model, width in thick.items()
    }
    methods = dict.fromkeys(method for method, *_ in points)
    if len(methods) < 3:  # two have an order by chance
        return None
    related = association(points)["by_run"]
    shown = []
    for method in methods:
        pairs = [pair for model, pair in points.items() if model[0] == method]
        width, taken = np.mean(pairs, axis=0)
        shown.append(f"{method} Θ {width:.3f}, {taken:.1f} steps")
    text = f"{statistics.shown(related, '+.2f')} ({', '.join(shown)})"
    return Verdict(statistics.above(related, 0), text)


QUESTIONS = (
    Question(
        "Multi-objective descent converges at least as fast as 1/√T.",
        "exponent of the smallest direction's norm in T, median over inputs, below "
        "−.5; no step in which an objective rose, no direction above Armijo's bound",
        _judge_rate,
        "The rate is that of the limit; the steps here are few, and an input whose "
        "directions are small from the start has little left to fall.",
        figure="direction_norm",
    ),
    Question(
        "Inputs with a larger gap take more steps until a top-k feature leaves.",
        "Spearman's correlation of the smallest gap and the steps, above 0",
        _judge_gaps,
        "Where few inputs lose a feature, or the gaps grow along the way, the first "
        "gap says little.",
        figure="steps_by_gap",
    ),
    Question(
        "Models with a thicker ranking take longer until a top-k feature leaves.",
        "Spearman's correlation over the methods of a run of thickness and mean steps, "
        "above 0; inputs that keep their top k count as one step beyond the last",
        _judge_models,
        "Steps have a fixed length at most: a model with larger gradients may have "
        "larger gaps that fall faster as well.",
    ),
)
