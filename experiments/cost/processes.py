"""A fresh process for one measurement, and how much memory a process holds."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def alone(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function of a module in a fresh process, and return its result."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(fn, *args, **kwargs).result()


def peak_resident() -> int:
    """Bytes of this process's resident set at its largest."""
    status = Path("/proc/self/status")
    if status.exists():  # the count of getrusage begins with the parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident() -> int:
    """Bytes of this process's resident set now, or its peak where none is told."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return peak_resident()
    return int(status.read_text().split()[1]) * resource.getpagesize()
