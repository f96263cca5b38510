"""Binaries that measure: `python -m experiments.NAME`."""

import os
import signal
import sys
from collections.abc import Callable

# What a run lets go of when it ends, however it ends.
RELEASES: list[Callable[[], None]] = []
INTERRUPTED = "interrupted; the same command resumes where it stopped"


def interrupted(number, frame):
    """Ctrl-C during the imports, which take seconds: nothing is there to be saved."""
    os.write(2, f"error: {INTERRUPTED}\n".encode())
    os._exit(130)


# Of `python -m experiments.NAME` alone, which imports this before the binary: whoever
# imports it otherwise keeps a handler of their own. `cli.run` puts Python's back.
if sys.argv[:1] == ["-m"] and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, interrupted)
