"""Profiles of the saliency: table, figures and verdicts from records alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict
from experiments.report.judging import Question, main_method
from experiments.store import output, records
from r2et_jax import plots
from r2et_jax.metrics.statistics import over_runs

_REFERENCE = "chance"
# A tail is long if it needs at most this share of the features of normal numbers.
_FEWER = 0.95
# Method that should make the tail longer.
_TRAINED = "r2et"
FIGURES = {
    "gradient_profile": "Sorted shares of the saliency by rank, logarithmic: a "
    "curve for each method, rank k marked, beside what chance gives.",
}
# From so many features on, ranks are drawn on a logarithmic axis.
_MANY = 100


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write the table and a figure for each data set from the records alone."""
    (k,) = options.k
    chosen = {"dataset": options.datasets, "method": options.methods, "k": k}
    recorded = store.select(**chosen)
    spec = tables.ColumnSpec
    columns = [
        spec(f"top {k}", {"metric": "top_share"}),
        spec("Gini", {"metric": "gini"}),
        spec("features for 90 %", {"metric": "num_90"}, format=".1f"),
        spec("gap at k", {"metric": "border_gap"}),
    ]
    name = f"table_{part}" if part else "table"
    tables.write_table(
        folder,
        tables.pivot(recorded, columns=columns),
        notes=[
            *_notes(k),
            *(_reference(store, name, options.kind, k) for name in options.datasets),
        ],
        name=name,
    )
    written = [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    for dataset in options.datasets:
        path = folder / f"gradient_profile_{dataset}.png"
        figure = _figure(store.select(**{**chosen, "dataset": dataset}), dataset, k)
        output.save_figure(path, figure)
        written.append(path)
    return written


def _notes(k):
    return (
        "Means over test inputs of the saliency of each, divided by its sum (graphs: "
        "gradient × input).",
        f"top {k}: its share of the sum. Gini: 0 where all features are equal, near 1 "
        "where one carries all. features for 90 %: how many of the largest make up 90 "
        f"% of the sum. gap at k: saliency at rank {k} less that at rank {k + 1}, over "
        "the largest.",
    )


def _reference(store, dataset, kind, k):
    names = "top_share", "gini", "num_90", "border_gap"
    top, gini, most, gap = (_chance(store, dataset, k, name) for name in names)
    n = _num_features(store, dataset, k)
    return (
        f"{dataset}, magnitudes of {n} {_numbers(kind)}: top {k} {top:.3f}, "
        f"Gini {gini:.3f}, {most:.1f} for 90 %, gap at k {gap:.3f}."
    )


def _numbers(kind: str) -> str:
    product = " × the inputs" if kind == "graph" else ""
    return f"independent normal numbers{product}"


def _chance(store, dataset, k, metric) -> float:
    """A statistic of the reference, the mean over folds."""
    references = store.select(dataset=dataset, k=k, metric=f"reference_{metric}")
    return float(np.mean([records.number(record["value"]) for record in references]))


def _num_features(store, dataset, k):
    return len(store.select(dataset=dataset, k=k, metric="profile")[0]["values"])


def _figure(recorded, dataset, k):
    """Mean profiles of all methods, means over runs, on a logarithmic axis."""
    series = {}
    for record in records.select(recorded, metric="profile"):
        series.setdefault(record["method"], []).append(record["values"])
    n = len(records.select(recorded, metric="profile")[0]["values"])
    ranks = np.arange(1, n + 1)
    drawn = {
        method: (ranks, _positive(np.mean(values, axis=0)), None)
        for method, values in series.items()
    }
    chance = records.select(recorded, metric="reference_profile")
    reference = np.mean([record["values"] for record in chance], axis=0)
    drawn[_REFERENCE] = (ranks, _positive(reference), None)
    figure = plots.curves(
        drawn,
        xlabel=f"rank of the feature, of {n}",
        ylabel="share of the saliency, mean of inputs",
        title=f"{dataset}: saliency from the largest to the smallest",
        xscale="log" if n > _MANY else "linear",
        yscale="log",
    )
    (axes,) = figure.axes
    # A band behind the others, which may lie on it.
    band = {"color": "#BBBBBB", "linestyle": "-", "marker": "", "linewidth": 6.0}
    axes.get_lines()[-1].set(zorder=1, **band)
    figure.legends[0].get_lines()[-1].set(**band)
    lowest = min(y[np.isfinite(y)].min() for _, y, _ in drawn.values())
    # What hardly any input has would squeeze the rest.
    axes.set_ylim(bottom=max(lowest / 2, 1e-3 / n))
    axes.axvline(k + 0.5, color="#444444", linewidth=1.0)
    axes.annotate(
        f" top {k}",
        (k + 0.5, 1),
        xycoords=("data", "axes fraction"),
        va="top",
        fontsize=9,
    )
    return figure


def _positive(values):
    """Zeros, which a logarithmic axis has no place for, as NaN."""
    return np.where(values > 0, values, np.nan)


def long_tail(store, dataset: str, options) -> Verdict:
    """Whether vanilla's features for 90 % of the sum are fewer than normal numbers'."""
    (k,), methods = options.k, options.methods
    n = _num_features(store, dataset, k)
    reference = _chance(store, dataset, k, "num_90")
    main = main_method(methods)
    most = _over_runs(store, dataset, k, main, "num_90")
    more = statistics.above(most, _FEWER * reference)
    top = _over_runs(store, dataset, k, main, "top_share")
    text = (
        f"{statistics.shown(most, '.1f')} of {n} features make up 90 % "
        f"({_numbers(options.kind)}: {reference:.1f}), the top {k} {top.mean:.0%} "
        f"({main}, {most.runs} runs)"
    )
    return Verdict(None if more is None else not more, text)


def concentration(store, dataset: str, options) -> Verdict | None:
    """Whether R2ET's explanations need fewer features than vanilla's, run by run."""
    if not {_TRAINED, "vanilla"} <= set(options.methods):
        return None
    (k,) = options.k
    counts = {
        method: statistics.cells(
            store.select(dataset=dataset, k=k, method=method, metric="num_90")
        )
        for method in (_TRAINED, "vanilla")
    }
    after, before = map(over_runs, counts.values())
    saved = statistics.difference(counts["vanilla"], counts[_TRAINED])
    text = (
        f"{before.mean:.1f} → {after.mean:.1f} features, "
        f"{statistics.shown(saved, '.1f')} fewer ({saved.runs} runs)"
    )
    return Verdict(statistics.above(saved, 0), text)


def _over_runs(store, dataset, k, method, metric):
    return statistics.of_records(
        store.select(dataset=dataset, k=k, method=method, metric=metric)
    )


QUESTIONS = (
    Question(
        "Few features carry most of an explanation: its sorted magnitudes have a "
        "long tail.",
        f"features for 90 % of the sum at least {1 - _FEWER:.0%} fewer than of "
        "independent normal numbers, of graphs times the inputs, since a product "
        "has a longer tail",
        long_tail,
        "Sorting makes any numbers fall; the network weighs most features alike.",
        figure="gradient_profile",
    ),
    Question(
        "Training for a robust ranking makes the tail: it gathers the explanation "
        "on fewer features.",
        f"{_TRAINED} needs fewer features for 90 % of the sum than vanilla",
        concentration,
        "The selected penalties may be weak there.",
        ours=True,
        figure="gradient_profile",
    ),
)
