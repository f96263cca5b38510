"""Stability over sample sizes: table, figure, rates and verdicts from records."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.problems import presets
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict
from experiments.store.records import number, select
from experiments.thickness.stability import MARGINS, THICKNESS
from r2et_jax import plots
from r2et_jax.metrics.statistics import Estimate, over_runs

GUIDE = "√(1/m + 1/u)"
_LABELS = {THICKNESS: "|Θ seen − unseen|", MARGINS: "KS of border gaps"}


def table(learnt) -> tables.Table:
    """The table of the records of samples."""
    spec = tables.ColumnSpec
    return tables.pivot(
        learnt,
        rows=("dataset", "method", "sample_size"),
        columns=[
            spec("|Θ seen − unseen|", {"metric": THICKNESS}, format=".4f"),
            spec("Θ seen − unseen", {"metric": "thickness_excess"}, format="+.4f"),
            spec("Θ unseen", {"metric": "thickness_unseen"}),
            spec("KS of border gaps", {"metric": MARGINS}),
        ],
    )


NOTES = (
    "Models learnt from a random sample of the training inputs (sample_size) by the "
    "same number of steps; seen: that sample; unseen: training inputs outside of it, "
    "where the data are no table test inputs.",
    "KS: largest difference of the distribution functions of the gap between ranks k "
    "and k + 1, maps of unit sum.",
)


def figure(learnt, dataset: str):
    """Both differences against the sample size, beside what chance alone gives."""
    series, top = {}, 0.0
    for metric, label in _LABELS.items():
        for method in presets.LEARNT_METHODS:
            values = _by_size(learnt, dataset, method, metric)
            if not values:
                continue
            sizes = sorted(values)
            pairs = [over_runs(values[m])[:2] for m in sizes]
            means, errors = np.array(pairs).T
            series[f"{label}, {method}"] = sizes, means, errors
            top = max(top, means[0])
    effective = _effective(learnt, dataset, THICKNESS)
    sizes = sorted(effective)
    both = np.array([effective[m] for m in sizes])
    series[GUIDE] = np.array(sizes, float), 2 * top * np.sqrt(both[0] / both), None
    return plots.curves(
        series,
        xlabel="inputs m that the model has learnt",
        ylabel="difference, seen and unseen inputs",
        title=f"{dataset}: stability of thickness and gaps",
        xscale="log",
        yscale="log",
        size=(7.2, 4.0),
    )


def _by_size(learnt, dataset, method, metric) -> dict[int, dict[tuple, float]]:
    """Sample size -> seed and fold -> value."""
    by_size: dict[int, dict[tuple, float]] = {}
    for record in select(learnt, dataset=dataset, method=method, metric=metric):
        runs_of_size = by_size.setdefault(record["sample_size"], {})
        runs_of_size[record["seed"], record["fold"]] = number(record["value"])
    return by_size


def _effective(learnt, dataset, metric) -> dict[int, float]:
    """Sample size m -> m·u/(m + u), u the unseen inputs, the mean over runs.

    Two means of m and u independent numbers differ by a standard deviation that falls
    as one over the root of it, and no faster: a few unseen inputs are a floor.
    """
    sizes: dict[int, list[float]] = {}
    for record in select(learnt, dataset=dataset, metric=metric):
        m, unseen = record["sample_size"], record["n"]
        sizes.setdefault(m, []).append(m * unseen / (m + unseen))
    return {m: float(np.mean(values)) for m, values in sizes.items()}


def rate(learnt, dataset: str, metric: str) -> Estimate | None:
    """Exponent of a power law in m·u/(m + u), by run; None of one size.

    The mean over methods of the slope of the logarithms: that of a difference with
    mean zero falls as its standard deviation does.
    """
    effective = _effective(learnt, dataset, metric)
    slopes: dict[tuple, list[float]] = {}
    for method in presets.LEARNT_METHODS:
        values = _by_size(learnt, dataset, method, metric)
        sizes = sorted(values)
        if len(sizes) < 2:
            return None
        for run in values[sizes[0]]:
            y = [max(values[m][run], np.finfo(float).tiny) for m in sizes]
            both = [effective[m] for m in sizes]
            slope = np.polyfit(np.log(both), np.log(y), 1)[0]
            slopes.setdefault(run, []).append(float(slope))
    return over_runs({run: float(np.mean(v)) for run, v in slopes.items()})


# A claim of 1/√m cannot be shown to the last digit: a fifth is left to the fit.
_FAST_ENOUGH = 0.4
RULE = (
    "exponent of m·u/(m + u), u the number of other inputs (chance alone gives −0.5): "
    f"held below −{_FAST_ENOUGH:.1f}, did not hold above −0.5"
)
_FEW_GRAPHS = "Pairs of few graphs are not as many independent inputs."


def judge(metric: str):
    """`judge(store, dataset, options)` of a question on the rate, see `RULE`."""

    def judged(store, dataset, options):
        learnt = select_learnt(store.select(dataset=dataset, k=options.k))
        exponent = rate(learnt, dataset, metric) if learnt else None
        if exponent is None:
            return None
        text = f"exponent {statistics.shown(exponent, '+.2f')}, {exponent.runs} runs"
        if statistics.above(exponent, -0.5):
            cause = _FEW_GRAPHS if options.kind == "graph" else ""
            return Verdict(False, text, cause)
        slow = statistics.above(exponent, -_FAST_ENOUGH)
        return Verdict(True if slow is False else None, text)

    return judged


def select_learnt(recorded) -> list[dict[str, Any]]:
    """The records of samples among all."""
    return [record for record in recorded if "sample_size" in record]
