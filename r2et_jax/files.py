"""Files that appear whole or not at all, and leave nothing behind after a kill."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: there, what a kill has left stays
    fcntl = None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; what is there at the end takes the place of a file.

    What killed processes have left that were about to write the same file is removed.

    Args:
      path: the file, in a folder that exists.

    Yields:
      The path to write to, in the same folder.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "table.txt")
      >>> with replacing(path) as partial:
      ...     _ = partial.write_text("whole")
      >>> path.read_text()
      'whole'
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        remove_abandoned(left)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with holding(partial):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Make a file, which is known to be in use until this ends, or the process does."""
    while True:
        with open(path, "ab") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file, path):
                yield
                return


def remove_abandoned(path: Path) -> bool:
    """Remove a file unless a process is `holding` it; returns whether it is gone."""
    if fcntl is None:
        return False
    try:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, path):
                path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass  # its owner, or another process, was faster
    return True


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
