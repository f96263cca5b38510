"""Tables and figures of the constrained attacks, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.constrained_attack import measure as constrained
from experiments.report import tables
from experiments.store.output import save_figure, write_text_atomic
from experiments.store.records import Record, RecordStore, number
from r2et_jax import plots
from r2et_jax.numerics import pareto_mask
from r2et_jax.plots._figure import as_written

_ROWS = ("dataset", "method", "weighting", "learning_rate", "ranking_weight")
_NOTES = (
    "last: of the last iterate; best: of the iterate with the lowest P@k. P@k and "
    "changed (the share of inputs whose predicted class is another one: sensitivity) "
    "are always of the same perturbed inputs.",
    "class kept: the lowest P@k among iterates whose predicted class stayed.",
    "KL/s: divergence between predictions before and after over the smallest one that "
    "can change the class, mean at the last iterate.",
    "‖δ−δ₀‖/ε: mean distance from the last iterate of the unconstrained attack, which "
    "started from the same random input.",
    "equal P@k: the lowest P@k that this attack and the unconstrained one both reach "
    "along their iterations; then the sensitivity of both there.",
    "front: share of runs in which no other attack has both a lower P@k and a lower "
    "sensitivity (last iterate).",
)
_OF_PAIRS = (
    "Pairs: changed means that the prediction of the pair or the class of the first "
    "input is another one (any of them); KL/s is the larger of the two. The partner is "
    "not moved, so that its class cannot change.",
)
_OF_PARTS = (
    ("pair changed", "sensitivity_pair_last"),
    ("class changed", "sensitivity_class_last"),
)
_SCATTER = {"xlabel": "sensitivity: share of predictions changed (last iterate)"}


def write_report(
    folder: Path, store: RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write one table, and for each data set, method, k and budget two figures.

    Args:
      folder: where to.
      store: the records.
      options: the flags of the run, or of the part of it that is reported.
      part: name of that part, which the tables' names then have.

    Returns:
      Paths of what was written, the table first.
    """
    paired = options.kind != "tabular"
    notes = (*_NOTES, *_OF_PAIRS) if paired else _NOTES
    part = f"_{part}" if part else ""
    chosen = store.select(
        dataset=options.datasets, method=options.methods, k=options.k,
        epsilon=options.epsilon, seed=options.seeds,
    )  # fmt: skip
    parts, written, everything = [], [], []
    for k in options.k:
        for epsilon in options.epsilon:
            here = [r for r in chosen if (r["k"], r["epsilon"]) == (k, epsilon)]
            derived = derive(here)
            everything += derived
            table = tables.pivot(
                [*here, *derived], rows=_ROWS, columns=_columns(k, paired)
            )
            suffix = _suffix(options, k, epsilon)
            path = folder / f"table{part}{suffix}.csv"
            write_text_atomic(path, tables.to_csv(table))
            written.append(path)
            lines = []
            for dataset in options.datasets:
                for method in options.methods:
                    group = [
                        r
                        for r in here
                        if (r["dataset"], r["method"]) == (dataset, method)
                    ]
                    tail = suffix
                    if len(options.methods) > 1:
                        tail = f"_{method}{suffix}"
                    line, paths = _figures(
                        folder, group, dataset, method, k, epsilon, tail
                    )
                    lines.append(line)
                    written += paths
            parts.append(
                f"## P@{k} against sensitivity, {options.norm} budget ε = {epsilon:g}"
                + "\n\n"
                + tables.to_markdown(table, notes=notes)
                + "\nThe attack *with constraint* is the knee of the front: with both "
                "axes scaled to the front's extent, the constrained attack nearest to "
                "the corner of no P@k and no sensitivity.\n\n" + "\n".join(lines) + "\n"
            )
    path = folder / f"table{part}.md"
    write_text_atomic(path, "\n".join(parts))
    return [path, *written]


def _suffix(options, k, epsilon):
    text = f"_k{k}" if len(options.k) > 1 else ""
    return text + (f"_eps{epsilon:g}" if len(options.epsilon) > 1 else "")


def _columns(k, paired):
    spec = tables.ColumnSpec
    named = (
        (f"P@{k} last", "p@k_last"),
        ("changed last", "sensitivity_last"),
        *(_OF_PARTS if paired else ()),
        (f"P@{k} best", "p@k"),
        ("changed best", "sensitivity"),
        ("class kept", "p@k_same_class"),
        ("KL/s", "objective_prediction"),
        ("‖δ−δ₀‖/ε", "difference"),
        (f"equal P@{k}", "equal_p@k"),
        ("changed there", "sensitivity_at_equal"),
        ("unconstrained there", "unconstrained_at_equal"),
    )
    columns = [spec(name, {"metric": metric}) for name, metric in named]
    return [*columns, spec("front", {"metric": "front"}, format=".1f")]


def derive(recorded: list[Record]) -> list[Record]:
    """Records that compare the attacks of one model: equal P@k, and the front.

    Args:
      recorded: measured records of one k and one budget.

    Returns:
      Records like these, with the metrics `equal_p@k`, `sensitivity_at_equal`,
      `unconstrained_at_equal` and `front` (1 on the front of its run, else 0).
    """
    runs: dict[tuple, dict[constrained.Variant, list[Record]]] = {}
    for record in recorded:
        run = tuple(record[name] for name in ("dataset", "method", "seed", "fold"))
        runs.setdefault(run, {}).setdefault(_variant(record), []).append(record)
    derived = []
    for members in runs.values():
        points = np.array([_point(records) for records in members.values()])
        front = pareto_mask(points, maximize=(False, False))
        base = _curve(members[constrained.UNCONSTRAINED])
        for on_front, (variant, records) in zip(front, members.items(), strict=True):
            cell = {k: v for k, v in records[0].items() if k != "note"}
            values = {"front": float(on_front)}
            if variant != constrained.UNCONSTRAINED:
                equal = constrained.at_equal_precision(*_curve(records), *base)
                values |= {
                    "equal_p@k": equal.level,
                    "sensitivity_at_equal": equal.sensitivity,
                    "unconstrained_at_equal": equal.other,
                }
            derived += [
                {**cell, "metric": metric, "value": value, "stderr": None}
                for metric, value in values.items()
            ]
    return derived


def _variant(record: Record) -> constrained.Variant:
    return constrained.Variant(
        record["weighting"], record["learning_rate"], record["ranking_weight"]
    )


def _curve(records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Mean P@k and sensitivity along the steps."""
    pair = []
    for metric in ("p@k_trace", "sensitivity_trace"):
        along: dict[int, list[float]] = {}
        for record in records:
            if record["metric"] == metric:
                along.setdefault(record["step"], []).append(number(record["value"]))
        pair.append(np.array([np.mean(along[step]) for step in sorted(along)]))
    return pair[0], pair[1]


def _point(records: list[Record]) -> tuple[float, float]:
    """Sensitivity and P@k of the last iterate, mean over what is given."""
    return tuple(
        float(np.mean([number(r["value"]) for r in records if r["metric"] == metric]))
        for metric in ("sensitivity_last", "p@k_last")
    )


def knee(points: np.ndarray) -> int:
    """The point of the Pareto front that is nearest to the ideal corner.

    Both axes are scaled to [0, 1] over the front, so that its two ends are at the
    distance 1 from the corner of the lowest sensitivity and the lowest P@k. The first
    one of several.

    Args:
      points: [m, 2], less is better; not finite ones never lie on the front.

    Returns:
      Index into points.

    Raises:
      ValueError: if no point is finite.
    """
    points = np.asarray(points, float)
    front = np.flatnonzero(pareto_mask(points, maximize=(False, False)))
    if not front.size:
        raise ValueError(f"no point is finite, got {points.tolist()}")
    low, high = points[front].min(axis=0), points[front].max(axis=0)
    scaled = (points[front] - low) / np.where(high > low, high - low, 1)
    return int(front[np.argmin(np.linalg.norm(scaled, axis=1))])


def with_constraint(points: dict[constrained.Variant, Any]) -> constrained.Variant:
    """The attack "with constraint": the knee of the front of all attacks.

    The unconstrained attack shapes the front as its end. Where it is its own knee, the
    knee of the constrained ones is taken.
    """
    names = list(points)
    chosen = names[knee(np.array([points[name] for name in names]))]
    if chosen == constrained.UNCONSTRAINED and len(names) > 1:
        names.remove(chosen)
        chosen = names[knee(np.array([points[name] for name in names]))]
    return chosen


def _figures(folder, group, dataset, method, k, epsilon, suffix):
    """Scatter with front, and curves along the iterations, means over seeds."""
    members: dict[constrained.Variant, list[Record]] = {}
    for record in group:
        members.setdefault(_variant(record), []).append(record)
    points = {variant: _point(records) for variant, records in members.items()}
    chosen = with_constraint(points)
    by_rule: dict[str, list] = {}
    for variant, point in points.items():
        by_rule.setdefault(variant.weighting, []).append(point)
    title = f"{dataset}, {method}: constrained attacks, ε = {epsilon:g}"
    figure = plots.front(
        {rule: tuple(np.array(places).T) for rule, places in by_rule.items()},
        maximize=(False, False),
        ylabel=f"P@{k} of the same inputs",
        title=title,
        **_SCATTER,
    )
    x, y = points[chosen]
    figure.axes[0].annotate(
        as_written(f"with constraint:\n{chosen.label}"),
        (x, y),
        xytext=(0.35, 0.6),
        textcoords="axes fraction",
        fontsize=9,
        arrowprops={"arrowstyle": "->", "color": "#444444"},
    )
    front_path = folder / f"front_{dataset}{suffix}.png"
    save_figure(front_path, figure)
    figure = plots.curves(
        {
            variant.label: (*reversed(_curve(members[variant])), None)
            for variant in _shown(points, chosen)
        },
        xlabel="sensitivity along the iterations",
        ylabel=f"P@{k} at the same iterate",
        title=title,
    )
    curve_path = folder / f"along_iterations_{dataset}{suffix}.png"
    save_figure(curve_path, figure)
    line = (
        f"- {dataset}, {method}: {chosen.label}, P@{k} {y:.3f} at sensitivity {x:.3f} "
        f"(unconstrained {points[constrained.UNCONSTRAINED][1]:.3f} at "
        f"{points[constrained.UNCONSTRAINED][0]:.3f})"
    )
    accuracy = [
        number(r["value"]) for r in group if r["metric"] == constrained.ACCURACY
    ]
    if accuracy:
        line += f"; single test inputs classified rightly: {np.mean(accuracy):.3f}"
    return line, [front_path, curve_path]


def _shown(points, chosen):
    """One variant of every rule for the curves: the chosen one, else the middle one."""
    by_rule: dict[str, list] = {}
    for variant in points:
        by_rule.setdefault(variant.weighting, []).append(variant)
    return [
        chosen if chosen in places else places[len(places) // 2]
        for places in by_rule.values()
    ]
