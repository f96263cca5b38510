"""Orders of methods by explainer: table, figures and verdict from records alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.explainers.measure import DRAWS, GRADIENT, NAMES
from experiments.problems.methods import family
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict, together
from experiments.report.judging import Question
from experiments.store import output, records
from r2et_jax import metrics, plots
from r2et_jax.metrics.statistics import Estimate, over_runs

FIGURES = {
    "explainers": "P@k under attack of each method, a line each, over the explainers: "
    "where lines cross, the order changes."
}


class Order(NamedTuple):
    """How the orders of methods by P@k agree between two explainers.

    Attributes:
      tau: Kendall's τ_b of the means over runs, and p of its exact test against
        independent orders.
      p_value: of that test.
      by_run: τ_b of each run's own orders, with their interval.
      swapped: pairs (better at the first, better at the second) beyond their errors.
    """

    tau: float
    p_value: float
    by_run: Estimate
    swapped: tuple[tuple[str, str], ...]


def compare(
    first: dict[str, dict[Any, float]], second: dict[str, dict[Any, float]]
) -> Order:
    """Compare two explainers: method -> (seed, fold) -> P@k.

    Two methods swap beyond their errors if one is better by the first explainer and
    worse by the second, as `metrics.verdicts` says of all pairs of methods.
    """
    means = [
        [over_runs(values).mean for values in explainer.values()]
        for explainer in (first, second)
    ]
    tau = stats.kendalltau(*means)
    shared = set.intersection(
        *(set(v) for explainer in (first, second) for v in explainer.values())
    )
    orders = {
        cell: float(
            stats.kendalltau(
                *(
                    [v[cell] for v in explainer.values()]
                    for explainer in (first, second)
                )
            ).statistic
        )
        for cell in shared
    }
    pairs = list(itertools.combinations(first, 2))
    before, after = (
        metrics.verdicts(
            statistics.difference(explainer[a], explainer[b]) for a, b in pairs
        )
        for explainer in (first, second)
    )
    swapped = []
    for (a, b), better, other in zip(pairs, before, after, strict=True):
        if None not in (better, other) and better is not other:
            swapped.append((a, b) if better else (b, a))
    spread = over_runs(orders)
    return Order(float(tau.statistic), float(tau.pvalue), spread, tuple(swapped))


def _precision(store, dataset: str, options):
    """Explainer -> method -> (seed, fold) -> P@k."""
    (k,) = options.k
    here = {"dataset": dataset, "k": k, "metric": "p@k"}
    return {
        name: {
            method: statistics.cells(
                store.select(**here, method=method, explainer=name)
            )
            for method in options.methods
        }
        for name in NAMES
    }


def orders(store, dataset: str, options) -> dict[tuple[str, str], Order]:
    """`compare` for every two explainers of a data set."""
    precisions = _precision(store, dataset, options)
    return {
        pair: compare(*(precisions[name] for name in pair))
        for pair in itertools.combinations(NAMES, 2)
    }


def judge(store, dataset: str, options) -> Verdict | None:
    """Whether the order of the papers' methods is unchanged, and what shows it."""
    methods = [name for name in options.methods if family(name) != "ours"]
    if len(methods) < 2:
        return None
    options = options._replace(methods=methods)
    compared = orders(store, dataset, options)
    verdict = together(
        False if order.swapped else statistics.above(order.by_run, 0) or None
        for order in compared.values()
    )
    texts = [
        f"{_joined(pair)} τ {statistics.shown(order.by_run)}{_swaps(order)}"
        for pair, order in compared.items()
    ]
    count = max(order.by_run.runs for order in compared.values())
    means = {
        name: {m: over_runs(v).mean for m, v in methods.items()}
        for name, methods in _precision(store, dataset, options).items()
    }
    best = max(options.methods, key=means[GRADIENT].get)
    shown = ", ".join(f"{means[name][best]:.2f}" for name in NAMES)
    texts = ", ".join(texts)
    return Verdict(
        verdict,
        f"{texts}; {best} by {', '.join(NAMES)}: {shown} "
        f"({len(options.methods)} methods, {count} runs)",
    )


def _joined(pair):
    return f"{pair[0]}–{pair[1]}"


def _swaps(order):
    if not order.swapped:
        return ""
    turned = ", ".join(f"{a} > {b} turns to <" for a, b in order.swapped)
    return f" ({turned})"


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write the tables and a figure for each data set from the records alone."""
    (k,), (epsilon,), (attack,) = options.k, options.epsilon, options.attacks
    recorded = store.select(dataset=options.datasets, method=options.methods, k=k)
    columns = [
        tables.ColumnSpec(
            f"{name} {title}", {"metric": metric, "explainer": name}, best=best
        )
        for metric, title, best in (("p@k", f"P@{k}", "max"), ("same", "same", None))
        for name in NAMES
    ]
    name = f"table_{part}" if part else "table"
    lines = [
        line
        for dataset in options.datasets
        if len(options.methods) > 1
        for line in _lines(store, dataset, options)
    ]
    tables.write_table(
        folder,
        tables.pivot(recorded, columns=columns),
        notes=[*_notes(options, k, epsilon, attack), *lines],
        name=name,
    )
    written = [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    for dataset in options.datasets:
        path = folder / f"explainers_{dataset}.png"
        here = records.select(recorded, dataset=dataset, metric="p@k")
        output.save_figure(path, _figure(here, dataset, options))
        written.append(path)
    return written


def _notes(options, k, epsilon, attack):
    draws = DRAWS[options.preset, options.kind == "tabular"]
    return (
        f"P@{k} of each explainer under {attack} through that explainer, "
        f"{options.norm} budget ε = {epsilon:g}; models are chosen by the gradient's. "
        f"SmoothGrad: {draws.num_samples} draws; integral: {draws.num_points} "
        "points. Graphs: gradient × input, and its average.",
        f"same: top-{k} overlap of different inputs.",
    )


def _lines(store, dataset, options):
    return [
        f"{dataset}, {_joined(pair)}: Kendall's τ of the orders of the means "
        f"{order.tau:.2f} (p = {order.p_value:.2g}), of each run "
        f"{statistics.shown(order.by_run)}; swapped beyond errors:"
        f"{_swaps(order) or ' none'}."
        for pair, order in orders(store, dataset, options).items()
    ]


def _figure(recorded, dataset, options):
    """P@k over explainers, a line for each method."""
    (k,) = options.k
    places = np.arange(len(NAMES))
    series, errors = {}, []
    for i, method in enumerate(options.methods):
        at = [
            statistics.of_records(
                records.select(recorded, method=method, explainer=name)
            )
            for name in NAMES
        ]
        # Beside each other, so that the error bars of one place can be told apart.
        x = places + 0.03 * (i - (len(options.methods) - 1) / 2)
        series[method] = (x, [v.mean for v in at], None)
        errors.append([v.stderr for v in at])
    figure = plots.curves(
        series,
        ylabel=f"P@{k} under attack, standard error over runs",
        title=f"{dataset}: where lines cross, the order of methods changes",
        size=(7.4, 4.2),
    )
    (axes,) = figure.axes
    for line, error in zip(axes.get_lines(), errors, strict=True):
        if np.isfinite(error).all():
            style = {"fmt": "none", "color": line.get_color(), "capsize": 2.0}
            axes.errorbar(*line.get_data(), error, **style)
    plain = "gradient × input" if options.kind == "graph" else "gradient"
    axes.set_xticks(places, [plain, "SmoothGrad", "Integrated Gradients"])
    axes.set_xlim(-0.2, len(NAMES) - 0.8)
    return figure


QUESTIONS = (
    Question(
        "The order of the papers' methods by robustness is the same for all "
        "explainers.",
        "no two methods swap beyond their errors, and Kendall's τ of the "
        "orders is above 0 for each pair of explainers",
        judge,
        "Integrated Gradients multiply by the input: an attack that moves it "
        "much changes their ranking even where the gradient is constant, and "
        "a feature at 0 cannot lead it, so that less is left to the methods.",
        figure="explainers",
    ),
)
