"""Runs a binary: parses its flags, and ends its mistakes in one line."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from absl import flags
from absl import logging as absl_logging

import experiments
from experiments.console.failing import debugging, guarded
from experiments.console.flags import resolve_files
from r2et_jax import execution

_HELP = frozenset({"--help", "-help", "-h", "--helpshort", "--helpfull"})
# What of Orbax' errors is worth a message is in the exception that it raises.
_LEVEL = absl_logging.WARNING if debugging() else absl_logging.FATAL


def run(experiment: Any) -> None:
    """Parse the command line and call `experiment.main(values)`; never returns.

    How it fails: see `failing.guarded`.

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
    _guarded(experiment, values, sys.argv)
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
    _guarded(experiment, values, [experiment.FLAGS.experiment, *arguments])


def _guarded(experiment, values, argv):
    try:
        guarded(_main, interrupted=experiments.INTERRUPTED)(experiment, values, argv)
    finally:
        for release in experiments.RELEASES:
            release()


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
