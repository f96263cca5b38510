"""How far an audit or a search is, told to whom the caller says."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int, str], None]
# Blocks of the bar, where there are more stages than these.
_WIDTH = 20


def as_progress(progress: Any) -> Progress | None:
    """The function that is told: the bar for True, None for None and False.

    Raises:
      ValueError: for anything else that is not called as `progress(done, total, what)`.
    """
    if progress is True:
        return bar()
    if progress is None or progress is False:
        return None
    try:
        inspect.signature(progress).bind(0, 1, "")
    except TypeError as error:
        raise ValueError(
            "progress must be True for a bar on stderr, or a function, progress(done, "
            f"total, what), got {progress!r}: {error}"
        ) from error
    except ValueError:  # one without a signature, as some builtins are
        pass
    return progress


def bar() -> Progress:
    """A bar of the stages on stderr: one line on a terminal, else a line for each."""
    start, last = time.monotonic(), "\r" if sys.stderr.isatty() else "\n"

    def tell(done: int, total: int, what: str) -> None:
        passed, width = time.monotonic() - start, min(total, _WIDTH)
        full = done * width // total
        blocks = "█" * full + "░" * (width - full)
        line = f"{blocks} {done}/{total} {passed:4.0f} s  {what}".ljust(78)
        end = "\n" if done == total else last
        sys.stderr.write((line.rstrip() if end == "\n" else line) + end)
        sys.stderr.flush()

    return tell
