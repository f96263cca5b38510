"""Jobs in worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.reproduce import jobs

CHECKOUT = Path(__file__).resolve().parents[2]


def python(code, *arguments):
    return (sys.executable, "-c", code, *map(str, arguments))


def job(name, code, tmp_path, *, after=(), alone=False):
    command = python(code, name, tmp_path)
    return jobs.Job(name, command, tmp_path / f"{name}.log", 1.0, after, alone)


# Leaves the marks NAME.began and NAME.done; prints what had marks when it began.
MARKED = """
import pathlib, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
print(*sorted(path.name for path in folder.glob("*.*") if path.suffix != ".log"))
(folder / f"{name}.began").touch()
WAIT
(folder / f"{name}.done").touch()
"""
ALONE = MARKED.replace("WAIT", "time.sleep(.1)")


def meeting(other):
    """Ends when another job has begun."""
    wait = f'while not (folder / "{other}.began").exists(): time.sleep(.01)'
    return MARKED.replace("WAIT", wait)


def marks(tmp_path, name):
    return set((tmp_path / f"{name}.log").read_text().split())


def test_jobs_run_beside_each_other_but_after_what_they_need(tmp_path):
    planned = [
        job("a", meeting("b"), tmp_path),
        job("b", meeting("a"), tmp_path),
        job("c", ALONE, tmp_path, after=("a",)),
        job("d", ALONE, tmp_path, alone=True),
    ]
    assert jobs.run_jobs(planned, workers=2, show=False) == dict.fromkeys("abcd", 0)
    assert "a.done" in marks(tmp_path, "c")
    # What began before the one that is alone had ended.
    before = marks(tmp_path, "d")
    assert {f"{name}.done" for name in "abc"} <= before


def test_one_worker_runs_one_job_at_a_time(tmp_path):
    planned = [job(name, ALONE, tmp_path) for name in "abc"]
    jobs.run_jobs(planned, workers=1, show=False)
    assert marks(tmp_path, "b") == {"a.began", "a.done"}
    assert marks(tmp_path, "c") == {"a.began", "a.done", "b.began", "b.done"}


def test_a_failure_is_told_and_does_not_stop_the_others(tmp_path):
    planned = [
        job("bad", "import sys; print('why'); sys.exit(3)", tmp_path),
        job("good", "print('fine')", tmp_path, after=("bad",)),
    ]
    ended = []
    statuses = jobs.run_jobs(
        planned, workers=2, show=False, ended=lambda j, s: ended.append((j.name, s))
    )
    assert statuses == {"bad": 3, "good": 0}
    assert ended == [("bad", 3), ("good", 0)]
    assert jobs.last_lines(tmp_path / "bad.log") == ["why"]


def test_the_last_line_of_a_progress_bar_is_what_it_showed_last(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"start\n\rattack:  1/9\rattack:  2/9")
    assert jobs.last_lines(log) == ["start", "attack:  2/9"]
    assert jobs.last_lines(tmp_path / "none.txt") == []


PARENT = """
import sys
from pathlib import Path
from experiments.reproduce import jobs
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
log = Path(sys.argv[1])
job = jobs.Job("long", (sys.executable, "-c", code), log, 1.0)
jobs.run_jobs([job], workers=1, show=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the parent's death")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_the_process_that_started_them(how, tmp_path):
    log = tmp_path / "log.txt"
    parent = subprocess.Popen(
        python(PARENT, log), cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    child = int(until(lambda: log.exists() and log.read_text().strip()))
    parent.send_signal(how)
    parent.wait()
    assert until(lambda: not alive(child))


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return met


def alive(pid):
    try:
        # A child without a parent stays a zombie where nobody collects it.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        os.kill(pid, 0)
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    "text, free",
    [("MemFree: 9 kB\nMemAvailable:   20 kB\n", 20 * 1024), ("MemFree: 9 kB\n", None)],
)
def test_memory_that_caches_hold_is_free(text, free, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(jobs.os, "sysconf", lambda name: 3)
    assert jobs._free_memory(tmp_path / "meminfo") == (9 if free is None else free)
