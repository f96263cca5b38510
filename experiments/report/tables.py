"""Tables from records alone: rows by key, columns by filter, mean ± standard error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.statistics import MISSING as MISSING
from experiments.report.statistics import of_records, shown
from experiments.store.output import write_text_atomic
from experiments.store.records import Record, select
from r2et_jax.metrics.statistics import Estimate


class ColumnSpec(NamedTuple):
    """One column of numbers.

    Attributes:
      name: its heading.
      filters: fields of the records that it shows, as in `RecordStore.select`.
      format: of the mean and its error, such as ".3f" or ".1%".
      best: "max" or "min" prints the best of each group of rows in bold.
    """

    name: str
    filters: Mapping[str, Any]
    format: str = ".3f"
    best: str | None = None


class Table(NamedTuple):
    """A pivoted table; `cells[r][c]` is None where nothing was measured."""

    keys: tuple[str, ...]
    rows: list[tuple]
    columns: tuple[ColumnSpec, ...]
    cells: list[list[Estimate | None]]


def pivot(
    records: Iterable[Record],
    *,
    rows: Sequence[str] = ("dataset", "method"),
    columns: Sequence[ColumnSpec],
) -> Table:
    """Average records over seeds and folds into a table.

    Args:
      records: as a `RecordStore` returns them.
      rows: the fields that make a row; ordered by first appearance, left to right.
      columns: see `ColumnSpec`.

    Raises:
      ValueError: if a cell holds two records of one seed and fold, names the fields in
        which they differ: a mean over attacks or budgets is never taken by accident.

    Example:
      >>> table = pivot(store.select(), columns=[
      ...     ColumnSpec("P@8, ERAttack", dict(metric="p@k", attack="er", k=8)),
      ... ])
    """
    for column in columns:
        if column.best not in (None, "max", "min"):
            raise ValueError(f"best must be max, min or None, got {column.best!r}")
    groups: dict[tuple, dict[int, list[Record]]] = {}
    ranks: list[dict[Any, int]] = [{} for _ in rows]
    records = list(records)
    for index, column in enumerate(columns):
        for record in select(records, **column.filters):
            key = tuple(record[name] for name in rows)
            groups.setdefault(key, {}).setdefault(index, []).append(record)
    for record in records:
        for rank, name in zip(ranks, rows, strict=True):
            rank.setdefault(record.get(name), len(rank))
    order = sorted(
        groups, key=lambda key: [rank[v] for rank, v in zip(ranks, key, strict=True)]
    )
    cells = [
        [
            _cell(groups[key][index], where=(key, column.name))
            if index in groups[key]
            else None
            for index, column in enumerate(columns)
        ]
        for key in order
    ]
    return Table(tuple(rows), order, tuple(columns), cells)


def to_markdown(
    table: Table,
    *,
    notes: Sequence[str] = (),
    marks: Mapping[tuple[tuple, str], str] | None = None,
) -> str:
    """Return a Markdown table; below it, how its errors arise, and then the notes.

    Args:
      table: see `pivot`.
      notes: further lines below it.
      marks: (row, name of a column) -> a mark that is written behind this cell.
    """
    marks = marks or {}
    heads = [*table.keys, *(column.name for column in table.columns)]
    text = [
        _shown_row(heads),
        _shown_row(["---"] * len(table.keys) + ["---:"] * len(table.columns)),
    ]
    bold = _bold(table)
    for r, key in enumerate(table.rows):
        shown = [
            _marked(
                _shown(cell, column.format, (r, c) in bold),
                marks.get((key, column.name), ""),
            )
            for c, (cell, column) in enumerate(
                zip(table.cells[r], table.columns, strict=True)
            )
        ]
        text.append(
            _shown_row([*(MISSING if v is None else str(v) for v in key), *shown])
        )
    footnotes = [*_automatic_notes(table), *notes]
    if footnotes:
        text += ["", *(f"- {note}" for note in footnotes)]
    return "\n".join(text) + "\n"


def to_text(table: Table) -> str:
    """Return a table for a terminal: aligned columns, no footnotes."""
    lines = [[*table.keys, *(column.name for column in table.columns)]]
    for key, cells in zip(table.rows, table.cells, strict=True):
        shown = [
            _shown(cell, column.format, False)
            for cell, column in zip(cells, table.columns, strict=True)
        ]
        lines.append([*(MISSING if v is None else str(v) for v in key), *shown])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            item.ljust(width) if i < len(table.keys) else item.rjust(width)
            for i, (item, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def to_csv(table: Table) -> str:
    """Return CSV in full precision, six numbers a column."""
    parts = ("mean", "stderr", "n", "over", "runs", "num_nonfinite")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            *table.keys,
            *(f"{column.name} {p}" for column in table.columns for p in parts),
        ]
    )
    for key, cells in zip(table.rows, table.cells, strict=True):
        numbers: list[Any] = []
        for cell in cells:
            numbers += (
                [""] * len(parts) if cell is None else [getattr(cell, p) for p in parts]
            )
        writer.writerow([*("" if v is None else v for v in key), *numbers])
    return buffer.getvalue()


def write_table(
    output_dir: Path, table: Table, *, notes: Sequence[str] = (), name: str = "table"
) -> None:
    """Write name.md and name.csv."""
    write_text_atomic(output_dir / f"{name}.md", to_markdown(table, notes=notes))
    write_text_atomic(output_dir / f"{name}.csv", to_csv(table))


def _cell(records: list[Record], *, where: tuple) -> Estimate:
    try:
        return of_records(records)
    except ValueError as error:
        raise ValueError(
            f"row {where[0]}, column {where[1]!r}: {error}; add this to the rows or to "
            "the filters"
        ) from error


def _bold(table: Table) -> set[tuple[int, int]]:
    """Best cells among the rows that share all keys but the last, ties as printed."""
    best = set()
    for c, column in enumerate(table.columns):
        groups: dict[tuple, list[tuple[float, int]]] = {}
        for r, key in enumerate(table.rows):
            cell = table.cells[r][c]
            if column.best and cell is not None and not cell.num_nonfinite:
                groups.setdefault(key[:-1], []).append((cell.mean, r))
        for members in groups.values():
            top = (max if column.best == "max" else min)(mean for mean, _ in members)
            shown = format(top, column.format)
            if len(members) > 1:
                best |= {
                    (r, c) for m, r in members if format(m, column.format) == shown
                }
    return best


def _shown(cell: Estimate | None, spec: str, bold: bool) -> str:
    text = shown(cell, spec)
    if not bold:
        return text
    mean, *error = text.split(" ± ")
    return " ± ".join([f"**{mean}**", *error])


def _marked(text: str, mark: str) -> str:
    return f"{text} {mark}" if mark else text


def _shown_row(items: Sequence[str]) -> str:
    return "| " + " | ".join(item.replace("|", "\\|") for item in items) + " |"


def _automatic_notes(table: Table) -> list[str]:
    cells = [cell for row in table.cells for cell in row if cell is not None]
    notes = []
    for over in ("seeds", "folds", "inputs"):
        counts = {cell.n for cell in cells if cell.over == over}
        if not counts:
            continue
        low, high = min(counts), max(counts)
        shown = str(low) if low == high else f"{low}–{high}, see the CSV file"
        note = f"± is the standard error over {over} (n = {shown})"
        if over == "inputs":
            note += " where there is a single run: it does not hold the spread of seeds"
        notes.append(note + ".")
    if len(notes) > 1:
        notes.append("The CSV file says for each number which of these holds.")
    if any(cell.num_nonfinite for cell in cells):
        notes.append(f"{MISSING} (a/b): a of b runs have no finite value.")
    if any(cell is None for row in table.cells for cell in row):
        notes.append(f"{MISSING}: not measured.")
    if _bold(table):
        group = ", ".join(table.keys[:-1])
        notes.append("Bold: the best mean" + (f" for each {group}." if group else "."))
    return notes
