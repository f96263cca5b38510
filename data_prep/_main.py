"""How a binary starts; a user's mistake is one line on stderr and exit status 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags

from experiments.console.failing import guarded

# Beside wrong values, files and the network: a package that is not installed.
_MISTAKES = (ValueError, OSError, ImportError, flags.Error)


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

    def checked(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}, expected flags")
        main(argv)

    app.run(
        guarded(checked, mistakes=_MISTAKES),
        flags_parser=guarded(flags.FLAGS, mistakes=_MISTAKES),
    )
