"""Jobs on the workers of a Dask cluster, one command on each of them.

A command writes to its own folder, and goes on where it was: after the loss of a worker
the same one runs on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.reproduce import jobs

_LOST = 1  # exit status


class Remote(NamedTuple):
    """A job that was sent, as `jobs.run_jobs` asks of it."""

    future: Any

    def poll(self) -> int | None:
        """The exit status, None before the end."""
        if not self.future.done():
            return None
        return self.future.result() if self.future.status == "finished" else _LOST

    def terminate(self) -> None:
        """Have it not begun, or its result forgotten."""
        self.future.cancel()

    def wait(self) -> None:
        """Nothing: what was cancelled is waited for by nobody."""


def starter(client: Any) -> Callable[[jobs.Job], Remote]:
    """`start(job)` for `jobs.run_jobs`, by a client of `cluster.connect`."""
    return lambda job: Remote(client.submit(run, job, pure=False))


def run(job: jobs.Job) -> int:
    """On a worker: run a command to its end."""
    return jobs.start_process(job).wait()
