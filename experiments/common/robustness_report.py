"""The tables and figures of the robustness experiment, from its records alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.common import protocol, tables
from experiments.common.evaluation import STRONGEST
from experiments.common.output import save_figure, write_text_atomic
from experiments.common.records import RecordStore, number
from r2et_jax import attacks, plots

# The leading attack is the first of these that was run.
_LEADING = (STRONGEST, "er_surrogate")
_NOTES = (
    "P@k: share of the clean top-k features that stay in the top k, the lowest value "
    "among the inputs that the attack visited; mean over test inputs.",
    "P@k⁺ = (P@k − same)/(1 − same): corrected for the overlap between different "
    "inputs, which a model that ignores its input has too.",
    "P@k, class kept: the lowest value among inputs whose predicted class stayed.",
    "same: mean top-k overlap between different test inputs; 1 for a linear model.",
    "null: share of the squared gradient along directions in which the training data "
    "are constant; large values fix the ranking at unchanged predictions.",
    "R² lin: R² of the best linear fit of the logit; near 1 the network is given up.",
    "P@k noise: P@k under random noise of norm 1e-6; below 1 the clean inputs sit on "
    "kinks or ties.",
    "AUC: of clean test data. aAUC: of the attacked inputs. changed: share of inputs "
    "whose predicted class the attack changed.",
    "logistic: logistic regression, whose ranking cannot change: the price in AUC of "
    "giving up the network.",
)

_DESCRIPTIONS = {
    **attacks.DESCRIPTIONS,
    STRONGEST: "the lowest of an ensemble of goals, surrogates and restarts, input by "
    "input",
}


def write_report(folder: Path, store: RecordStore, common) -> list[Path]:
    """Write tables and figures for every k; returns their paths.

    The attack that leads is strongest, else er_surrogate, else the last one named.
    """
    leading = [name for name in _LEADING if name in common.attacks]
    main = leading[0] if leading else common.attacks[-1]
    budget = max(common.epsilon)
    written = []
    for k in common.k:
        suffix = f"_k{k}" if len(common.k) > 1 else ""
        written += _write_tables(folder, store, common, main, budget, k, suffix)
        written += _write_figures(folder, store, common, main, budget, k, suffix)
    return written


def summary(store: RecordStore, common, k: int) -> str:
    """The main columns at the main tolerance, for a terminal."""
    chosen = store.select(
        dataset=common.datasets,
        method=common.methods,
        k=k,
        tolerance=protocol.MAIN_TOLERANCE,
    )
    wanted = [name for name in ("er", *reversed(_LEADING)) if name in common.attacks]
    main = wanted[-1] if wanted else common.attacks[-1]
    budget = max(common.epsilon)
    columns = _columns(common, main, budget, k)
    shown = {"AUC", f"P@{k}⁺ {main}", "same", f"P@{k} {main}"}
    shown |= {f"P@{k} {name}" for name in wanted}
    table = tables.pivot(chosen, columns=[c for c in columns if c.name in shown])
    return (
        f"P@{k} under attack, l2 ≤ {budget:g}; mean ± standard error over seeds; same: "
        f"overlap between different inputs\n\n{tables.to_text(table)}"
    )


def _write_tables(folder, store, common, main, budget, k, suffix):
    written, parts = [], []
    for tolerance in protocol.TOLERANCES:
        chosen = store.select(
            dataset=common.datasets, method=common.methods, k=k, tolerance=tolerance
        )
        table = tables.pivot(chosen, columns=_columns(common, main, budget, k))
        name = f"table{suffix}"
        if tolerance != protocol.MAIN_TOLERANCE:
            name += f"_tolerance_{tolerance}"
        path = folder / f"{name}.csv"
        write_text_atomic(path, tables.to_csv(table))
        written.append(path)
        parts.append(
            f"## Top-{k} robustness, validation AUC within {tolerance} of vanilla's\n\n"
            f"l2 budget ε = {budget:g} on standardised inputs.\n\n"
            + tables.to_markdown(table, notes=_NOTES)
        )
    described = [f"- `{name}`: {_DESCRIPTIONS[name]}" for name in common.attacks]
    parts.append("## Attacks\n\n" + "\n".join(described) + "\n")
    path = folder / f"table{suffix}.md"
    write_text_atomic(path, "\n".join(parts))
    return [path, *written]


def _columns(common, main, budget, k):
    clean = {"attack": "none"}
    attacked = {"attack": main, "epsilon": budget}
    spec = tables.ColumnSpec
    columns = [spec("AUC", {"metric": "auc", **clean}, best="max")]
    columns += [
        spec(
            f"P@{k} {name}",
            {"metric": "p@k", "attack": name, "epsilon": budget},
            best="max",
        )
        for name in common.attacks
    ]
    return [
        *columns,
        spec(f"P@{k}⁺ {main}", {"metric": "p@k+", **attacked}, best="max"),
        spec(f"P@{k}, class kept", {"metric": "p@k_same_class", **attacked}),
        spec("same", {"metric": "same", **clean}),
        spec("null", {"metric": "null", **clean}),
        spec("R² lin", {"metric": "linear_r2", **clean}),
        spec(f"P@{k} noise", {"metric": "p@k", "attack": "noise"}),
        spec("aAUC", {"metric": "aauc", **attacked}),
        spec("changed", {"metric": "sensitivity", **attacked}),
    ]


def _write_figures(folder, store, common, main, budget, k, suffix):
    chosen = {
        "method": common.methods,
        "k": k,
        "tolerance": protocol.MAIN_TOLERANCE,
    }
    written = [
        _save(
            folder / f"p_at_k_by_method{suffix}.png",
            _bars(store, common, chosen, main, budget, k),
        )
    ]
    for dataset in common.datasets:
        here = {**chosen, "dataset": dataset, "attack": main}
        attack = _measured_on_a_grid(store, common, here)
        if attack is not None:
            filters = {**here, "attack": attack, "metric": "p@k"}
            figure = plots.curves(
                _series(store, common, filters, "epsilon"),
                xlabel="l2 budget ε",
                ylabel=f"P@{k}",
                title=f"{dataset}: P@{k} under {attack}",
            )
            path = folder / f"p_at_k_by_epsilon_{dataset}{suffix}.png"
            written.append(_save(path, figure))
        for attack in common.attacks:
            if attack in (main, STRONGEST, "er_surrogate"):
                kind = "budget" if attack == STRONGEST else f"iteration_{attack}"
                path = folder / f"p_at_k_by_{kind}_{dataset}{suffix}.png"
                filters = {**here, "attack": attack}
                figure = _progress(store, common, filters, budget, k, dataset)
                written.append(_save(path, figure))
    return written


def _measured_on_a_grid(store, common, here):
    """The leading attack among those that were run at several budgets, or None."""
    for attack in (*_LEADING, *reversed(common.attacks)):
        found = store.select(**{**here, "attack": attack, "metric": "p@k"})
        if len({record["epsilon"] for record in found}) > 1:
            return attack
    return None


def _save(path, figure):
    save_figure(path, figure)
    return path


def _progress(store, common, here, budget, k, dataset):
    """P@k along the effort of an attack."""
    attack = here["attack"]
    if attack == STRONGEST:
        metric, axis, start = "p@k_curve", "evaluations", None
        xlabel = "gradient evaluations for each input"
    else:
        metric, axis, start = "p@k_trace", "step_share", 1.0
        xlabel = "share of the attack's iterations"
    filters = {**here, "metric": metric, "epsilon": budget}
    return plots.curves(
        _series(store, common, filters, axis, start=start),
        xlabel=xlabel,
        ylabel=f"lowest P@{k} so far",
        title=f"{dataset}: P@{k} under {attack}, ε = {budget:g}",
    )


def _bars(store, common, chosen, main, budget, k):
    """P@k by method and data set under the main attack."""
    filters = {**chosen, "metric": "p@k", "attack": main, "epsilon": budget}
    values: dict[tuple[str, str], list[float]] = {}
    for record in store.select(**filters):
        key = record["method"], record["dataset"]
        values.setdefault(key, []).append(number(record["value"]))
    pairs = [
        [_mean(values[method, dataset]) for dataset in common.datasets]
        for method in common.methods
    ]
    means = [[pair[0] for pair in row] for row in pairs]
    errors = [[pair[1] for pair in row] for row in pairs]
    return plots.bars(
        common.methods,
        np.array(means),
        np.array(errors),
        groups=common.datasets,
        ylabel=f"P@{k} under {main}, ε = {budget:g}",
        title=f"How much of the top {k} survives, by method of training",
    )


def _series(store, common, filters, axis, *, start=None):
    """Method -> (x, mean over seeds, standard error) along a field of the records.

    A number as `start` is the value at 0, where nothing has happened yet.
    """
    found = store.select(**filters)
    series = {}
    for method in common.methods:
        values: dict[float, list[float]] = {}
        for record in found:
            if record["method"] == method:
                values.setdefault(record[axis], []).append(number(record["value"]))
        points = sorted(values)
        pairs = [_mean(values[point]) for point in points]
        if start is not None:
            points, pairs = [0.0, *points], [(start, 0.0), *pairs]
        series[method] = (
            np.array(points),
            np.array([pair[0] for pair in pairs]),
            np.array([pair[1] for pair in pairs]),
        )
    return series


def _mean(values):
    mean, error = tables.mean_and_stderr(values)
    return mean, 0.0 if np.isnan(error) else error
