"""How a binary starts and how it fails: one line on stderr and exit status 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags


def guarded(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """Wrap main so that a user's mistake prints one line instead of a traceback.

    ValueError (a wrong value or file content), OSError (a file or the network) and
    ImportError (a package that is not installed) are reported; anything else is a
    bug and keeps its traceback.
    """

    def wrapped(argv: Sequence[str]) -> None:
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}, expected flags")
            main(argv)
        except (ValueError, OSError, ImportError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def parsed(argv: Sequence[str]) -> list[str]:
    """Parse flags and return the other arguments; a wrong one ends with one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def named_folder(name: str) -> Path | None:
    """The folder that a flag names, None where it is not given.

    Raises:
      ValueError: for an empty name, which would be the current directory.
    """
    value = flags.FLAGS[name].value
    if value is not None and not value.strip():
        raise ValueError(f"--{name} must name a folder, got an empty name")
    return None if value is None else Path(value)


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Parse the flags and run main, guarded."""
    app.run(guarded(main), flags_parser=parsed)
