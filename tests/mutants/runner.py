"""Puts one fault at a time into a copy of the checkout and asks whether a test sees it.

  python -m tests.mutants                          # all of them, see catalogue.py
  python -m tests.mutants --only=r2et_jax/bounds   # those of paths that begin so
  python -m tests.mutants --list

The tests of a mutant run without it first: what fails there tells nothing. Exit status
1 if a mutant survived, or could not be tried.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Mutant

CHECKOUT = Path(__file__).resolve().parents[2]
KILLED, SURVIVED, UNTRIED = "killed", "SURVIVED", "NOT TRIED"
# pytest: all passed, some failed.
_PASSED, _FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutants and return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", default="", help="beginning of the mutants' paths")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--minutes", type=float, default=5.0, help="limit for each")
    parser.add_argument("--list", action="store_true", help="print the mutants")
    asked = parser.parse_args(argv)
    mutants = [mutant for mutant in MUTANTS if mutant.path.startswith(asked.only)]
    if asked.list or not mutants:
        print("\n".join(mutant.name for mutant in mutants) or "no such mutant")
        return int(not mutants)
    with tempfile.TemporaryDirectory(prefix="mutants-") as base:
        return _Trial(Path(base), asked.minutes, asked.workers).run(mutants)


class _Trial:
    """Copies of the checkout, one for each worker, and what the tests say of them."""

    def __init__(self, base: Path, minutes: float, workers: int):
        self.base, self.minutes, self.workers = base, minutes, workers
        self._sound: dict[str, bool] = {}
        self._local = threading.local()
        self._guards: dict[str, threading.Lock] = collections.defaultdict(
            threading.Lock
        )

    def run(self, mutants: Sequence[Mutant]) -> int:
        start = time.monotonic()
        counts = collections.Counter()
        with ThreadPoolExecutor(self.workers) as pool:
            for mutant, (verdict, told) in zip(
                mutants, pool.map(self.outcome, mutants), strict=True
            ):
                counts[verdict] += 1
                print(f"{verdict:9} {mutant.name}\n{'':10}{told}", flush=True)
        seconds = time.monotonic() - start
        told = ", ".join(f"{counts[v]} {v}" for v in (KILLED, SURVIVED, UNTRIED))
        print(f"{len(mutants)} mutants: {told}; {seconds:.0f} s")
        return int(counts[KILLED] < len(mutants))

    def outcome(self, mutant: Mutant) -> tuple[str, str]:
        """Whether one of its test files fails with the mutant and passes without."""
        copy = self._copy()
        told = []
        for file in mutant.tests:
            if not self._passes(copy, file):
                told.append(f"{file} fails without the mutant")
                continue
            path = copy / mutant.path
            whole = path.read_text(encoding="utf-8")
            try:
                path.write_text(mutated(mutant, whole), encoding="utf-8")
                status, line = self._tested(copy, file)
            finally:
                path.write_text(whole, encoding="utf-8")
            if status == _FAILED:
                return KILLED, line
            if status is None:
                return KILLED, f"{file} did not end within {self.minutes:g} minutes"
            told.append(
                f"{file} passes" if status == _PASSED else f"pytest {status}: {line}"
            )
        known = [line for line in told if line.endswith(" passes")]
        return (SURVIVED if len(known) == len(told) else UNTRIED), "; ".join(told)

    def _copy(self) -> Path:
        if not hasattr(self._local, "copy"):
            self._local.copy = self.base / f"copy-{threading.get_ident()}"
            listed = subprocess.run(
                ["git", "ls-files", "-z", "-co", "--exclude-standard"],
                cwd=CHECKOUT, capture_output=True, check=True,
            ).stdout  # fmt: skip
            for name in filter(None, listed.decode().split("\0")):
                if (CHECKOUT / name).is_file():
                    target = self._local.copy / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(CHECKOUT / name, target)
        return self._local.copy

    def _passes(self, copy: Path, file: str) -> bool:
        with self._guards[file]:
            if file not in self._sound:
                self._sound[file] = self._tested(copy, file)[0] == _PASSED
            return self._sound[file]

    def _tested(self, copy: Path, file: str) -> tuple[int | None, str]:
        """pytest's exit status, None out of time, and the test that failed."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            # Two edits of one second and one size would leave the old bytecode.
            "PYTHONDONTWRITEBYTECODE": "1",
            "R2ET_RAW_DIR": os.environ.get(
                "R2ET_RAW_DIR", str(CHECKOUT.parent / "shared" / "data" / "raw")
            ),
            "JAX_COMPILATION_CACHE_DIR": str(self.base / "programs"),
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, file], cwd=copy, env=environment, capture_output=True,
                text=True, timeout=60 * self.minutes,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, ""
        lines = done.stdout.splitlines() or [""]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return done.returncode, (failed or lines)[-1][:120]


def mutated(mutant: Mutant, whole: str) -> str:
    """The file with the fault in it."""
    if whole.count(mutant.before) != 1:
        raise ValueError(
            f"{mutant.path} must hold once {mutant.before!r}, found "
            f"{whole.count(mutant.before)}"
        )
    return whole.replace(mutant.before, mutant.after)
