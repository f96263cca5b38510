"""Checkpoints from which training goes on after a kill, as if nothing had happened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.files import is_at
from r2et_jax.training.checkpoint import (
    checkpointer_of_orbax,
    files_sha256,
    write_text,
)
from r2et_jax.training.packing import Spec, pack, spec, unpack

try:
    import fcntl
except ImportError:  # Windows: there one process at a time may train one thing
    fcntl = None

_NAME = "save-"
_PARTIAL = ".partial-"  # not yet whole, or no longer
_LOCK = ".lock"
_RECORD = "checkpoint.json"
_ARRAYS = "arrays"


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      epoch: as given to `Checkpoints.save`.
      state: the pytree, bit by bit; NumPy arrays, and random keys.
      extra: the JSON object.
    """

    epoch: int
    state: Any
    extra: dict[str, Any]


class Checkpoints:
    """The last few states of one training run, in a folder.

    A checkpoint appears whole or not at all, and SHA-256 sums over the arrays and over
    the record beside them tell a damaged one. Processes that train the same thing at
    the same time take turns.

    Args:
      folder: where the checkpoints are; made by the first save.
      config: JSON object, all that the training depends on, the data's fingerprint
        included.
      keep: how many checkpoints are kept, at least 1.

    Raises:
      ValueError: if the folder holds checkpoints of another configuration; every entry
        that differs is named. They are left as they are.

    Example:
      >>> import tempfile
      >>> checkpoints = Checkpoints(tempfile.mkdtemp(), config={"rate": 0.1})
      >>> checkpoints.save(3, {"w": np.ones(2)}, extra={"losses": [0.5]})
      >>> checkpoints.restore({"w": np.zeros(2)})
      Restored(epoch=3, state={'w': array([1., 1.])}, extra={'losses': [0.5]})
      >>> checkpoints.delete()
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, config: dict[str, Any], keep: int = 2
    ):
        check_count("keep", keep)
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._config = _as_json(config)
        self._damaged: set[str] = set()
        for path in reversed(self._saved()):
            try:
                record = _read_record(path)
            except (OSError, ValueError):
                continue  # it tells nothing; `restore` reports it
            self._refuse_others(record["config"])

    def save(
        self, epoch: int, state: Any, *, extra: dict[str, Any] | None = None
    ) -> None:
        """Write a state; when this returns, all but the last `keep` are gone.

        Args:
          epoch: epochs done, at least 0.
          state: pytree of arrays, random keys and numbers, such as a `TrainState`.
          extra: JSON object that is kept with it.

        Raises:
          ValueError: for a leaf that is no array of numbers, with its path.
          TypeError: if `extra` is not JSON.
        """
        check_count("epoch", epoch, minimum=0)
        data, specs = pack(state)
        record = {
            "config": self._config,
            "epoch": int(epoch),
            "extra": _as_json(extra or {}),
            "leaves": specs,
            "leaves_sha256": _sha256(data),
        }
        with self._lock():
            self._clean()
            saved = self._saved()
            number = 1 + (int(saved[-1].name.removeprefix(_NAME)) if saved else 0)
            name = f"{_NAME}{number:08d}"
            partial = self.folder / f"{_PARTIAL}{name}"
            with checkpointer_of_orbax() as checkpointer:
                # One byte more: Orbax refuses an array without elements.
                padded = np.append(data, np.uint8(0))
                checkpointer.save(partial / _ARRAYS, {"bytes": padded})
            record["files_sha256"] = files_sha256(partial / _ARRAYS)
            _write_record(partial, record)
            os.replace(partial, self.folder / name)
            whole = [path for path in saved if path.name not in self._damaged]
            kept = whole[::-1][: self.keep - 1]
            for path in saved:
                if path not in kept:
                    self._remove(path)

    def restore(self, template: Any) -> Restored | None:
        """The last state that was saved and is whole, or None.

        A damaged checkpoint is passed over with a warning, for the one before it.

        Args:
          template: pytree of the same structure, dtypes and shapes, such as the state
            before the first epoch, or `jax.eval_shape` of it; or a function of `extra`
            that returns one, where shapes change in the course of a run.

        Raises:
          ValueError: if the state that was saved has another structure.
        """
        if not self._saved():
            return None
        with self._lock():
            self._clean()
            for path in reversed(self._saved()):
                try:
                    record, data = _read(path)
                # Whatever Orbax meets in torn files: it has no error of its own.
                except Exception as error:
                    self._damaged.add(path.name)
                    warnings.warn(
                        f"the checkpoint {path} is damaged and was passed over: "
                        f"{type(error).__name__}: {error}",
                        stacklevel=2,
                    )
                    continue
                self._refuse_others(record["config"])
                wanted = template(record["extra"]) if callable(template) else template
                _check_template(wanted, record["leaves"])
                treedef = jax.tree.structure(wanted)
                state = unpack(data, record["leaves"], treedef)
                return Restored(record["epoch"], state, record["extra"])
        return None

    def delete(self) -> None:
        """Remove all checkpoints, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        with self._lock():
            self._clean()
            for path in self._saved():
                self._remove(path)
            with contextlib.suppress(OSError):
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()

    def _saved(self) -> list[Path]:
        """Folders of the checkpoints, the oldest first."""
        return sorted(self.folder.glob(f"{_NAME}[0-9]*"))

    def _clean(self) -> None:
        """Remove what a kill has left; to be called by who holds the lock."""
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        # Renamed first, so that a kill in between leaves no half of a checkpoint.
        gone = path.with_name(_PARTIAL + path.name)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other processes out of the folder; a kill lets them in."""
        path = self.folder / _LOCK
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = open(path, "a")
            except FileNotFoundError:
                continue  # another process has just removed the folder
            with file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                # While we waited, it may have removed the file that we hold.
                if is_at(file, path):
                    yield
                    return

    def _refuse_others(self, kept: dict[str, Any]) -> None:
        lines = _differences(kept, self._config)
        if lines:
            raise ValueError(
                f"the checkpoints in {self.folder} are of another configuration:\n"
                + "\n".join(lines)
            )


def _as_json(value: Any) -> Any:
    """What a JSON file gives back for `value`: lists for tuples, text for keys."""
    return json.loads(json.dumps(value))


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _sha256(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_record(folder: Path, content: dict[str, Any]) -> None:
    stored = {"sha256": _sha256(_canonical(content)), "content": content}
    text = json.dumps(stored, indent=1, sort_keys=True)
    write_text(folder / _RECORD, text)


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint; ValueError or OSError if it is damaged."""
    stored = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    content = stored.get("content") if isinstance(stored, dict) else None
    told = stored.get("sha256") if isinstance(content, dict) else None
    if told != _sha256(_canonical(content)):
        raise ValueError(f"{_RECORD} does not match its SHA-256")
    return content


def _read(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Record and bytes of a checkpoint; any exception at all if it is damaged."""
    record = _read_record(folder)
    # Before Orbax reads them: what it does with damaged files is not bounded.
    files = record.get("files_sha256")
    if files is not None and files != files_sha256(folder / _ARRAYS):
        raise ValueError("the files of the arrays do not match their SHA-256")
    with checkpointer_of_orbax() as checkpointer:
        data = np.asarray(checkpointer.restore(folder / _ARRAYS)["bytes"])[:-1]
    if record["leaves_sha256"] != _sha256(data):
        raise ValueError("the arrays do not match their SHA-256")
    return record, data


def _check_template(template: Any, specs: list[Spec]) -> None:
    """Raise unless the template has the leaves that were stored."""
    wanted = [spec(*leaf) for leaf in jax.tree_util.tree_leaves_with_path(template)]
    lines = _differences(_by_path(specs), _by_path(wanted))
    if lines:
        raise ValueError(
            "the state that was saved differs from the template:\n" + "\n".join(lines)
        )


def _by_path(specs: list[Spec]) -> dict[str, Any]:
    return {item["path"]: [item["dtype"], item["shape"]] for item in specs}


def _differences(
    kept: dict[str, Any], given: dict[str, Any], prefix: str = ""
) -> list[str]:
    """One line for each entry that differs, with its dotted path and both values."""
    lines = []
    for name in sorted({*kept, *given}):
        pair = [side[name] for side in (kept, given) if name in side]
        if all(isinstance(value, dict) and value for value in pair) and len(pair) == 2:
            lines += _differences(*pair, f"{prefix}{name}.")
        elif len(pair) == 1 or _canonical(pair[0]) != _canonical(pair[1]):
            saved, now = (
                json.dumps(side[name]) if name in side else "nothing"
                for side in (kept, given)
            )
            lines.append(f"  {prefix}{name}: saved {saved}, given {now}")
    return lines
