"""Each method against the best baseline of its data set, by the one rule over runs.

    best baseline = argmax of the mean P@k of validation inputs
    difference = P@k of the method − P@k of the baseline, run by run

Better or worse is what `metrics.verdicts` says: Student's t over runs, corrected by
Holm's method over the methods of a data set, tolerance and attack. Beside it stands the
interval of a bootstrap over seeds and inputs.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.measures.evaluation import PER_INPUT
from experiments.problems.methods import family
from experiments.report import statistics
from experiments.robustness.results import LEADING, Results
from experiments.store.records import number
from r2et_jax import metrics
from r2et_jax.metrics.bootstrap import hierarchical_bootstrap
from r2et_jax.metrics.statistics import CONFIDENCE

NUM_SAMPLES = 10_000
BETTER, WORSE, BASELINE = "▲", "▼", "†"


class Row(NamedTuple):
    """One method against the best baseline; differences are method − baseline.

    Attributes:
      dataset, tolerance, attack, method, baseline: what is compared.
      difference, stderr, lower, upper: mean over runs, its standard error and Student's
        95 % interval.
      p, p_holm: two-sided, before and after the correction.
      better: the verdict: True, False where it is worse, None where it cannot be told.
      runs: number of runs that both have.
      bootstrap_lower, bootstrap_upper: 95 % interval of the hierarchical bootstrap, NaN
        where inputs cannot be paired.
      inputs: number of different test inputs of a run, 0 where they are not known.
      left_out: pairs of their values that are not finite.
    """

    dataset: str
    tolerance: float
    attack: str
    method: str
    baseline: str
    difference: float
    stderr: float
    lower: float
    upper: float
    p: float
    p_holm: float
    better: bool | None
    runs: int
    bootstrap_lower: float
    bootstrap_upper: float
    inputs: int
    left_out: int


class Comparisons(NamedTuple):
    """The rows, the baselines (data set, tolerance) -> name, and what was left out."""

    rows: list[Row]
    baselines: dict[tuple[str, float], str]
    unjudged: list[tuple[str, str]]  # where, why


def compare_all(results: Results, tolerances: Sequence[float]) -> Comparisons:
    """Compare every method but logistic regression, under each leading attack."""
    options = results.options
    rows, baselines, unjudged = [], {}, []
    tested = [attack for attack in LEADING if attack in options.attacks]
    if not tested:
        alone = f"methods are compared under {' and '.join(LEADING)} alone"
        unjudged.append((", ".join(options.attacks), alone))
    for dataset in options.datasets:
        for tolerance in tolerances:
            baseline = results.best(dataset, "baseline", tolerance=tolerance)
            if baseline is None:
                where = f"{dataset} at {tolerance}"
                unjudged.append((where, "no baseline was measured"))
                continue
            baselines[dataset, tolerance] = baseline
            for attack in tested:
                cell = dataset, tolerance, attack
                compared, failed = _compare_cell(results, cell, baseline)
                rows += compared
                unjudged += failed
    return Comparisons(rows, baselines, unjudged)


def marks(comparisons: Comparisons, tolerance: float, k: int) -> dict:
    """(row, column) -> mark, for `tables.to_markdown`."""
    marked = {}
    for row in comparisons.rows:
        if row.tolerance != tolerance:
            continue
        column = f"P@{k} {row.attack}"
        marked[(row.dataset, row.baseline), column] = BASELINE
        if row.better is not None:
            marked[(row.dataset, row.method), column] = _verdict(row)
    return marked


def notes(comparisons: Comparisons, k: int) -> list[str]:
    """What the marks mean, and what could not be compared."""
    places: dict[str, list[str]] = {}
    for where, why in comparisons.unjudged:
        places.setdefault(why, []).append(where)
    unjudged = [
        f"No marks: {why} ({'; '.join(where)})." for why, where in places.items()
    ]
    if not comparisons.rows:
        return unjudged
    return [
        f"{BASELINE}: the best baseline of the data set, the one with the highest mean "
        f"P@{k} of validation inputs; candidates are all methods but logistic "
        "regression, the variants of R2ET and our own.",
        f"{BETTER} better, {WORSE} worse than {BASELINE} at p < "
        f"{1 - CONFIDENCE:.2g}: Student's t of the differences run by run "
        "(seeds, folds averaged; of one seed its folds), two-sided; p corrected by "
        "Holm's method over the methods compared on the same data set at the same "
        "tolerance under the same attack. comparisons.csv has every difference, and "
        f"beside it the interval of a bootstrap of {NUM_SAMPLES} samples over seeds "
        "and then their inputs, which is too narrow for few seeds.",
        *unjudged,
    ]


def to_csv(comparisons: Comparisons) -> str:
    """All rows in full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(comparisons.rows)
    return buffer.getvalue()


def to_markdown(comparisons: Comparisons, k: int) -> str:
    """All rows for reading, one table for each tolerance."""
    parts = [f"# P@{k} of each method minus that of the best baseline\n"]
    for tolerance in dict.fromkeys(row.tolerance for row in comparisons.rows):
        parts.append(
            f"## Validation AUC within {tolerance} of vanilla's\n\n"
            "| dataset | attack | method | baseline | difference | 95 % interval | p | "
            "p, Holm | |\n| --- | --- | --- | --- | ---: | --- | ---: | ---: | --- |\n"
            + "".join(
                f"| {row.dataset} | {row.attack} | {row.method} | {row.baseline} | "
                f"{_shown(row)} | [{row.lower:+.3f}, {row.upper:+.3f}] | "
                f"{row.p:.4f} | {row.p_holm:.4f} | {_verdict(row)} |\n"
                for row in comparisons.rows
                if row.tolerance == tolerance
            )
        )
    left_out = sum(row.left_out for row in comparisons.rows)
    lines = notes(comparisons, k)
    if comparisons.rows:
        counts = sorted({(row.runs, row.inputs) for row in comparisons.rows})
        shown = ", ".join(f"{runs} × {inputs}" for runs, inputs in counts)
        lines.append(f"Runs × different test inputs of a comparison: {shown}.")
    if left_out:
        lines.append(
            f"{left_out} pairs with a value that is not finite are left out of the "
            "bootstrap."
        )
    return "\n".join([*parts, *(f"- {line}" for line in lines)]) + "\n"


def _verdict(row: Row) -> str:
    return "" if row.better is None else BETTER if row.better else WORSE


def _shown(row: Row) -> str:
    error = "" if math.isnan(row.stderr) else f" ± {row.stderr:.3f}"
    return f"{row.difference:+.3f}{error}"


def _compare_cell(results, cell, baseline):
    """All methods of a data set, tolerance and attack: rows and problems."""
    dataset, tolerance, attack = cell
    where = {"tolerance": tolerance, "attack": attack}
    where["epsilon"] = max(results.options.epsilon)
    reference = results.cells(dataset, baseline, "p@k", **where)
    if not reference:
        place = f"{dataset} at {tolerance} under {attack}"
        return [], [(place, "the best baseline was not attacked")]
    raw = {}
    for method in results.measured(dataset, tolerance):
        if method != baseline and family(method) != "linear":
            values = results.cells(dataset, method, "p@k", **where)
            raw[method] = statistics.difference(values, reference)
    raw = {method: gain for method, gain in raw.items() if gain.runs}
    p_values = [gain.p_value() for gain in raw.values()]
    judged = metrics.verdicts(raw.values())
    rows = []
    for (method, gain), p, corrected, better in zip(
        raw.items(), p_values, metrics.holm(p_values), judged, strict=True
    ):
        numbers = gain.mean, gain.stderr, gain.low, gain.high, p, corrected, better
        beside = _bootstrap(results, cell, where, method, baseline)
        rows.append(Row(*cell, method, baseline, *numbers, gain.runs, *beside))
    return rows, []


def _bootstrap(results, cell, where, method, baseline):
    """Its interval, the number of inputs of a run, and pairs that are left out."""
    values = _inputs(results, cell[0], where, method)
    reference = _inputs(results, cell[0], where, baseline)
    both = sorted(values.keys() & reference.keys())
    lengths = {len(v[run]) for v in (values, reference) for run in both}
    if len(lengths) != 1 or lengths == {0}:
        return math.nan, math.nan, 0, 0
    # Its own stream, so that another method more or less changes no number.
    name = repr((*cell, results.k, method))
    interval = hierarchical_bootstrap(
        [values[run] for run in both],
        [reference[run] for run in both],
        num_samples=NUM_SAMPLES,
        rng=np.random.default_rng(zlib.crc32(name.encode())),
    )
    return interval.lower, interval.upper, lengths.pop(), interval.num_nonfinite


def _inputs(results, dataset, where, method) -> dict[int, list[float]]:
    """Seed, or fold of a single one, -> P@k of each input, fold after fold."""
    recorded = results.get(dataset, method, PER_INPUT, **where)
    name = "seed" if len({record["seed"] for record in recorded}) > 1 else "fold"
    values: dict[int, list[float]] = {}
    for record in sorted(recorded, key=lambda record: record["fold"] or 0):
        values.setdefault(record[name] or 0, []).extend(map(number, record["values"]))
    return values
