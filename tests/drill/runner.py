"""Tries to break the programs, within a time limit, and counts how that ends.

  python -m tests.drill                         # about eight minutes on two cores
  python -m tests.drill --minutes=2 --seed=7
  python -m tests.drill --only=damage/records   # all cases whose names begin so
  python -m tests.drill --list

Kills at file operations and at random moments, damaged files, bad flags, bombs. What a
case does depends on --seed and its name alone. Exit status 1 if a case failed. Runs on
Linux.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.drill import bombs, damages, flags, kills, world
from tests.drill.cases import (
    FAILED,
    REFUSED,
    SURVIVED,
    UNTRIED,
    Case,
    Given,
    Verdict,
    World,
)
from tests.drill.children import OutOfTime

_CATEGORIES = (kills, damages, flags, bombs)
_WORLDS = {
    "raw": (),
    "tabular": (world.tabular("bank", "compas"), damages.LOAD),
    "train": (world.train("wd"), damages.LOAD_MODELS),
    "robustness": (world.robustness(),),
    "compas": (world.tabular("compas"), world.train(dataset="compas")),
}
# What the programs import, so that no child has to.
_IMPORTS = (
    "experiments.robustness.claims", "experiments.robustness.report",
    "experiments.measures.evaluation", "experiments.loop.training_flags",
    "experiments.console.cli", "experiments.models.trained", "data_prep._main",
    "data_prep.adult", "data_prep.bank", "data_prep.compas", "sklearn.datasets",
    "sklearn.linear_model", "matplotlib.pyplot", "r2et_jax.audit",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drill and return its exit status."""
    asked = _parsed(argv)
    cases = [case for category in _CATEGORIES for case in category.cases()]
    cases = _ordered([c for c in cases if c.name.startswith(asked.only)], asked.seed)
    if asked.list or not cases:
        print("\n".join(sorted(case.name for case in cases)) or "no such case")
        return int(not cases)
    with tempfile.TemporaryDirectory(prefix="drill-") as base:
        os.chmod(base, 0o755)
        drill = _Drill(cases, Path(base), asked)
        _cached(Path(base) / "cache")
        for name in _IMPORTS:
            importlib.import_module(name)
        return drill.run()


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.drill",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit")
    parser.add_argument("--only", default="", help="beginning of the cases' names")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    return parser.parse_args(argv)


def _cached(folder: Path) -> None:
    """Let the children share compiled programs, in a folder unless one is named."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _ordered(cases: Sequence[Case], seed: int) -> list[Case]:
    """Shuffled, but so that every category advances at the same rate."""
    by_category = collections.defaultdict(list)
    for case in sorted(cases, key=lambda case: case.name):
        by_category[case.category].append(case)
    placed = []
    for name, group in by_category.items():
        random.Random(f"{seed}/{name}").shuffle(group)
        placed += [
            ((i + 0.5) / len(group), case.name, case) for i, case in enumerate(group)
        ]
    return [case for _, _, case in sorted(placed, key=lambda item: item[:2])]


class _Drill:
    """A run of the drill; its methods are called in forked workers as well."""

    def __init__(self, cases: list[Case], base: Path, asked: argparse.Namespace):
        self.cases, self.base, self.asked = cases, base, asked
        self.deadline = time.monotonic() + 60 * asked.minutes
        self.worlds: dict[str, World] = {}

    def run(self) -> int:
        """Make the worlds, try the cases and print the counts."""
        began = time.monotonic()
        needed = sorted({name for case in self.cases for name in case.worlds})
        try:
            self.worlds = dict(self._spread(self._make, needed))
        except OutOfTime:
            print("the limit was over before anything could be tried", file=sys.stderr)
            return 1
        print(f"{len(self.cases)} cases, {', '.join(needed)} made in "
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        counts: dict[str, collections.Counter] = collections.defaultdict(
            collections.Counter
        )
        for i, verdict in self._spread(self._try, range(len(self.cases))):
            case = self.cases[i]
            counts[case.category][verdict.word] += 1
            if verdict.word == FAILED:
                print(f"FAILED {case.name}: {verdict.why}\n  repeat: python -m "
                      f"tests.drill --seed={self.asked.seed} --only={case.name}",
                      flush=True)  # fmt: skip
        return _told(counts, time.monotonic() - began)

    def _spread(self, function, items):
        context = multiprocessing.get_context("fork")
        global _CALLED
        _CALLED = function
        with context.Pool(self.asked.workers) as pool:
            yield from pool.imap_unordered(_call, items)

    def _make(self, name: str) -> tuple[str, World]:
        folder, programs = self.base / name, _WORLDS[name]
        outcomes = world.make(folder, *programs, deadline=self.deadline)
        return name, World(folder, programs, tuple(outcomes))

    def _try(self, number: int) -> tuple[int, Verdict]:
        case = self.cases[number]
        if time.monotonic() > self.deadline:
            return number, Verdict(UNTRIED)
        home = self.base / f"case{number}"
        home.mkdir()
        rng = random.Random(f"{self.asked.seed}/{case.name}")
        given = Given(self.worlds, home / "here", rng, self.deadline)
        try:
            verdict = case.judge(given)
        except OutOfTime:
            verdict = Verdict(UNTRIED)
        except Exception:
            verdict = Verdict(FAILED, f"the drill itself: {traceback.format_exc()}")
        shutil.rmtree(home, ignore_errors=True)
        return number, verdict


_CALLED = None


def _call(item):
    """What a worker does: pools pass functions by name, forks have all the rest."""
    return _CALLED(item)


def _told(counts: dict[str, collections.Counter], seconds: float) -> int:
    words = (REFUSED, SURVIVED, FAILED, UNTRIED)
    total = sum(counts.values(), collections.Counter())
    print(f"{'':8}{'tried':>10}" + "".join(f"{word:>10}" for word in words))
    for name, count in [*sorted(counts.items()), ("total", total)]:
        tried = count.total() - count[UNTRIED]
        row = "".join(f"{count[word]:>10}" for word in words)
        print(f"{name:8}{tried:>10}{row}")
    print(f"{seconds:.0f} s; refused: in one line that names what is wrong; survived: "
          "ended with the results of a run that nothing has happened to")  # fmt: skip
    if total[UNTRIED]:
        print(
            f"not tried when the time was over: {total[UNTRIED]}; --minutes=… for more"
        )
    return int(total[FAILED] > 0)
