"""Each method against the best baseline of its data set, by a hierarchical bootstrap.

    best baseline = argmax of the mean P@k of validation inputs
    d_si = P@k of the method − P@k of the baseline, for seed s and test input i

The p-values of a data set, tolerance and attack are corrected by Holm's method.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.common.records import number
from experiments.common.robustness_results import LEADING, Results, family
from r2et_jax import metrics

NUM_SAMPLES = 10_000
LEVEL = 0.05
BETTER, WORSE, BASELINE = "▲", "▼", "†"


class Row(NamedTuple):
    """One method against the best baseline; differences are method − baseline.

    Attributes:
      dataset, tolerance, attack, method, baseline: what is compared.
      difference, lower, upper: mean over seeds and inputs, and its 95 % interval.
      p, p_holm: two-sided, before and after the correction.
      seeds: number of seeds that both have.
      inputs: number of test inputs of each.
      left_out: pairs of values that are not finite.
    """

    dataset: str
    tolerance: float
    attack: str
    method: str
    baseline: str
    difference: float
    lower: float
    upper: float
    p: float
    p_holm: float
    seeds: int
    inputs: int
    left_out: int


class Comparisons(NamedTuple):
    """The rows, the baselines (data set, tolerance) -> name, and what was left out."""

    rows: list[Row]
    baselines: dict[tuple[str, float], str]
    problems: list[tuple[str, str]]  # where, why


def compare_all(results: Results, tolerances: Sequence[float]) -> Comparisons:
    """Compare every method but logistic regression, under each leading attack."""
    common = results.common
    rows, baselines, problems = [], {}, []
    tested = [attack for attack in LEADING if attack in common.attacks]
    if not tested:
        alone = f"methods are compared under {' and '.join(LEADING)} alone"
        problems.append((", ".join(common.attacks), alone))
    for dataset in common.datasets:
        for tolerance in tolerances:
            baseline = results.best(dataset, "baseline", tolerance=tolerance)
            if baseline is None:
                where = f"{dataset} at {tolerance}"
                problems.append((where, "no baseline was measured"))
                continue
            baselines[dataset, tolerance] = baseline
            for attack in tested:
                cell = dataset, tolerance, attack
                found, failed = _compare_cell(results, cell, baseline)
                rows += found
                problems += failed
    return Comparisons(rows, baselines, problems)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: max over those up to mine of (m − rank) p, at most 1.

    NaN stays NaN and is not counted.

    Source: Holm 1979.
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(known, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def marks(comparisons: Comparisons, tolerance: float, k: int) -> dict:
    """(row, column) -> mark, for `tables.to_markdown`."""
    found = {}
    for row in comparisons.rows:
        if row.tolerance != tolerance:
            continue
        column = f"P@{k} {row.attack}"
        found[(row.dataset, row.baseline), column] = BASELINE
        if row.p_holm < LEVEL:
            better = row.difference > 0
            found[(row.dataset, row.method), column] = BETTER if better else WORSE
    return found


def notes(comparisons: Comparisons, k: int) -> list[str]:
    """What the marks mean, and what could not be compared."""
    places: dict[str, list[str]] = {}
    for where, why in comparisons.problems:
        places.setdefault(why, []).append(where)
    problems = [
        f"No marks: {why} ({'; '.join(where)})." for why, where in places.items()
    ]
    if not comparisons.rows:
        return problems
    return [
        f"{BASELINE}: the best baseline of the data set, the one with the highest mean "
        f"P@{k} of validation inputs; candidates are all methods but logistic "
        "regression, the variants of R2ET and our own.",
        f"{BETTER} better, {WORSE} worse than {BASELINE} at p < {LEVEL:g}: bootstrap "
        f"of {NUM_SAMPLES} samples, seeds first and then their test inputs, paired by "
        "both and two-sided; p corrected by Holm's method over the methods compared on "
        "the same data set at the same tolerance under the same attack. "
        "comparisons.csv has every difference.",
        "Few seeds make this test liberal: with five, it rejects about 16 % of true "
        "equalities at p < .05 where the spread between seeds dominates (10 or 20 "
        "seeds: 9 %), before the correction.",
        *problems,
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
                f"{row.difference:+.3f} | [{row.lower:+.3f}, {row.upper:+.3f}] | "
                f"{row.p:.4f} | {row.p_holm:.4f} | {_verdict(row)} |\n"
                for row in comparisons.rows
                if row.tolerance == tolerance
            )
        )
    left_out = sum(row.left_out for row in comparisons.rows)
    lines = notes(comparisons, k)
    if comparisons.rows:
        counts = sorted({(row.seeds, row.inputs) for row in comparisons.rows})
        shown = ", ".join(f"{seeds} × {inputs}" for seeds, inputs in counts)
        lines.append(f"Seeds × test inputs of a comparison: {shown}.")
    if left_out:
        lines.append(f"{left_out} pairs with a value that is not finite are left out.")
    return "\n".join([*parts, *(f"- {line}" for line in lines)]) + "\n"


def _verdict(row: Row) -> str:
    if not row.p_holm < LEVEL:
        return ""
    return BETTER if row.difference > 0 else WORSE


def _compare_cell(results, cell, baseline):
    """All methods of a data set, tolerance and attack: rows and problems."""
    dataset, tolerance, attack = cell
    where = f"{dataset} at {tolerance} under {attack}"
    reference = _inputs(results, cell, baseline)
    if not reference:
        why = "the records hold no P@k of single inputs of the best baseline"
        return [], [(where, why)]
    raw, missing = [], []
    for method in results.measured(dataset, tolerance):
        if method == baseline or family(method) == "linear":
            continue
        values = _inputs(results, cell, method)
        seeds = sorted(values.keys() & reference.keys())
        lengths = {len(v[seed]) for v in (values, reference) for seed in seeds}
        if len(lengths) != 1 or lengths == {0}:
            missing.append(method)
            continue
        # Its own stream, so that another method more or less changes no p-value.
        name = repr((*cell, results.k, method))
        comparison = metrics.hierarchical_bootstrap(
            [values[seed] for seed in seeds],
            [reference[seed] for seed in seeds],
            num_samples=NUM_SAMPLES,
            rng=np.random.default_rng(zlib.crc32(name.encode())),
        )
        raw.append((method, comparison, len(seeds), lengths.pop()))
    corrected = holm([comparison.p_value for _, comparison, _, _ in raw])
    rows = [
        Row(*cell, method, baseline, *c[:4], p_holm, seeds, inputs, c.num_nonfinite)
        for (method, c, seeds, inputs), p_holm in zip(raw, corrected, strict=True)
    ]
    problems = []
    if missing:
        why = f"no P@k of single inputs that pairs with {baseline}'s"
        problems = [(where, f"{why} for {', '.join(missing)}")]
    return rows, problems


def _inputs(results, cell, method) -> dict[int, list[float]]:
    """Seed -> P@k of each test input at the largest budget, fold after fold."""
    dataset, tolerance, attack = cell
    found = results.get(
        dataset,
        method,
        "p@k_inputs",
        tolerance=tolerance,
        attack=attack,
        epsilon=max(results.common.epsilon),
    )
    values: dict[int, list[float]] = {}
    for record in sorted(found, key=lambda record: record["fold"] or 0):
        values.setdefault(record["seed"], []).extend(map(number, record["values"]))
    return values
