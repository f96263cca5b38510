"""Measured numbers as JSON lines that survive a kill at any byte.

A *cell* is what an experiment measures in one go and appends with one call: one
record or many. Each record carries `cell_left`, the number of records of its cell
that still follow; the last one says 0. A cell is therefore complete exactly when its
0 was written, and whatever stands after the last 0 is the torn end of a killed run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.common.output import write_text_atomic

Record = dict[str, Any]

REQUIRED = (
    "experiment", "dataset", "model", "method", "schedule", "seed", "fold",
    "attack", "epsilon", "k", "metric", "value", "stderr", "n",
)  # fmt: skip
# Fields by which records are found without a search through all of them.
_INDEXED = ("dataset", "method", "seed", "attack", "epsilon")
MEASURED = frozenset({"value", "stderr", "n", "note", "cell_left", "values"})


class RecordStore:
    """The records of one experiment, in memory and in a file of JSON lines.

    Opening it drops the torn end that a kill may have left in the file. Records come
    back as they stand in the file: a number that was not finite is None and `note`
    says what it was.

    Args:
      path: the file, which need not exist yet; its folder must.

    Raises:
      ValueError: if a line is corrupt (other than a torn last one), names the line.

    Example:
      >>> store = RecordStore(output_dir / "records.jsonl")
      >>> for seed in seeds:
      ...     if not store.has(dataset="adult", method="r2et", seed=seed):
      ...         store.append(measure(seed))  # a record, or all records of the cell
      >>> store.select(metric="p@k", attack=("er", "mse"))
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._records: list[Record] = []
        self._identities: set[frozenset] = set()
        self._index: dict[tuple, list[Record]] = {}
        if not self.path.exists():
            return
        self._records, torn = _parse(self.path)
        for number, record in enumerate(self._records, start=1):
            identity = _identity(record)
            if identity in self._identities:
                raise ValueError(
                    f"{self.path}, line {number}: repeats an earlier record; did two "
                    "runs write to the same --output_dir at once?"
                )
            self._identities.add(identity)
        self._add_to_index(self._records)
        if torn:
            write_text_atomic(self.path, "".join(map(_line, self._records)))

    def __len__(self) -> int:
        return len(self._records)

    def select(self, **filters: Any) -> list[Record]:
        """Return the records whose fields equal the filters, in the file's order.

        A tuple, list or set as a filter admits any of its members.
        """
        return select(self._records, **filters)

    def has(self, **cell: Any) -> bool:
        """Say whether a complete cell with these fields was recorded; all scalars."""
        found = self._records
        if all(name in cell for name in _INDEXED):
            found = self._index.get(_index_key(cell), [])
        return any(_matches(record, cell) for record in found)

    def _add_to_index(self, records: Iterable[Record]) -> None:
        for record in records:
            self._index.setdefault(_index_key(record), []).append(record)

    def append(self, records: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Append one cell: a record or all of its records; on disk on return.

        Args:
          records: flat objects with at least the fields `REQUIRED`; values are text,
            numbers, booleans or None (NumPy and JAX scalars are converted), but for
            `values`, the list of finite numbers or None behind a mean. `seed`,
            `fold`, `epsilon`, `k`, `stderr` may be None where they mean nothing; a
            `value` may be None with a `note`. NaN and infinities become None and are
            named in `note`.

        Raises:
          ValueError: missing fields, values that are not scalars, an empty cell, or
            a record that was recorded before (same fields except value, stderr, n).
        """
        cell = [records] if isinstance(records, Mapping) else list(records)
        if not cell:
            raise ValueError("a cell must hold at least one record, got none")
        cell = [
            {**_checked(record), "cell_left": len(cell) - 1 - position}
            for position, record in enumerate(cell)
        ]
        identities = set(map(_identity, cell))
        if len(identities) < len(cell) or identities & self._identities:
            raise ValueError(
                "a record with the same fields was recorded before (value, stderr, n "
                f"and note aside): ask has(...) first; the cell begins with {cell[0]}"
            )
        _append_bytes(self.path, "".join(map(_line, cell)).encode("ascii"))
        self._records += cell
        self._add_to_index(cell)
        self._identities |= identities


def select(records: Iterable[Record], **filters: Any) -> list[Record]:
    """Return the records whose fields equal the filters (see `RecordStore.select`)."""
    return [record for record in records if _matches(record, filters)]


def number(value: float | None) -> float:
    """Return a record's number as a float: what was not finite, or unknown, is NaN."""
    return math.nan if value is None else float(value)


def _matches(record: Record, filters: Mapping[str, Any]) -> bool:
    for key, wanted in filters.items():
        if key not in record:
            return False
        if isinstance(wanted, (tuple, list, set, frozenset)):
            if record[key] not in wanted:
                return False
        elif record[key] != wanted:
            return False
    return True


def _index_key(fields: Mapping[str, Any]) -> tuple:
    return tuple(fields[name] for name in _INDEXED)


def _identity(record: Record) -> frozenset:
    return frozenset((k, v) for k, v in record.items() if k not in MEASURED)


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _checked(record: Mapping[str, Any]) -> Record:
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise ValueError(
            f"a record must have the fields {', '.join(REQUIRED)}; missing: "
            f"{', '.join(missing)} in {dict(record)}"
        )
    if "cell_left" in record:
        raise ValueError("the field cell_left is set by the store; leave it out")
    result, notes = {}, [record["note"]] if record.get("note") else []
    for key, value in record.items():
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()
        if key == "values":
            result[key] = _checked_values(value)
            continue
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(
                f"a record is flat: {key} must be text, a number, a boolean or None, "
                f"got {value!r} of type {type(value).__name__}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            notes.append(f"{key} is {value}")
            value = None
        result[key] = value
    for key in ("value", "stderr", "n"):
        if isinstance(result[key], (str, bool)):
            raise ValueError(f"{key} must be a number, got {result[key]!r}")
    if not isinstance(result["n"], int) or result["n"] < 0:
        raise ValueError(f"n must be a nonnegative integer, got {record['n']!r}")
    if result["value"] is None and not notes:
        raise ValueError("a record whose value is None must say why in its `note`")
    if notes:
        result["note"] = "; ".join(notes)
    return result


def _checked_values(values: Any) -> list[float | None]:
    """The numbers behind a mean, a number that is not finite as None."""
    if not isinstance(values, list):
        raise ValueError(f"values must be a list of numbers or None, got {values!r}")
    for value in values:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float))
        ):
            raise ValueError(
                f"values must be a list of numbers or None, got {value!r} in it"
            )
    return [None if v is None or not math.isfinite(v) else v for v in values]


def _parse(path: Path) -> tuple[list[Record], bool]:
    """Return the records of all complete cells, and whether the file needs repair."""
    *lines, tail = path.read_bytes().split(b"\n")
    records, left = [], 0
    for position, line in enumerate([*lines, tail] if tail else lines):
        torn_line = position == len(lines)  # without a newline at its end
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            missing = [k for k in (*REQUIRED, "cell_left") if k not in record]
            if missing:
                raise ValueError(f"missing fields: {', '.join(missing)}")
        except ValueError as error:
            if torn_line:
                break
            raise ValueError(
                f"{path}, line {position + 1} is corrupt ({error}); repair or delete "
                "the line, or choose another --output_dir"
            ) from error
        if left and record["cell_left"] != left - 1:
            raise ValueError(
                f"{path}, line {position + 1} is corrupt: cell_left is "
                f"{record['cell_left']}, expected {left - 1}; restore the missing "
                "lines or delete the rest of their cell"
            )
        left = record["cell_left"]
        records.append(record)
    last = max((i for i, r in enumerate(records) if r["cell_left"] == 0), default=-1)
    return records[: last + 1], bool(tail) or last + 1 < len(records)


def _append_bytes(path: Path, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        start = file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # disk full, interrupt: leave no torn line behind
            file.truncate(start)
            raise
