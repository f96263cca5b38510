"""Programs in processes of their own, forked from one that has imported all they need.

JAX is imported here but has no device yet, hence no threads, and a fork is safe: a
child costs what the program computes, not its imports. What a child may do is bounded
(time, memory, file sizes), what it changes outside of its folder is noted, and it can
be killed at its n-th file operation, a write being torn in two.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MiB = 2**20
MOST_FILE = 256 * MiB  # of a file that a child writes
MOST_MEMORY = 6 * 1024 * MiB  # of its addresses, of which XLA takes many
_CAPABILITIES_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_OPERATIONS = ("replace", "rename", "mkdir", "unlink", "remove", "rmdir", "fsync",
               "truncate", "link", "symlink")  # fmt: skip
# Audit events that change the file system -> how many of their arguments are paths.
_CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2,
            "os.symlink": 2, "os.truncate": 1, "os.chmod": 1}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class OutOfTime(Exception):
    """The drill's own limit is over: what was begun counts as not tried."""


class Program(NamedTuple):
    """What a child runs.

    Attributes:
      name: a module, as in `python -m`, or what a function is called in messages.
      arguments: its flags.
      function: what is run in place of a module; a ValueError or OSError that it
        raises is one line on stderr and status 1, as in the binaries.
      before: what is done in the child before.
    """

    name: str
    arguments: tuple[str, ...] = ()
    function: Callable[[], Any] | None = None
    before: Callable[[], Any] | None = None

    def given(self, *more: str) -> Program:
        """The same with more flags."""
        return self._replace(arguments=(*self.arguments, *more))


class Outcome(NamedTuple):
    """How a child ended.

    Attributes:
      status: exit status, −n for signal n; None if it ran into `timeout`.
      out, err: what it printed.
      seconds: how long it took.
      grown: memory (bytes) at its peak beyond what the imports hold.
      operations: file operations that were counted.
      outside: what it changed outside of its folder.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    grown: int
    operations: int
    outside: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last line on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def run(
    program: Program,
    folder: Path,
    *,
    deadline: float,
    timeout: float = 120.0,
    kill_at: int | None = None,
    kill_after: float | None = None,
    memory: int = MOST_MEMORY,
    unprivileged: bool = False,
) -> Outcome:
    """Run a program in a folder and wait for its end; see `start` and `finish`."""
    child = start(
        program, folder, kill_at=kill_at, memory=memory, unprivileged=unprivileged
    )
    return finish(child, deadline=deadline, timeout=timeout, kill_after=kill_after)


class Child(NamedTuple):
    """A program under way: its process, its notes, when it began and at what size."""

    pid: int
    notes: Path
    began: float
    size: int


def start(
    program: Program,
    folder: Path,
    *,
    kill_at: int | None = None,
    memory: int = MOST_MEMORY,
    unprivileged: bool = False,
) -> Child:
    """Begin a program in a folder.

    Args:
      program: what is run.
      folder: its working directory, which holds all that it may change.
      kill_at: number of the file operation before which it is killed, from 1.
      memory: addresses (bytes) that it may take beyond those of the imports.
      unprivileged: whether it gives up the rights of the superuser.
    """
    number = len(list(folder.parent.glob(f"{folder.name}.notes*")))
    notes = folder.parent / f"{folder.name}.notes{number}"
    notes.mkdir()
    began, size = time.monotonic(), _resident()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, notes, began, size)
    status = 70
    try:
        status = _child(program, folder, notes, kill_at, memory, unprivileged)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(
    child: Child,
    *,
    deadline: float,
    timeout: float = 120.0,
    kill_after: float | None = None,
) -> Outcome:
    """Wait for a program's end.

    Args:
      child: the program under way.
      deadline: on the monotonic clock; then it is killed.
      timeout: seconds that it may take.
      kill_after: seconds after which it is killed on purpose.

    Raises:
      OutOfTime: at the deadline.
    """
    killed = False
    while True:
        pid, code, usage = os.wait4(child.pid, os.WNOHANG)
        now = time.monotonic()
        if pid:
            break
        late = now > child.began + timeout
        over = kill_after is not None and now > child.began + kill_after
        if late or over or now > deadline:
            os.killpg(child.pid, signal.SIGKILL)
            _, code, usage = os.wait4(child.pid, 0)
            killed = late
            if now > deadline:
                raise OutOfTime
            break
        time.sleep(0.005)
    read = {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name in ("out", "err", "operations", "outside")
        for path in [child.notes / name]
        if path.exists()
    }
    return Outcome(
        None if killed else os.waitstatus_to_exitcode(code),
        read.get("out", ""),
        read.get("err", ""),
        time.monotonic() - child.began,
        max(0, usage.ru_maxrss * 1024 - child.size),
        len(read.get("operations", "")),
        tuple(dict.fromkeys(read.get("outside", "").splitlines())),
    )


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _child(program, folder, notes, kill_at, memory, unprivileged) -> int:
    os.setsid()
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(notes / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", buffering=1, closefd=False)
        for number in (1, 2)
    )
    os.chdir(folder)
    os.environ["TMPDIR"] = str(folder)
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE, MOST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _count(folder, notes, kill_at)
    _watch(folder, notes)
    if unprivileged:
        _drop_rights()
    if program.before is not None:
        program.before()
    try:
        if program.function is None:
            sys.argv = [program.name, *program.arguments]
            runpy.run_module(program.name, run_name="__main__", alter_sys=True)
        else:
            program.function()
    except (ValueError, OSError) as error:
        if program.function is None:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    finally:
        # As at the end of a process, which os._exit would leave out.
        from experiments.store import locks

        locks.release()
    return 0


def _drop_rights() -> None:
    """Let the rights of files count for the superuser too (no capabilities)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise RuntimeError(f"capset: error {ctypes.get_errno()}")


def _watch(folder: Path, notes: Path) -> None:
    """Note all changes of files outside of a folder, from Python, in `outside`."""
    file = os.open(notes / "outside", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.devnull)
    # Imports of what the programs take lazily may leave compiled files: not asked for.
    allowed = tuple(
        f"{os.path.realpath(path)}{os.sep}" for path in (folder, cache, "/dev", "/proc")
    )

    def note(event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        path = os.path.realpath(os.fsdecode(path))
        if not f"{path}{os.sep}".startswith(allowed):
            os.write(file, f"{event} {path}\n".encode())

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                note(event, path)
        elif event in _CHANGES:
            at = arguments[-1] if isinstance(arguments[-1], int) else -1
            base = os.readlink(f"/proc/self/fd/{at}") if at > 0 and event in (
                "os.remove", "os.rmdir"
            ) else ""  # fmt: skip
            for path in arguments[: _CHANGES[event]]:
                note(event, path if isinstance(path, int) else os.path.join(
                    os.fsencode(base), os.fsencode(path)
                ))  # fmt: skip

    sys.addaudithook(hook)


def _count(folder: Path, notes: Path, kill_at: int | None) -> None:
    """Count file operations in a folder (a byte each in `operations`), and be killed.

    An operation is a call of `_OPERATIONS`, the opening of a file to be written, or a
    write; a write is killed when half of it is written.
    """
    file = os.open(notes / "operations", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    inside = os.path.realpath(folder)
    count = 0

    def tick() -> bool:
        nonlocal count
        count += 1
        os.write(file, b".")
        return count == kill_at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def call(*arguments, **keywords):
            if tick():
                die()
            return function(*arguments, **keywords)

        return call

    for name in _OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))

    def torn(handle, write):
        def call(content):
            if tick():
                write(content[: len(content) // 2])
                handle.flush()
                die()
            return write(content)

        return call

    def opening(function):
        def call(path, mode="r", *arguments, **keywords):
            writes = not isinstance(path, int) and set(mode) & set("wax+")
            if writes and os.path.realpath(path).startswith(inside):
                if tick():
                    die()
                handle = function(path, mode, *arguments, **keywords)
                handle.write = torn(handle, handle.write)
                return handle
            return function(path, mode, *arguments, **keywords)

        return call

    builtins.open = io.open = opening(io.open)
