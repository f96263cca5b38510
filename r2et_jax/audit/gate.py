"""The answer of a gate: passed or not, with the numbers that it rests on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gate:
    """Whether P@k under attack is high enough; true where it is. Print it for a line.

    `sys.exit(report.check(0.9).exit_status)` ends a program as `r2et-audit` does.

    Attributes:
      passed: whether the mean is at least the level.
      precision: mean P@k under attack; NaN where no input has a ranking.
      min_precision: the level.
      epsilon: the budget of the attack.
      k: size of the top set.
      prediction: "free", or "same_class" for attacks that keep the class.
      doubts: of how many inputs the precision says nothing, in words; empty for none.
    """

    passed: bool
    precision: float
    min_precision: float
    epsilon: float
    k: int
    prediction: str
    doubts: str = ""

    @property
    def exit_status(self) -> int:
        """0 passed, 1 failed, as of a command."""
        return 0 if self.passed else 1

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        word = "passed" if self.passed else "FAILED"
        kept = " with the class kept" if self.prediction == "same_class" else ""
        got = f"{self.precision:.3f}"
        if self.precision != self.precision:
            got = "not available: no input has a ranking"
        return (
            f"{word}: mean P@{self.k}{kept} of at least {self.min_precision:g} at "
            f"ε = {self.epsilon:g}, got {got}{self.doubts}"
        )
