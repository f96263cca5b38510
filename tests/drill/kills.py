"""SIGKILL at the n-th file operation and at random moments: a restart loses nothing."""

from __future__ import annotations

import functools
import signal

from tests.drill import world
from tests.drill.cases import FAILED, Case, Given, Verdict, survived

# World -> folders that its program writes, and how many cases of each kind there are.
_PLACES = {
    "tabular": ((world.DATA,), 20, 10),
    "train": ((world.OUT, world.KEPT), 30, 15),
    "robustness": ((world.OUT, world.KEPT), 12, 8),
}


def cases() -> list[Case]:
    """All cases."""
    made = []
    for name, (_, at, after) in _PLACES.items():
        for kind, count in (("operation", at), ("moment", after)):
            made += [
                Case(
                    f"kills/{name}-{kind}/{number}",
                    ("raw", name),
                    functools.partial(_killed, name, kind, number / count),
                )
                for number in range(count)
            ]
    return made


def _killed(name: str, kind: str, share: float, given: Given) -> Verdict:
    """Kill a program, at times its restart as well, and let it come to its end."""
    outputs, *counts = _PLACES[name]
    unharmed = given.worlds[name]
    program, whole = unharmed.programs[0], unharmed.outcomes[0]
    world.copy(given.worlds["raw"].folder, given.folder)
    width = 1 / counts[kind == "moment"]
    for _ in range(given.rng.choice([1, 1, 2])):
        at = share + width * given.rng.random()
        options = {"kill_at": 1 + int(at * whole.operations)}
        if kind == "moment":
            options = {"kill_after": at * whole.seconds}
        killed = given.run(program, **options)
        if killed.status not in (0, -signal.SIGKILL):
            return Verdict(FAILED, f"after {options}: {killed.last[-300:]!r}")
        share = given.rng.random() * (1 - width)
    return survived(given, name, given.run(program), outputs)
