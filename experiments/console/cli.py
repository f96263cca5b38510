"""Runs a binary: a user's mistake is one line, not a traceback.

Set the environment variable R2ET_DEBUG=1 to see the traceback instead.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from absl import logging as absl_logging

import experiments
from experiments.console.flags import resolve_files
from experiments.store import locks
from r2et_jax import execution

_DEBUG = "R2ET_DEBUG"
_HELP = frozenset({"--help", "-help", "-h", "--helpshort", "--helpfull"})
# What of Orbax' errors is worth a message is in the exception that it raises.
_LEVEL = absl_logging.WARNING if os.environ.get(_DEBUG) == "1" else absl_logging.FATAL


def run(experiment: Any) -> None:
    """Parse the command line and call `experiment.main(values)`; never returns.

    ValueError, OSError (a missing file, say) and wrong flags end with `error: ...` on
    stderr and exit status 1; an interrupt (Ctrl-C) with status 130. Any other exception
    is a bug and keeps its traceback, as all do under R2ET_DEBUG=1.

    Args:
      experiment: its module, with FLAGS and `main(values)`.
    """
    # JAX tells at level INFO which accelerators it did not find.
    logging.getLogger("jax").setLevel(logging.WARNING)
    absl_logging.set_verbosity(_LEVEL)
    if signal.getsignal(signal.SIGINT) is experiments.interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    values = experiment.FLAGS.define()
    if _HELP & set(sys.argv[1:]):
        print(f"{experiment.__doc__.rstrip()}\n\nflags:\n{_help(values)}")
        sys.exit(0)
    guarded(_main)(experiment, values, sys.argv)
    sys.exit(0)


def call(experiment: Any, *arguments: str) -> None:
    """Run an experiment in this process, as in a notebook or a test.

    Args:
      experiment: its module.
      arguments: its flags, such as "--preset=smoke".

    Example:
      >>> from experiments.robustness import experiment
      >>> cli.call(experiment, "--preset=smoke", "--output_dir=results/try")
    """
    values = experiment.FLAGS.define()
    guarded(_main)(experiment, values, [experiment.FLAGS.experiment, *arguments])


def _main(experiment, values, argv):
    further = values(argv)[1:]
    if further:
        raise ValueError(
            f"unexpected arguments: {' '.join(further)}; flags are written "
            "--name=value, lists with commas and without spaces"
        )
    resolve_files(values)
    # The quickstart has two flags alone.
    if "cache_dir" in values and values["cache_dir"].value is not None:
        execution.cache(values["cache_dir"].value)
    experiment.main(values)


def _help(values: flags.FlagValues) -> str:
    """Every flag with its meaning, in the order of their names."""
    lines = []
    for name in sorted(values):
        boolean = "[no]" if values[name].boolean else ""
        text = flags.text_wrap(values[name].help or "", indent="      ")
        lines += [f"  --{boolean}{name}", text]
    return "\n".join(lines)


def guarded(function: Callable[..., Any]) -> Callable[..., None]:
    """The function with expected exceptions turned into a line and an exit status."""

    def call(*arguments: Any) -> None:
        try:
            function(*arguments)
        except (KeyboardInterrupt, ValueError, OSError, flags.Error) as error:
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
