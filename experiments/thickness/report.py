"""Tables, figures and judgements on thickness, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.measures.thickness import ADVERSARY, BOUND, DISTRIBUTIONS
from experiments.problems import presets
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict
from experiments.report.judging import Question
from experiments.report.statistics import association
from experiments.store import output, records
from experiments.store.records import number
from experiments.thickness import stability, stability_report
from r2et_jax import plots
from r2et_jax.metrics.statistics import Estimate, over_runs
from r2et_jax.plots._scatter_panels import ScatterPanel, scatter_panels

# The distribution by which the claim is judged; the others stand beside it.
MAIN = "uniform"
NAMES = {
    "uniform": "uniform in the ball",
    "gaussian": "Gaussian",
    "adversarial": f"adversarial ({ADVERSARY})",
}
FIGURES = {
    "thickness": "A point for each trained model: mean thickness under three "
    "distributions against P@k under attack.",
    "bounds": "The mean gap along segments against the radius, measured for uniform "
    "and attacked ends, between its bounds, and the published lower bound.",
    "stability": "Differences between inputs that a model has learnt and others, "
    "against the number of learnt inputs, logarithmic, beside what chance gives.",
}
# The curves of the figure of bounds, and the fields of `thickness.Bounds`.
_CURVES = {
    "upper bound": "upper",
    "measured, uniform": "uniform",
    "measured, attacked": "adversarial",
    "published lower": "published_lower",
    "lower bound": "lower",
}
# Whose share of pairs below it stands in the legend.
_BELOW = {"published lower": "published_violated", "lower bound": "violated"}
_LINEAR = 2.0  # of the vertical axis of bounds, logarithmic beyond


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write tables and figures of some data sets of the same settings."""
    (k,), (attack,), end = options.k, options.attacks, f"_{part}" if part else ""
    recorded = _models(store, options.datasets, options)
    written = []

    def save(name, table, notes):
        tables.write_table(folder, table, notes=notes, name=name + end)
        written.extend(folder / f"{name}{end}.{ending}" for ending in ("md", "csv"))

    table = tables.pivot(recorded, columns=_columns(options, k, attack))
    save("table", table, _notes(options, attack))
    bounded = [r for r in recorded if r["metric"].startswith(BOUND)]
    if bounded:
        rows = "dataset", "method", "epsilon"
        table = tables.pivot(bounded, rows=rows, columns=_bound_columns())
        save("bounds", table, _BOUND_NOTES)
    learnt = stability_report.select_learnt(store.select(dataset=options.datasets, k=k))
    if learnt:
        save("stability", stability_report.table(learnt), stability_report.NOTES)
    for dataset in options.datasets:
        here = records.select(recorded, dataset=dataset)
        figures = {"thickness": _robustness_figure(here, dataset, options, k)}
        if records.select(bounded, dataset=dataset) and len(options.epsilon) > 1:
            figures["bounds"] = _bounds_figure(here, dataset, options.epsilon)
        if records.select(learnt, dataset=dataset):
            figures["stability"] = stability_report.figure(learnt, dataset)
        for name, figure in figures.items():
            path = folder / f"{name}_{dataset}.png"
            output.save_figure(path, figure)
            written.append(path)
    return written


def _models(store, dataset, options) -> list[dict[str, Any]]:
    """The records of chosen models, without those that are learnt from samples."""
    return store.select(
        dataset=dataset,
        method=options.methods,
        k=options.k,
        tolerance=presets.MAIN_TOLERANCE,
    )


def _columns(options, k, attack) -> list[tables.ColumnSpec]:
    columns = []
    for distribution in DISTRIBUTIONS:
        at = _budget(distribution, max(options.epsilon))
        for title, metric in (("Θ", "thickness"), ("least", "thickness_min")):
            which = {"metric": metric, "distribution": distribution, "epsilon": at}
            columns.append(tables.ColumnSpec(f"{title} {distribution}", which))
    attacked = {"metric": "p@k", "attack": attack, "epsilon": max(options.epsilon)}
    return [*columns, tables.ColumnSpec(f"P@{k} {attack}", attacked)]


def _budget(distribution: str, epsilon: float) -> tuple:
    """The filter of a distribution's records: Gaussian noise has no budget."""
    return (None if distribution == "gaussian" else epsilon,)


def _notes(options, attack) -> tuple[str, ...]:
    notes = (
        "Θ: share of the way to a draw on which a top feature stays above another one, "
        "mean over all such pairs, draws and inputs. least: the least pair of each "
        "input, mean over inputs; of few draws it is too low.",
        f"uniform: in the {options.norm} ball of ε = {max(options.epsilon):g}. "
        "gaussian: the noise of SmoothGrad. adversarial: where the attack "
        f"{ADVERSARY} ends, which is another one than {attack}.",
    )
    if options.kind == "tabular":
        return notes
    unknown = (
        "Bounds need the curvature over the whole ball: known of one hidden layer."
    )
    return *notes, unknown


def _bound_columns() -> list[tables.ColumnSpec]:
    names = {
        "lower": "lower",
        "gap, attacked": "adversarial",
        "gap, uniform": "uniform",
        "upper": "upper",
        "outside": "violated",
        "published lower": "published_lower",
        "published upper": "published_upper",
        "below published": "published_violated",
        "Θ ≥": "thickness_bound",
        "Θ, attacked": "thickness_adversarial",
        "Θ, uniform": "thickness",
    }
    return [
        tables.ColumnSpec(
            title,
            {"metric": BOUND + name},
            format=".4f" if name.endswith("violated") else ".3f",
        )
        for title, name in names.items()
    ]


_BOUND_NOTES = (
    "Of |∇ log-odds| of the network with one hidden layer; kinks through its smooth "
    "stand-in of the same parameters. Gaps are means along the segments and over the "
    "pairs, relative to the mean gap of the input itself.",
    "lower, upper: bounds by the curvature over the whole ball. outside: share of "
    "pairs outside of these toward the input that the attack found; the theory asks "
    "for 0. below published: share of pairs below the published lower bound, whose "
    "curvature and signs are those of the input alone.",
    "Θ ≥: lower bound on the thickness, which holds for every distribution in the "
    "ball; beside it the measured one.",
)


def model_points(
    recorded, distribution: str, epsilon: float
) -> dict[tuple, tuple[float, float]]:
    """(method, seed, fold) -> thickness and P@k of every model."""
    at = _budget(distribution, epsilon)
    thick = records.select(
        recorded, metric="thickness", distribution=distribution, epsilon=at
    )
    thickness = {_model(record): number(record["value"]) for record in thick}
    return {
        _model(record): (thickness[_model(record)], number(record["value"]))
        for record in records.select(recorded, metric="p@k", epsilon=epsilon)
        if _model(record) in thickness
    }


def _model(record):
    return record["method"], record["seed"], record["fold"]


def _robustness_figure(recorded, dataset, options, k):
    epsilon = max(options.epsilon)
    drawn = []
    for distribution in DISTRIBUTIONS:
        points = model_points(recorded, distribution, epsilon)
        rho = association(points)["by_run"]
        shown = {}
        for method in options.methods:
            mine = [pair for model, pair in points.items() if model[0] == method]
            if mine:
                shown[method] = tuple(np.array(mine).T)
        title = f"{NAMES[distribution]}\nSpearman {statistics.shown(rho, '+.2f')}"
        drawn.append(ScatterPanel(title, "mean thickness Θ", shown))
    return scatter_panels(
        drawn,
        ylabel=f"P@{k} under {options.attacks[0]}",
        title=f"{dataset}: thickness and robustness of trained models, ε = {epsilon:g}",
    )


def _bounds_figure(recorded, dataset, budgets):
    budgets = sorted(budgets)
    series, lowest = {}, 0.0
    for label, name in _CURVES.items():
        pairs = [
            _over_methods(_bounds(recorded, name, epsilon))[:2] for epsilon in budgets
        ]
        means, errors = np.array(pairs).T
        if label in _BELOW:
            share = np.mean(_numbers(recorded, _BELOW[label], budgets[-1]))
            label += f",\n{share:.1%} of pairs below"
        series[label] = budgets, means, errors
        lowest = min(lowest, *means)
    figure = plots.curves(
        series,
        xlabel="radius ε of the l2 ball",
        ylabel="mean gap along the segments,\nrelative to the input's",
        title=f"{dataset}: bounds on the gaps of pairs",
        size=(7.4, 4.0),
    )
    if lowest < -_LINEAR:
        figure.axes[0].set_yscale("symlog", linthresh=_LINEAR)
    return figure


def _over_methods(recorded) -> Estimate:
    """The mean over runs of what the methods of a run have on average."""
    cells: dict[tuple, list[float]] = {}
    for record in recorded:
        values = cells.setdefault((record["seed"], record["fold"]), [])
        values.append(number(record["value"]))
    return over_runs({cell: float(np.mean(v)) for cell, v in cells.items()})


def _numbers(recorded, name: str, epsilon: float) -> list[float]:
    return [number(record["value"]) for record in _bounds(recorded, name, epsilon)]


def _bounds(recorded, name: str, epsilon: float) -> list[records.Record]:
    return records.select(recorded, metric=BOUND + name, epsilon=epsilon)


def questions(attack: str) -> tuple[Question, ...]:
    """The claims on thickness."""
    return (
        Question(
            "Models with a larger top-k thickness keep more of their top-k features "
            "under attack.",
            f"Spearman's correlation over the methods of a run between thickness, "
            f"{NAMES[MAIN]}, and P@k under {attack} above 0",
            thicker_is_more_robust,
            "Thickness is a mean over random directions and over all pairs, where an "
            "attack needs one bad direction and the weakest pairs.",
            figure="thickness",
        ),
        Question(
            "The expected gap along the segments lies between bounds by the curvature "
            "over the ball (our correction), which close as the radius falls.",
            "no pair outside of them, and their distance grows with the radius",
            bounds_hold,
            "Rounding, or an error in the bounds.",
            exact=True,
            figure="bounds",
            ours=True,
        ),
        Question(
            "The published lower bound, by the curvature at the input alone, holds.",
            "no pair below it toward the input that the attack found",
            published_holds,
            "It is of first order: away from the input the curvature grows, and a "
            "feature outside of the top set may change its sign.",
            exact=True,
            figure="bounds",
        ),
        Question(
            "The difference in mean thickness between learnt and other inputs falls "
            "with the number m of learnt ones as chance does, no slower than 1/√m.",
            stability_report.RULE,
            stability_report.judge(stability.THICKNESS),
            "Models learnt from few inputs also differ in their curvature, which "
            "changes the constant before the rate.",
            figure="stability",
        ),
        Question(
            "The distribution of border gaps of learnt inputs comes as fast to that of "
            "other inputs (Kolmogorov–Smirnov distance, no slower than 1/√m).",
            stability_report.RULE,
            stability_report.judge(stability.MARGINS),
            "What a network fits of its sample does not fall with the chance of the "
            "sample.",
            figure="stability",
        ),
    )


def thicker_is_more_robust(store, dataset: str, options):
    """Whether Spearman's correlation of the main distribution is above 0."""
    recorded = _models(store, dataset, options)
    texts, verdict = [], None
    for distribution in DISTRIBUTIONS:
        points = model_points(recorded, distribution, max(options.epsilon))
        related = association(points)
        rho = related["by_run"]
        texts.append(
            f"{distribution} {statistics.shown(rho, '+.2f')} (all {len(points)} "
            f"models: Spearman {related['spearman']:+.2f}, Pearson "
            f"{related['pearson']:+.2f})"
        )
        if distribution == MAIN:
            verdict = statistics.above(rho, 0)
    return Verdict(verdict, ", ".join(texts))


def bounds_hold(store, dataset: str, options):
    """Whether no pair is outside of the corrected bounds; None without them."""
    recorded = _models(store, dataset, options)
    budgets = sorted(options.epsilon)
    if not _numbers(recorded, "lower", budgets[0]):
        return None

    def mean(name, epsilon):
        return float(np.mean(_numbers(recorded, name, epsilon)))

    outside = sum(mean("violated", epsilon) for epsilon in budgets) / len(budgets)
    widths = [mean("upper", e) - mean("lower", e) for e in budgets]
    ends = dict.fromkeys((budgets[0], budgets[-1]))
    shown = [
        f"at ε = {e:g} {widths[budgets.index(e)]:.2f} of the mean gap apart, thickness "
        f"at least {mean('thickness_bound', e):.2f} and measured "
        f"{mean('thickness', e):.2f}"
        for e in ends
    ]
    held = outside == 0 and bool(np.all(np.diff(widths) > 0))
    return Verdict(held, f"{outside:.2%} of pairs outside; {'; '.join(shown)}")


def published_holds(store, dataset: str, options):
    """Whether no pair is below the published lower bound at the largest budget."""
    recorded = _models(store, dataset, options)
    shares = _numbers(recorded, "published_violated", max(options.epsilon))
    if not shares:
        return None
    text = f"{np.mean(shares):.1%} of pairs below at ε = {max(options.epsilon):g}"
    return Verdict(max(shares) == 0, f"{text} ({len(shares)} models)")
