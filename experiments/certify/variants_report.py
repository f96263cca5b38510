"""Table and figure of the ways to certify: certified P@k against seconds."""

from __future__ import annotations

from pathlib import Path

from experiments.certify import lirpa
from experiments.certify.variants import CERTIFIED, SECONDS, VARIANT
from experiments.report import tables
from experiments.store import output, records
from r2et_jax import plots


def _left_out(recorded) -> list[str]:
    named = {record["method"] for record in recorded if record[VARIANT] == lirpa.NAME}
    without = sorted({record["method"] for record in recorded} - named)
    if not without:
        return []
    return [
        f"{lirpa.NAME} is left out for {', '.join(without)}: it is not installed, or "
        "has no rule for the derivative of that network's activation."
    ]


def write_report(
    folder: Path, store: records.RecordStore, dataset: str, k: int, suffix: str
) -> list[Path]:
    """Table and figure of the variants of a data set, where they were measured."""
    recorded = [
        record for record in store.select(dataset=dataset, k=k) if VARIANT in record
    ]
    if not recorded:
        return []
    written = []
    epsilon = recorded[0]["epsilon"]
    columns = [
        tables.ColumnSpec("certified", {"metric": CERTIFIED}, best="max"),
        tables.ColumnSpec("s an input", {"metric": SECONDS}, best=None),
    ]
    notes = (
        f"P@{k} that holds over ‖δ‖₂ ≤ {epsilon:g}, by the ways in which it is "
        "bounded; seconds on this machine, after compilation, several inputs at a "
        "time.",
        "better of three slopes: pair by pair, of intervals, chords and best slope.",
        *_left_out(recorded),
    )
    name = f"variants_{dataset}{suffix}"
    table = tables.pivot(recorded, rows=("method", VARIANT), columns=columns)
    tables.write_table(folder, table, notes=notes, name=name)
    written += [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    points = {}
    for record in records.select(recorded, metric=CERTIFIED):
        where = {n: record[n] for n in ("method", "seed", VARIANT)}
        (spent,) = records.select(recorded, metric=SECONDS, **where)
        label = record[VARIANT]
        points.setdefault(label, ([], []))
        points[label][0].append(spent["value"])
        points[label][1].append(record["value"])
    path = folder / f"{name}.png"
    figure = plots.scatter(
        points,
        xlabel="seconds an input",
        ylabel=f"certified P@{k}",
        title=f"{dataset}: ways to bound, ε = {epsilon:g}",
        xscale="log",
    )
    output.save_figure(path, figure)
    return [*written, path]
