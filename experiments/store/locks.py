"""One run at a time in an output folder."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import IO

import experiments
from r2et_jax.files import is_at

try:
    import fcntl
except ImportError:  # Windows: there, run one process at a time
    fcntl = None

_FILE = ".lock"
# Of this process; the system lets go of them when it ends, however it ends.
_held: dict[Path, IO[str]] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of an output folder until `release`.

    Raises:
      ValueError: if another process holds it.
    """
    folder = folder.resolve()
    if fcntl is None or folder in _held:
        return
    path = folder / _FILE
    while True:
        file = open(path, "a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"another run writes to {folder}: wait for its end, or choose another "
                "--output_dir"
            ) from None
        if is_at(file, path):
            _held[folder] = file
            return
        file.close()  # another process has just removed what we opened


def release() -> None:
    """Let go of all that this process holds."""
    while _held:
        folder, file = _held.popitem()
        (folder / _FILE).unlink(missing_ok=True)
        file.close()


experiments.RELEASES.append(release)
atexit.register(release)
