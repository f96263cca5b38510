"""What a user's mistake ends in: one line on stderr and an exit status, no traceback.

Set the environment variable R2ET_DEBUG=1 to see the traceback instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

_DEBUG = "R2ET_DEBUG"
_MISTAKES = (ValueError, OSError, flags.Error)


def debugging() -> bool:
    """Whether every exception keeps its traceback."""
    return os.environ.get(_DEBUG) == "1"


def guarded(
    function: Callable[..., Any],
    *,
    mistakes: tuple[type[BaseException], ...] = _MISTAKES,
    interrupted: str = "interrupted",
) -> Callable[..., Any]:
    """The function with expected exceptions turned into a line and an exit status.

    Mistakes end with `error: ...` and status 1, an interrupt (Ctrl-C) with status 130.
    Any other exception is a bug and keeps its traceback, as all do under R2ET_DEBUG=1.

    Args:
      function: of any arguments; what it returns is returned.
      mistakes: exceptions that a user can cause: wrong values and flags, and OSError (a
        missing file, say).
      interrupted: what an interrupt says.
    """

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (KeyboardInterrupt, *mistakes) as error:
            if debugging():
                raise
            stopped = isinstance(error, KeyboardInterrupt)
            text = " ".join(str(error).split()) or type(error).__name__
            print(f"error: {interrupted if stopped else text}", file=sys.stderr)
            sys.exit(130 if stopped else 1)

    return call
