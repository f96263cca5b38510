"""Commands in worker processes, with one progress display for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

_POLL_SECONDS = 0.2
# What is shown of a job that takes longer than expected.
_MOST_DONE = 0.95
# Asks Linux for SIGTERM at the parent's death, which lasts beyond the exec. Done in the
# child, since code between fork and exec could wait for locks of JAX's threads.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_LAST_BYTES = 4000


class Job(NamedTuple):
    """A command.

    Attributes:
      name: of the job, for messages.
      command: the program, by its path, and its arguments.
      log: file for what it prints.
      minutes: that it takes, roughly; only ratios between jobs matter.
      after: names of jobs that must have ended, successful or not.
      alone: whether nothing else may run beside it, as for timings.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    minutes: float
    after: tuple[str, ...] = ()
    alone: bool = False


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    show: bool,
    ended: Callable[[Job, int], None] = lambda job, status: None,
    start: Callable[[Job], Any] | None = None,
) -> dict[str, int]:
    """Run jobs, earlier ones first, and return their exit statuses.

    An exception (an interrupt) ends the running ones. On Linux they also end with this
    process, however it is killed, so that a second run never meets them.

    Args:
      jobs: in order of preference.
      workers: processes at a time, at most.
      show: whether to show progress and an estimate of the time left.
      ended: called with each job that ended, and its exit status.
      start: what starts a job, where it is no process of this machine; what it returns
        has `poll`, `terminate` and `wait` as a process does.
    """
    waiting = list(jobs)
    start = start_process if start is None else start
    running: dict[str, tuple[Job, Any, float]] = {}
    statuses: dict[str, int] = {}
    finished = 0.0
    with _bar(jobs, show) as bar, _interruptible():
        try:
            while waiting or running:
                for job in _startable(waiting, running, workers):
                    running[job.name] = job, start(job), time.monotonic()
                    waiting.remove(job)
                time.sleep(_POLL_SECONDS)
                for job, process, _ in list(running.values()):
                    status = process.poll()
                    if status is not None:
                        del running[job.name]
                        statuses[job.name] = status
                        finished += job.minutes
                        ended(job, status)
                if show:
                    bar.n = finished + sum(map(_done, running.values()))
                    bar.set_description_str(_shown(running, len(statuses), len(jobs)))
        finally:
            _end([process for _, process, _ in running.values()])
    return statuses


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The last lines of a log; of a progress bar, what it showed last."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    return [line for line in lines if line][-count:]


def workers_by_memory(needed: int, *, most: int = 2) -> int:
    """Processes that the free memory and the cores hold, `needed` bytes each."""
    free = _free_memory()
    return max(1, min(most, os.cpu_count() or 1, free // needed))


def _free_memory(source: Path = Path("/proc/meminfo")) -> int:
    """Bytes that new processes may take, caches that Linux would give up included."""
    try:
        (line,) = (
            line
            for line in source.read_text().splitlines()
            if line.startswith("MemAvailable:")
        )
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _startable(waiting, running, workers) -> Iterator[Job]:
    """Jobs to start now; those that it has yielded count as running."""
    known = {job.name for job in waiting} | set(running)
    count = len(running)
    for job in list(waiting):
        if count >= workers or any(job.alone for job, _, _ in running.values()):
            return
        if any(name in known for name in job.after) or (job.alone and count):
            continue
        yield job
        count += 1


def start_process(job: Job) -> subprocess.Popen:
    """Start a job on this machine; on Linux it ends with this process."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    command = job.command
    if sys.platform == "linux":
        command = (sys.executable, "-c", _TIED, str(os.getpid()), *command)
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@contextmanager
def _interruptible():
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(jobs: Sequence[Job], show: bool) -> tqdm:
    return tqdm(
        total=sum(job.minutes for job in jobs) or 1.0,
        disable=not show,
        dynamic_ncols=True,
        smoothing=0,
        bar_format="{percentage:3.0f}% |{bar}| {elapsed}, left {remaining} {desc}",
    )


def _done(entry) -> float:
    """Minutes of a running job's that count as done."""
    job, _, began = entry
    return min((time.monotonic() - began) / 60, _MOST_DONE * job.minutes)


def _shown(running, done: int, total: int) -> str:
    text = f"{done}/{total}"
    for job, _, _ in running.values():
        last = last_lines(job.log, 1)
        # tqdm's line up to its bar: what is measured, and how far it is.
        text += f" | {job.name}: " + last[0].split("|")[0].strip() if last else ""
    return text
