"""Measured numbers as JSON lines that survive a kill at any byte.

A *cell* is what an experiment measures in one go and appends with one call: one
record or many. Each record carries `cell_left`, the number of records of its cell
that still follow; the last one says 0. A cell is therefore complete exactly when its
0 was written, and whatever stands after the last 0 is the torn end of a killed run.
The last one also carries `cell_sha256`, over the lines of its cell, so that no number
changes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.store.output import naming, write_text_atomic

Record = dict[str, Any]

REQUIRED = (
    "experiment", "dataset", "model", "method", "schedule", "seed", "fold",
    "attack", "epsilon", "k", "metric", "value", "stderr", "n",
)  # fmt: skip
# Fields by which records are found without a search through all of them.
_INDEXED = ("dataset", "method", "seed", "attack", "epsilon")
_DATA = "data_sha256"
_SHA256 = "cell_sha256"
# Set by the store.
BOOKKEEPING = frozenset({"cell_left", _SHA256})
MEASURED = frozenset({"value", "stderr", "n", "note", "values"}) | BOOKKEEPING


class RecordStore:
    """The records of one experiment, in memory and in a file of JSON lines.

    Opening it drops the torn end that a kill may have left in the file. Records come
    back as they stand in the file: a number that was not finite is None and `note`
    says what it was.

    Args:
      path: the file, which need not exist yet; its folder must.
      data: (data set, fold) -> SHA-256 of its data, which records of them carry as
        `data_sha256`.
      repair: whether to drop a torn end from the file too, which only the run itself
        may do.

    Raises:
      ValueError: if a line is corrupt (other than a torn last one) or of other data,
        names the line.

    Example:
      >>> store = RecordStore(output_dir / "records.jsonl")
      >>> for seed in seeds:
      ...     if not store.has(dataset="adult", method="r2et", seed=seed):
      ...         store.append(measure(seed))  # a record, or all records of the cell
      >>> store.select(metric="p@k", attack=("er", "mse"))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data: Mapping[tuple[str, int | None], str] | None = None,
        repair: bool = True,
    ):
        self.path = Path(path)
        self._data = dict(data or {})
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
            sha256 = self._data_sha256(record)
            if record.get(_DATA, sha256) != sha256 is not None:
                raise ValueError(
                    f"{self.path}, line {number} is of other data of "
                    f"{record['dataset']}: SHA-256 {record[_DATA][:12]}…, now "
                    f"{sha256[:12]}…"
                )
        self._add_to_index(self._records)
        if torn and repair:
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
        candidates = self._records
        if all(name in cell for name in _INDEXED):
            candidates = self._index.get(_index_key(cell), [])
        return any(_matches(record, cell) for record in candidates)

    def _data_sha256(self, record: Mapping[str, Any]) -> str | None:
        return self._data.get((record["dataset"], record["fold"]))

    def _of_data(self, record: Mapping[str, Any]) -> dict[str, str]:
        sha256 = self._data_sha256(record)
        return {} if sha256 is None else {_DATA: sha256}

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
            {
                **_checked(record),
                **self._of_data(record),
                "cell_left": len(cell) - 1 - position,
            }
            for position, record in enumerate(cell)
        ]
        cell[-1][_SHA256] = _digest(cell)
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


def _digest(cell: list[Record]) -> str:
    """Of a whole cell: 16 hex digits tell chance damage."""
    lines = ({n: v for n, v in r.items() if n != _SHA256} for r in cell)
    return hashlib.sha256("".join(map(_line, lines)).encode()).hexdigest()[:16]


def _checked(record: Mapping[str, Any]) -> Record:
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise ValueError(
            f"a record must have the fields {', '.join(REQUIRED)}; missing: "
            f"{', '.join(missing)} in {dict(record)}"
        )
    for key in BOOKKEEPING & record.keys():
        raise ValueError(f"the field {key} is set by the store; leave it out")
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
    if not path.is_file():
        raise ValueError(f"{path} is not a file; choose another --output_dir")
    *lines, tail = path.read_bytes().split(b"\n")
    records, left, start = [], 0, 0
    for position, line in enumerate([*lines, tail] if tail else lines):
        torn_line = position == len(lines)  # without a newline at its end
        try:
            record = _read_line(line)
        except ValueError as error:
            if torn_line and not _is_foreign(line):
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
        if left == 0:
            cell, start = records[start:], len(records)
            if record.get(_SHA256) not in (None, _digest(cell)):
                raise ValueError(
                    f"{path}, lines {start - len(cell) + 1} to {start} do not match "
                    f"their {_SHA256}: restore or delete them, or choose another "
                    "--output_dir"
                )
    last = max((i for i, r in enumerate(records) if r["cell_left"] == 0), default=-1)
    return records[: last + 1], bool(tail) or last + 1 < len(records)


def _read_line(line: bytes) -> Record:
    """The record of a line; ValueError says what is wrong with it."""
    try:
        record = json.loads(line, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    missing = [key for key in (*REQUIRED, "cell_left") if key not in record]
    if missing:
        raise ValueError(f"missing fields: {', '.join(missing)}")
    for key, value in record.items():
        expected = _FIELDS.get(key, _SCALAR)
        if not expected.holds(value):
            raise ValueError(f"{key} must be {expected.words}, got {_shortened(value)}")
    return record


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_foreign(tail: bytes) -> bool:
    """Whether a last line without its newline is none of ours that a kill has torn.

    We never write a carriage return, nor anything before or behind a record in its
    line.
    """
    if b"\r" in tail or not tail.startswith(b"{"):
        return True
    try:
        text = tail.decode()
        return bool(text[json.JSONDecoder().raw_decode(text)[1] :].strip())
    except (ValueError, RecursionError):
        return False


class _Expected(NamedTuple):
    """What a field of a record must be, in words, and whether a value is it."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_SCALAR = _Expected(
    "text, a finite number, a boolean or null",
    lambda value: value is None or isinstance(value, str | bool) or _is_number(value),
)
_TEXT = _Expected("text", lambda value: isinstance(value, str))
_NUMBER = _Expected("a number or null", lambda v: v is None or _is_number(v))
_FIELDS = {
    **dict.fromkeys(("experiment", "dataset", "metric", _DATA, _SHA256), _TEXT),
    **dict.fromkeys(("value", "stderr", "epsilon"), _NUMBER),
    **dict.fromkeys(
        ("n", "cell_left"), _Expected("an integer of at least 0", _is_count)
    ),
    "values": _Expected(
        "a list of numbers or null",
        lambda values: isinstance(values, list) and all(map(_NUMBER.holds, values)),
    ),
}


def _append_bytes(path: Path, data: bytes) -> None:
    with naming(path), open(path, "ab", buffering=0) as file:
        start = file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # disk full, interrupt: leave no torn line behind
            file.truncate(start)
            raise
