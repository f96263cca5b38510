"""Tables, figures and judgements on what tells an input's resistance, from records."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from experiments.correlation.measure import EPOCH, EXACT_FEATURES, PROBES
from experiments.measures.thickness import ADVERSARY
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict
from experiments.report.judging import Question, main_method
from experiments.store import output, records
from experiments.store.records import number
from r2et_jax import plots
from r2et_jax.metrics.statistics import Estimate, over_runs
from r2et_jax.plots._scatter_panels import ScatterPanel, scatter_panels

# Quantity -> how it is told, and the group that it belongs to.
QUANTITIES = {
    "hessian": ("‖H‖ of the probability", "Hessian"),
    "bend": ("‖H‖/‖g‖ of the log-odds", "Hessian"),
    "gap": ("gap between ranks k, k+1", "gap"),
    "gap_mean": ("mean gap of all pairs", "gap"),
    "uniform": ("Θ uniform", "thickness"),
    "uniform_min": ("Θ uniform, least pair", "thickness"),
    "gaussian": ("Θ Gaussian", "thickness"),
    "gaussian_min": ("Θ Gaussian, least pair", "thickness"),
    "adversarial": ("Θ adversarial", "thickness"),
    "adversarial_min": ("Θ adversarial, least pair", "thickness"),
}
_DRAWN = ("hessian", "bend", "gap", "uniform", "gaussian", "adversarial")
_LOGARITHMIC = ("hessian", "bend", "gap")
# By which the claims are judged; the others stand beside them.
_THICKNESS, _GAP = "uniform", "gap"
_MAIN = "spearman_all"
FIGURES = {
    "inputs": "Every test input of one method's models: curvature, gap and thickness "
    "against the iteration of the attack at which it was manipulated.",
    "correlations": "A row for each quantity: Spearman's correlation with that "
    "iteration, with and without the inputs that never were.",
}


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write the table and two figures for each data set."""
    (k,) = options.k
    recorded = store.select(dataset=options.datasets, method=options.methods, k=k)
    told = [
        record
        for name in QUANTITIES
        for record in records.select(recorded, quantity=name)
    ]
    rows = "dataset", "method", "quantity"
    table = tables.pivot(told, rows=rows, columns=_columns())
    name = f"table_{part}" if part else "table"
    tables.write_table(folder, table, notes=_notes(recorded, options), name=name)
    written = [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    for dataset in options.datasets:
        here = records.select(recorded, dataset=dataset)
        for figure_name, figure in (
            ("inputs", _inputs_figure(here, dataset, options)),
            ("correlations", _dots_figure(here, dataset, options)),
        ):
            path = folder / f"{figure_name}_{dataset}.png"
            output.save_figure(path, figure)
            written.append(path)
    return written


def _columns():
    return [
        tables.ColumnSpec(title, {"metric": metric}, format="+.2f")
        for title, metric in (
            ("Pearson", "pearson"),
            ("Spearman", "spearman"),
            ("Spearman with censored", _MAIN),
        )
    ]


def _notes(recorded, options) -> tuple[str, ...]:
    censored = [number(r["value"]) for r in records.select(recorded, metric="censored")]
    low, high = min(censored), max(censored)
    return (
        f"Over the test inputs of one model: the iteration of {options.attacks[0]} "
        f"(ε = {options.epsilon[0]:g}) at which the input was manipulated, against "
        f"each quantity. Manipulated: {_event(recorded)}. Pearson, Spearman: over the "
        f"inputs that were. With censored: the others ({low:.0%} to {high:.0%} of the "
        "inputs of a model) as if they had needed one more iteration than was tried.",
        "hessian: ‖∇²p‖ (Frobenius), bend: ‖∇²u‖/‖∇u‖ of the log-odds u, both of the "
        f"smooth stand-in of a network with kinks; above {EXACT_FEATURES} features "
        f"by {PROBES} random probes. gap: between ranks k and k + 1, gap_mean: over "
        "all pairs, of maps of unit sum. Others: thickness, the mean over the pairs; "
        "_min: of the least pair; adversarial: toward the end of the attack "
        f"{ADVERSARY}, another one than {options.attacks[0]}.",
    )


def _event(recorded) -> str:
    """What makes an input manipulated."""
    (share,) = {record["share"] for record in recorded}
    if share == 1:
        return "a top-k feature left"
    return f"P@k fell below {share:g}"


def _inputs_figure(recorded, dataset, options):
    """All inputs of one method's models, a panel for each quantity."""
    method, (k,) = main_method(options.methods), options.k
    here = records.select(recorded, method=method)
    steps = _values(here, metric=EPOCH)
    left = np.isfinite(steps)
    longest = np.nanmax(steps) if left.any() else 1.0
    spread = np.random.default_rng(0).uniform(1.06, 1.14, len(steps))
    height = np.where(left, steps, spread * longest)
    drawn = []
    for quantity in _DRAWN:
        x = _values(here, metric="quantity", quantity=quantity)
        rho = correlation(here, quantity)
        points = {
            "manipulated": (x[left], height[left]),
            "never": (x[~left], height[~left]),
        }
        drawn.append(
            ScatterPanel(
                f"Spearman {statistics.shown(rho, '+.2f')}",
                QUANTITIES[quantity][0],
                {label: xy for label, xy in points.items() if len(xy[0])},
                "log" if quantity in _LOGARITHMIC else "linear",
            )
        )
    return scatter_panels(
        drawn,
        ylabel=f"iterations until\n{_event(here).replace('@k', f'@{k}')}",
        title=f"{dataset}, {method}: what tells how long an input withstands an attack",
        muted="never",
    )


def _values(recorded, **which) -> np.ndarray:
    """The values of all inputs, model after model."""
    chosen = sorted(
        records.select(recorded, **which), key=lambda r: (r["seed"], r["fold"])
    )
    return np.array([number(value) for record in chosen for value in record["values"]])


def _dots_figure(recorded, dataset, options):
    """Correlations of all quantities, means over methods, errors over runs."""
    rows = []
    for quantity, (label, group) in QUANTITIES.items():
        whole = correlation(recorded, quantity)
        without = correlation(recorded, quantity, "spearman").mean
        rows.append((label, whole.mean, whole.stderr, without, group))
    labels, means, stderrs, hollow, groups = zip(*rows, strict=True)
    return plots.dots(
        labels,
        means,
        stderrs,
        hollow=hollow,
        groups=groups,
        name="all inputs",
        hollow_name="manipulated ones",
        xlabel=f"Spearman's ρ with the iteration until {_event(recorded)}",
        title=f"{dataset}: mean of {len(options.methods)} methods",
        size=(7.4, 3.6),
    )


def correlation(recorded, quantity: str, metric: str = _MAIN) -> Estimate:
    """Of the mean over methods of a correlation, over runs.

    A model of which too few inputs, or all alike, were manipulated has none, and is
    counted in the texts. A seed or fold in which no method has one is left out with
    them.
    """
    return over_runs(_cells(recorded, quantity, metric))


def _cells(recorded, quantity, metric, *, of=float):
    """(seed, fold) -> mean over the methods that have a correlation."""
    chosen: dict = {}
    for record in records.select(recorded, metric=metric, quantity=quantity):
        value = number(record["value"])
        if math.isfinite(value):
            chosen.setdefault((record["seed"], record["fold"]), []).append(of(value))
    return {cell: sum(values) / len(values) for cell, values in chosen.items()}


def _without(recorded, quantity, metric=_MAIN) -> str:
    """Says how many models have no correlation."""
    here = records.select(recorded, metric=metric, quantity=quantity)
    missing = sum(not math.isfinite(number(record["value"])) for record in here)
    return f"; {missing} of {len(here)} models have none" if missing else ""


def thickness_tells(store, dataset: str, options):
    """Whether the correlation with thickness is above 0."""
    recorded = _chosen(store, dataset, options)
    names = "uniform", "gaussian", "adversarial", "uniform_min"
    kept = [number(r["value"]) for r in records.select(recorded, metric="censored")]
    without = correlation(recorded, _THICKNESS, "spearman")
    text = (
        f"{_text(recorded, names)}; without the {np.mean(kept):.0%} never "
        f"manipulated, uniform {statistics.shown(without, '+.2f')} (manipulated: "
        f"{_event(recorded)})"
    )
    return Verdict(statistics.above(correlation(recorded, _THICKNESS), 0), text)


def hessian_hardly_tells(quantity: str):
    """`judge(store, dataset, options)`: whether a norm of the Hessian correlates less
    than half as much in size, model by model.
    """

    def judged(store, dataset: str, options):
        recorded = _chosen(store, dataset, options)
        thick = _cells(recorded, _THICKNESS, _MAIN)
        half = {cell: value / 2 for cell, value in thick.items()}
        size = _cells(recorded, quantity, _MAIN, of=abs)
        mean = over_runs(size)
        text = _text(recorded, (quantity, _THICKNESS))
        text += f"; the first in size {statistics.shown(mean)}"
        return Verdict(statistics.above(statistics.difference(half, size), 0), text)

    return judged


def gap_tells_more(store, dataset: str, options):
    """Whether the gap correlates more than thickness does, run by run."""
    recorded = _chosen(store, dataset, options)
    more = statistics.difference(
        _cells(recorded, _GAP, _MAIN), _cells(recorded, _THICKNESS, _MAIN)
    )
    names = "gap", "gap_mean", _THICKNESS
    return Verdict(statistics.above(more, 0), _text(recorded, names))


def _chosen(store, dataset, options):
    return store.select(dataset=dataset, method=options.methods, k=options.k)


def _text(recorded, names) -> str:
    shown = [
        f"{QUANTITIES[name][0]} {statistics.shown(correlation(recorded, name), '+.2f')}"
        for name in names
    ]
    return f"{', '.join(shown)}{_without(recorded, _THICKNESS)}"


_RULE = (
    "Spearman's correlation with the iteration at which the input was manipulated, "
    "inputs that never were as the longest, mean over methods"
)
_LESS_THAN_HALF = (
    f"{_RULE}: in size, model by model, less than half of that of Θ uniform"
)
QUESTIONS = (
    Question(
        "The thicker an input's top-k set, the longer it withstands an attack.",
        f"{_RULE}: above 0 for Θ uniform",
        thickness_tells,
        "A mean over all pairs and random directions says little of the weakest pair, "
        "which leaves first.",
        figure="correlations",
    ),
    Question(
        "The norm of the Hessian hardly tells it.",
        _LESS_THAN_HALF,
        hessian_hardly_tells("hessian"),
        "The norm holds the scale of the gradient and the slope of the probability, "
        "which differ between inputs as the model's confidence does.",
        figure="correlations",
    ),
    Question(
        "Beyond the papers: nor does it where the norm of the gradient, and with it "
        "their scale, is divided out.",
        _LESS_THAN_HALF,
        hessian_hardly_tells("bend"),
        "Without its scale the curvature tells how fast the direction of the gradient "
        "turns, which is what an attack needs.",
        figure="correlations",
        ours=True,
    ),
    Question(
        "Beyond the papers: the gap between ranks k and k + 1, which costs one "
        "gradient, tells more than thickness.",
        f"{_RULE}: larger than for Θ uniform",
        gap_tells_more,
        "The gap knows nothing of how fast the ranking moves around the input; "
        "thickness does.",
        figure="correlations",
        ours=True,
    ),
)
