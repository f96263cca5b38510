"""Table and figure of certified against attacked P@k, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.loop import runs
from experiments.measures.evaluation import STRONGEST
from experiments.models.fitting import LOGISTIC
from experiments.report import tables
from experiments.store import output, records
from r2et_jax import plots

# Of the top k, certified: more than this says something.
_HALF = 0.5


def write_report(folder: Path, store: records.RecordStore, common) -> list[Path]:
    """Write table.md, table.csv and a figure for each data set; returns their paths."""
    written = []
    for k in common.k:
        suffix = f"_k{k}" if len(common.k) > 1 else ""
        chosen = {"dataset": common.datasets, "method": common.methods, "k": k}
        found = store.select(**chosen)
        table = tables.pivot(found, columns=_columns(common.epsilon))
        tables.write_table(folder, table, notes=_notes(found, k), name=f"table{suffix}")
        written += [folder / f"table{suffix}.{kind}" for kind in ("md", "csv")]
        for dataset in common.datasets:
            path = folder / f"certified_{dataset}{suffix}.png"
            here = records.select(found, dataset=dataset)
            output.save_figure(path, _figure(here, dataset, k, common))
            written.append(path)
    exhibited = runs.write_exhibit(
        folder,
        store,
        [common],
        written,
        title="What of the robustness is provable",
        questions=QUESTIONS,
        figures={
            "certified": "P@k against the budget, attacked (above) and certified "
            "(below), method by method."
        },
    )
    return [*written, exhibited]


def num_violations(found: list[dict[str, Any]]) -> tuple[int, int]:
    """Inputs with certified > attacked P@k, and inputs in all, over all cells."""
    counted = records.select(found, metric="violations")
    return sum(int(r["value"]) for r in counted), sum(r["n"] for r in counted)


def num_mismatched(found: list[dict[str, Any]]) -> int:
    """Inputs whose layers are not those of the model, over all cells."""
    counted = records.select(found, metric="mismatched")
    return sum(int(r["value"]) for r in counted)


def _sound(store, dataset, common):
    found = store.select(dataset=dataset, method=common.methods, k=common.k)
    violations, count = num_violations(found)
    return violations == 0, f"{dataset} {violations} of {count}"


def _not_vacuous(store, dataset, common):
    """At the largest budget, the best method but for linear models."""
    budget = max(common.epsilon)
    where = {"dataset": dataset, "k": common.k[0], "metric": "certified_p@k"}
    found = store.select(**where, epsilon=budget)
    each = {
        method: runs.of_records(records.select(found, method=method))
        for method in common.methods
        if method != LOGISTIC
    }
    if not each:
        return None
    finite = {m: value for m, value in each.items() if value.mean == value.mean}
    if not finite:
        return None
    best = max(finite, key=lambda method: finite[method].mean)
    shown = ", ".join(f"{m} {runs.shown(value)}" for m, value in each.items())
    return runs.above(each[best], _HALF), f"{dataset}, ε = {budget:g}: {shown}"


QUESTIONS = (
    runs.Question(
        "The certificates are sound: none promises more than the strongest attack "
        "leaves.",
        "inputs and budgets with certified above attacked P@k: 0",
        _sound,
        "An error in the bounds, or in the arithmetic of float32.",
        exact=True,
        ours=True,
        figure="certified",
    ),
    runs.Question(
        "The certificates are not vacuous (the papers' bounds stay theory).",
        f"certified P@k of the best method at the largest budget, above {_HALF}",
        _not_vacuous,
        "No method here was trained for its certificate: without that, bounds of the "
        "curvature over the whole ball are wide.",
        ours=True,
        figure="certified",
    ),
)


def _columns(budgets) -> list[tables.ColumnSpec]:
    columns = [tables.ColumnSpec("AUC", {"metric": "auc"})]
    for epsilon in budgets:
        at = {"attack": STRONGEST, "epsilon": epsilon}
        for name, metric in (
            ("certified", "certified_p@k"),
            ("attacked", "p@k"),
            ("all kept", "certified_share"),
        ):
            best = None if metric == "p@k" else "max"
            columns.append(
                tables.ColumnSpec(
                    f"{name}, ε = {epsilon:g}", {"metric": metric, **at}, best=best
                )
            )
    return columns


def _notes(found, k: int) -> tuple[str, ...]:
    violations, count = num_violations(found)
    mismatched = num_mismatched(found)
    return (
        f"certified: P@{k} that holds at every input with ‖δ‖₂ ≤ ε, by interval and "
        "linear bounds of φ′; mean over inputs. all kept: share of inputs with "
        f"certified P@{k} = 1.",
        f"attacked: P@{k} under `strongest` at the same budget, of the same inputs and "
        "the same map.",
        f"certified > attacked at {violations} of {count} inputs; the theory asks for "
        "0.",
        *(
            [
                f"At {mismatched} of {count} inputs the layers are not those of the "
                "model: nothing is certified there."
            ]
            if mismatched
            else []
        ),
    )


def _figure(found, dataset: str, k: int, common):
    series = {}
    budgets = sorted(common.epsilon)
    for method in common.methods:
        lines = [
            [_mean(found, method, metric, epsilon) for epsilon in budgets]
            for metric in ("p@k", "certified_p@k")
        ]
        series[method] = (budgets, *lines)
    return plots.paired_curves(
        series,
        names=(f"attacked ({STRONGEST})", "certified"),
        xlabel="l2 budget ε",
        ylabel=f"P@{k}",
        title=f"{dataset}: certified and attacked P@{k}",
    )


def _mean(found, method, metric, epsilon) -> float:
    """Mean over runs; NaN where nothing was measured."""
    where = {"method": method, "metric": metric, "epsilon": epsilon}
    return runs.of_records(records.select(found, **where)).mean
