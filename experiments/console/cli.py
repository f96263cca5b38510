"""Runs a binary: a user's mistake is one line, not a traceback.

Set the environment variable R2ET_DEBUG=1 to see the traceback instead.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

import experiments
from experiments.store import locks

_DEBUG = "R2ET_DEBUG"
# What of Orbax' errors is worth a message is in the exception that it raises.
_LEVEL = absl_logging.WARNING if os.environ.get(_DEBUG) == "1" else absl_logging.FATAL


def run(main: Callable[[Sequence[str]], Any]) -> None:
    """Parse the flags and call main(argv); never returns.

    ValueError and OSError (a missing file, say) end with `error: ...` on stderr and
    exit status 1; an interrupt (Ctrl-C) with status 130. Any other exception is a bug
    and keeps its traceback, as all do under R2ET_DEBUG=1.

    Example:
      >>> if __name__ == "__main__":
      ...     cli.run(main)
    """
    # JAX tells at level INFO which accelerators it did not find.
    logging.getLogger("jax").setLevel(logging.WARNING)
    app.call_after_init(lambda: absl_logging.set_verbosity(_LEVEL))
    if signal.getsignal(signal.SIGINT) is experiments.interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app.run(guarded(main), flags_parser=parsed)


def parsed(argv: Sequence[str]) -> list[str]:
    """Parse flags and return the other arguments; a wrong one ends with one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def call(experiment: Any, *arguments: str) -> None:
    """Run an experiment in this process, as in a notebook or a test.

    Flags that an earlier call gave, and this one does not, are at their defaults again.

    Args:
      experiment: its module.
      arguments: its flags, such as "--preset=smoke".

    Example:
      >>> from experiments import robustness
      >>> cli.call(robustness, "--preset=smoke", "--output_dir=results/try")
    """
    values = flags.FLAGS
    values.unparse_flags()
    guarded(experiment.main)(values([experiment.FLAGS.experiment, *arguments]))


def guarded(main: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], None]:
    """Return main with expected exceptions turned into one line and an exit status."""

    def call(argv: Sequence[str]) -> None:
        try:
            if len(argv) > 1:
                raise ValueError(
                    f"unexpected arguments: {' '.join(argv[1:])}; flags are written "
                    "--name=value, lists with commas and without spaces"
                )
            main(argv)
        except (KeyboardInterrupt, ValueError, OSError) as error:
            if os.environ.get(_DEBUG) == "1":
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            text = " ".join(str(error).split()) or type(error).__name__
            if interrupted:
                text = experiments.INTERRUPTED
            print(f"error: {text}", file=sys.stderr)
            sys.exit(130 if interrupted else 1)
        finally:
            locks.release()

    return call
