"""Tables of the attacked models, from records alone."""

from __future__ import annotations

from pathlib import Path

from experiments.attack.measure import fields_of
from experiments.report import tables


def write_report(folder, store, subjects, options) -> list[Path]:
    """Write and print a table for every k; returns the paths."""
    sizes = sorted({k for subject in subjects for k in subject.k})
    written = []
    folds = any(subject.data.view.kind == "graph" for subject in subjects)
    keys = "dataset", *["fold"] * folds, "method", "seed", "tolerance", "params"
    for k in sizes:
        here = [subject for subject in subjects if k in subject.k]
        epsilon = tuple(dict.fromkeys(e for subject in here for e in subject.epsilon))
        options = options._replace(epsilon=epsilon)
        cells = []
        for subject in here:
            fields = fields_of(subject, k, options.experiment)
            # Two folders may hold one model.
            if fields not in cells:
                cells.append(fields)
        recorded = [
            {**record, "params": record["params_sha256"][:8]}
            for fields in cells
            for record in store.select(**fields)
        ]
        main = _columns(options, k)
        table = tables.pivot(
            recorded,
            rows=keys,
            columns=[*main, *_of_attacks("changed", "sensitivity", options)],
        )
        name = f"table_k{k}" if len(sizes) > 1 else "table"
        tables.write_table(folder, table, name=name)
        written += [folder / f"{name}.md", folder / f"{name}.csv"]
        shown = [row[: len(main)] for row in table.cells]
        print(tables.to_text(table._replace(columns=tuple(main), cells=shown)), end="")
    return written


def _columns(options, k: int) -> list[tables.ColumnSpec]:
    spec = tables.ColumnSpec
    return [
        spec("AUC", {"metric": "auc", "attack": "none"}),
        spec("same", {"metric": "same", "attack": "none"}),
        *_of_attacks(f"P@{k}", "p@k", options),
    ]


def _of_attacks(heading, metric, options):
    return [
        tables.ColumnSpec(
            f"{heading} {name} ε={epsilon:g}",
            {"metric": metric, "attack": name, "epsilon": epsilon},
        )
        for name in options.attacks
        for epsilon in options.epsilon
    ]
