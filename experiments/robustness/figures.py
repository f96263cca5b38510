"""The figures of the robustness experiment, from its records alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from experiments.measures.evaluation import STRONGEST
from experiments.problems import presets
from experiments.problems.methods import FAMILIES, family
from experiments.report import statistics
from experiments.robustness.results import LEADING, Results, leading_attack
from experiments.store.output import save_figure
from experiments.store.records import Record
from r2et_jax import plots

_TOLERANCE = presets.MAIN_TOLERANCE
_BEST = {"baseline": "best baseline", "R2ET": "best R2ET", "ours": "best of ours"}


def write_figures(folder: Path, results: Results, suffix: str) -> list[Path]:
    """For each data set: dots of all methods, curves of the best of each family."""
    written = []

    def save(name, dataset, figure):
        path = folder / f"p_at_k_by_{name}_{dataset}{suffix}.png"
        save_figure(path, figure)
        written.append(path)

    options = results.options
    main = leading_attack(options.attacks)
    for dataset in options.datasets:
        if not results.measured(dataset, _TOLERANCE):
            continue
        save("method", dataset, _dots(results, dataset, main))
        chosen = representatives(results, dataset)
        attack = _measured_on_a_grid(results, dataset, chosen)
        if attack is not None:
            figure = plots.curves(
                _series(results, dataset, chosen, attack, "p@k", "epsilon"),
                xlabel=f"{options.norm} budget ε",
                ylabel=f"P@{results.k}",
                title=f"{dataset}: P@{results.k} under {attack}",
            )
            save("epsilon", dataset, figure)
        for attack in options.attacks:
            if attack in (main, *LEADING):
                name = "evaluations" if attack == STRONGEST else f"iteration_{attack}"
                save(name, dataset, _progress(results, dataset, chosen, attack))
    return written


def representatives(results: Results, dataset: str) -> dict[str, str]:
    """Method -> label of vanilla and, by validation P@k, the best of each family.

    All methods if that leaves none.
    """
    labels = {}
    if "vanilla" in results.measured(dataset, _TOLERANCE):
        labels["vanilla"] = "vanilla"
    for of_family, title in _BEST.items():
        best = results.best(dataset, of_family, tolerance=_TOLERANCE)
        if best is not None:
            labels.setdefault(best, f"{best} ({title})")
    return labels or {m: m for m in results.measured(dataset, _TOLERANCE)}


def _dots(results, dataset, attack):
    """P@k of every method, sorted, with its overlap between different inputs."""
    options, k = results.options, results.k
    where = {"attack": attack, "epsilon": max(options.epsilon), "tolerance": _TOLERANCE}
    rows = []
    for method in results.measured(dataset, _TOLERANCE):
        estimate = results.estimate(dataset, method, "p@k", **where)
        same = results.mean(dataset, method, "same", tolerance=_TOLERANCE)
        rows.append((method, estimate.mean, estimate.stderr, same, family(method)))
    rows.sort(key=lambda row: math.inf if math.isnan(row[1]) else -row[1])
    methods, means, errors, same, families = zip(*rows, strict=True)
    return plots.dots(
        methods,
        means,
        errors,
        hollow=same,
        groups=families,
        kinds=FAMILIES,
        name=f"P@{k}",
        hollow_name="same",
        xlabel=f"P@{k} under {attack}, ε = {max(options.epsilon):g}",
        title=f"{dataset}: how much of the top {k} survives",
    )


def _measured_on_a_grid(results, dataset, chosen):
    """The leading attack among those that were run at several budgets, or None."""
    for attack in (*LEADING, *reversed(results.options.attacks)):
        budgets = {
            record["epsilon"]
            for method in chosen
            for record in results.get(
                dataset, method, "p@k", tolerance=_TOLERANCE, attack=attack
            )
        }
        if len(budgets) > 1:
            return attack
    return None


def _progress(results, dataset, chosen, attack):
    """P@k along the effort of an attack."""
    k, budget = results.k, max(results.options.epsilon)
    if attack == STRONGEST:
        metric, axis, start = "p@k_curve", "evaluations", None
        xlabel = "gradient evaluations for each input"
    else:
        metric, axis, start = "p@k_trace", "step_share", 1.0
        xlabel = "share of the attack's iterations"
    return plots.curves(
        _series(results, dataset, chosen, attack, metric, axis, budget, start=start),
        xlabel=xlabel,
        ylabel=f"lowest P@{k} so far",
        title=f"{dataset}: P@{k} under {attack}, ε = {budget:g}",
    )


def _series(results, dataset, chosen, attack, metric, axis, budget=None, *, start=None):
    """Label -> (x, mean over runs, standard error) along a field of the records.

    A number as `start` is the value at 0, where nothing has happened yet.
    """
    series = {}
    for method, label in chosen.items():
        by_point: dict[float, list[Record]] = {}
        for record in results.get(
            dataset, method, metric, tolerance=_TOLERANCE, attack=attack, epsilon=budget
        ):
            by_point.setdefault(record[axis], []).append(record)
        points = sorted(by_point)
        pairs = [statistics.of_records(by_point[point])[:2] for point in points]
        if start is not None:
            points, pairs = [0.0, *points], [(start, 0.0), *pairs]
        series[label] = (
            np.array(points),
            np.array([pair[0] for pair in pairs]),
            np.array([pair[1] for pair in pairs]),
        )
    return series
