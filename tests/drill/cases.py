"""What a case of the drill is, and how its outcome is judged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.drill import children, world
from tests.drill.children import Outcome, Program

REFUSED, SURVIVED, FAILED, UNTRIED = "refused", "survived", "failed", "not tried"


class World(NamedTuple):
    """A folder that cases copy, and what was made in it.

    Attributes:
      folder: where it lies.
      programs: what has run in it, one after another.
      outcomes: how each ended.
    """

    folder: Path
    programs: tuple[Program, ...]
    outcomes: tuple[Outcome, ...]


class Given(NamedTuple):
    """What a case is given.

    Attributes:
      worlds: name -> world.
      folder: of the case alone, which does not exist yet.
      rng: its own, from the drill's seed and the case's name.
      deadline: of the drill, on the monotonic clock.
    """

    worlds: dict[str, World]
    folder: Path
    rng: random.Random
    deadline: float

    def run(self, program: Program, **options) -> Outcome:
        """Run a program in the case's folder, see `children.run`."""
        return children.run(program, self.folder, deadline=self.deadline, **options)


class Verdict(NamedTuple):
    """How a case ended: one of the words above, and what was wrong."""

    word: str
    why: str = ""


class Case(NamedTuple):
    """A case: category/kind/number, the worlds that it needs, and what is done."""

    name: str
    worlds: tuple[str, ...]
    judge: Callable[[Given], Verdict]

    @property
    def category(self) -> str:
        """What its counts are printed under."""
        return self.name.partition("/")[0]


def refused(outcome: Outcome, *named: str | tuple[str, ...]) -> Verdict:
    """Whether a program said no in one line.

    Args:
      outcome: how it ended.
      named: what the last line on stderr must hold; of a tuple, one of its texts.
    """
    told = f"status {outcome.status}, stderr ends with {outcome.last[-300:]!r}"
    if outcome.status is None:
        return Verdict(FAILED, f"no end in sight: {told}")
    if outcome.outside:
        return Verdict(FAILED, f"changed outside: {', '.join(outcome.outside[:3])}")
    if outcome.status < 0:
        return Verdict(FAILED, f"killed by signal {-outcome.status}: {told}")
    if outcome.status == 0:
        return Verdict(FAILED, "accepted")
    if "Traceback" in outcome.err:
        return Verdict(FAILED, f"a traceback: {told}")
    for texts in named:
        texts = (texts,) if isinstance(texts, str) else texts
        if not any(text in outcome.last for text in texts):
            return Verdict(FAILED, f"{' or '.join(texts)} is not named: {told}")
    return Verdict(REFUSED)


def survived(
    given: Given, name: str, outcome: Outcome, outputs: tuple[str, ...]
) -> Verdict:
    """Whether a program ended well, with the results of the unharmed world.

    Args:
      given: of the case.
      name: of the world.
      outcome: how the program ended.
      outputs: folders whose results and names are compared; all others must be as
        they were.
    """
    if outcome.status != 0:
        told = f"status {outcome.status}, stderr ends with {outcome.last[-300:]!r}"
        return Verdict(FAILED, f"does not go on: {told}")
    if outcome.outside:
        return Verdict(FAILED, f"changed outside: {', '.join(outcome.outside[:3])}")
    whole = given.worlds[name].folder
    for what, look in (
        ("other results", world.results),
        ("other files", world.names),
    ):
        told = world.difference(look(whole, *outputs), look(given.folder, *outputs))
        if told:
            return Verdict(FAILED, f"{what} than unharmed: {told}")
    told = world.difference(
        world.tree(whole, *outputs), world.tree(given.folder, *outputs)
    )
    return Verdict(FAILED, f"touched what is not its own: {told}") if told else (
        Verdict(SURVIVED)
    )  # fmt: skip
