"""Table and figure of certified against attacked P@k, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import output, records, tables
from experiments.common.evaluation import STRONGEST
from experiments.common.records import number
from r2et_jax import plots


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
    return written


def num_violations(found: list[dict[str, Any]]) -> tuple[int, int]:
    """Inputs with certified > attacked P@k, and inputs in all, over all cells."""
    counted = records.select(found, metric="violations")
    return sum(int(r["value"]) for r in counted), sum(r["n"] for r in counted)


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
    return (
        f"certified: P@{k} that holds at every input with ‖δ‖₂ ≤ ε, by interval and "
        "linear bounds of φ′; mean over inputs. all kept: share of inputs with "
        f"certified P@{k} = 1.",
        f"attacked: P@{k} under `strongest` at the same budget, of the same inputs and "
        "the same map.",
        f"certified > attacked at {violations} of {count} inputs; the theory asks for "
        "0.",
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
    """Mean over seeds; NaN where nothing was measured."""
    values = [
        number(record["value"])
        for record in records.select(
            found, method=method, metric=metric, epsilon=epsilon
        )
    ]
    return float(np.mean(values)) if values else float("nan")
