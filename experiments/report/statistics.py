"""What records say over runs: the library's one rule on their seeds and folds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from experiments.store.records import MEASURED, Record, number
from r2et_jax import metrics
from r2et_jax.metrics.statistics import Estimate, differences, over_runs
from r2et_jax.metrics.summary import Summary

Cells = Mapping[tuple[Any, Any], float]
MISSING = "–"


def cells(records: Iterable[Record]) -> dict[tuple[Any, Any], float]:
    """(seed, fold) -> value of records, one of each model.

    Raises:
      ValueError: if there are several of one, names the fields in which they differ: a
        mean over attacks or budgets is never taken by accident.
    """
    known: dict[tuple[Any, Any], Record] = {}
    for record in records:
        cell = record["seed"], record["fold"]
        if cell in known:
            other = known[cell]
            differing = sorted(
                key
                for key in {*record, *other} - MEASURED
                if record.get(key) != other.get(key)
            )
            raise ValueError(
                f"several records of seed {cell[0]}, fold {cell[1]}, which differ in "
                f"{', '.join(differing) or 'nothing'}"
            )
        known[cell] = record
    return {cell: number(record["value"]) for cell, record in known.items()}


def of_records(records: Iterable[Record]) -> Estimate:
    """The mean over runs; of a single record, with its own error over inputs."""
    records = list(records)
    single = None
    if len(records) == 1:
        (record,) = records
        n = record.get("n", 0)
        single = Summary(record["value"], number(record.get("stderr")), n, 0)
    return over_runs(cells(records), single=single)


def difference(a: Cells, b: Cells) -> Estimate:
    """a − b over the runs that both have."""
    return over_runs(differences(a, b))


def above(estimate: Estimate, level: float = 0.0) -> bool | None:
    """Whether one mean, judged by itself, lies above a level; see `verdicts`."""
    return metrics.verdicts([estimate], level)[0]


def association(points: Mapping[tuple, tuple[float, float]]) -> dict[str, Any]:
    """Correlations of two numbers of models, (method, *run) -> pair.

    Returns:
      `pearson`, `spearman` over all models; `by_run`: Spearman's over the methods of a
      seed and fold, an `Estimate` over runs. NaN of fewer than 3 models, or
      where one of both does not vary.
    """
    by_run: dict[tuple, list] = {}
    for (_, *run), pair in points.items():
        by_run.setdefault(tuple(run), []).append(pair)
    whole = np.array(list(points.values())).reshape(-1, 2)
    return {
        "pearson": _related(stats.pearsonr, whole),
        "spearman": _related(stats.spearmanr, whole),
        "by_run": over_runs(
            {
                cell: _related(stats.spearmanr, np.array(pairs))
                for cell, pairs in by_run.items()
            }
        ),
    }


def _related(measure, pairs: np.ndarray) -> float:
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < 3 or np.ptp(pairs, axis=0).min() == 0:
        return math.nan
    return float(measure(*pairs.T)[0])


def shown(estimate: Estimate | None, spec: str = ".2f") -> str:
    """The mean ± its standard error; how many runs have no value, where any has none.

    A missing estimate, or one of no runs, is a dash.
    """
    if estimate is None or not estimate.runs:
        return MISSING
    if estimate.num_nonfinite:
        return f"{MISSING} ({estimate.num_nonfinite}/{estimate.runs})"
    if math.isnan(estimate.mean):
        return "nan"
    text = format(estimate.mean, spec)
    if not text.strip("+-0.%"):
        text = text.lstrip("+-")
    if math.isnan(estimate.stderr):
        return text
    return f"{text} ± {format(estimate.stderr, spec.lstrip('+'))}"
