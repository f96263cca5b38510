"""Runs a binary: a user's mistake is one line, not a traceback.

Set the environment variable R2ET_DEBUG=1 to see the traceback instead.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging


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
    app.call_after_init(lambda: absl_logging.set_verbosity(absl_logging.WARNING))
    app.run(guarded(main))


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
            if os.environ.get("R2ET_DEBUG") == "1":
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            text = " ".join(str(error).split()) or type(error).__name__
            if interrupted:
                text = "interrupted; the same command resumes where it stopped"
            print(f"error: {text}", file=sys.stderr)
            sys.exit(130 if interrupted else 1)

    return call
