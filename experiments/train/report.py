"""The tables of the trained models, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.report import tables
from experiments.store.records import RecordStore


def write_report(folder: Path, store: RecordStore, sizes: Sequence[int]) -> None:
    """Write and print a table for every k."""
    for k in sizes:
        table = tables.pivot(
            store.select(k=k),
            rows=("dataset", "method", "seed", "tolerance"),
            columns=_columns(k),
        )
        suffix = f"_k{k}" if len(sizes) > 1 else ""
        tables.write_table(folder, table, name=f"table{suffix}")
        print(tables.to_text(table), end="")


def _columns(k):
    spec = tables.ColumnSpec
    return [
        spec("AUC", {"metric": "auc"}),
        spec("valid AUC", {"metric": "valid_auc"}),
        spec(f"valid P@{k}", {"metric": "valid_p@k"}),
        spec("epoch", {"metric": "epoch"}, format=".0f"),
        spec("fallback", {"metric": "fallback"}, format=".0f"),
        spec("s/epoch", {"metric": "train_seconds"}, format=".2g"),
    ]
