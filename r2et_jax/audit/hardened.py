"""What `harden` gives back: the model, how it was chosen, and what that changed."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from r2et_jax.audit import words
from r2et_jax.audit.comparison import Difference, compare
from r2et_jax.audit.result import Audit
from r2et_jax.subject import Subject
from r2et_jax.types import Params

# Standard errors that P@k⁺ must rise by to count as a rise.
_CLEAR = 2


class Quality(NamedTuple):
    """How well a model predicts.

    Attributes:
      accuracy: share of inputs with the right class.
      auc: area under the ROC curve, of several classes as in `metrics.roc_auc`; NaN
        where one class alone is present.
    """

    accuracy: float
    auc: float


class Checkpoint(NamedTuple):
    """A candidate of the search, on validation data.

    Attributes:
      epoch: epochs trained, 0 of the model that was given.
      weights: penalty -> weight, empty of the model that was given.
      quality: what the tolerance is about, accuracy or AUC.
      precision: mean P@k under the selection's attack; NaN where it was not measured,
        as of all that give up more than the tolerance.
      admissible: whether the quality is kept.
      chosen: whether it is the one.
    """

    epoch: int
    weights: dict[str, float]
    quality: float
    precision: float
    admissible: bool
    chosen: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Hardened:
    """A model whose top features were trained to hold; print it for what that changed.

    Attributes:
      subject: the model with the chosen parameters, for audits, attacks, certificates.
      params: the chosen parameters, as those that were given; these themselves where
        no checkpoint was better.
      start: the parameters that were given.
      k: size of the top set.
      method: how it was trained.
      tolerance: what of `quality` a checkpoint may give up on validation data.
      quality: what the tolerance is about, "accuracy" or "auc".
      num_epochs: epochs of the training, had it not been stopped early.
      num_trained: epochs that were trained; fewer after an early stop.
      history: all candidates, in the order of training; the first one is the model
        that was given.
      test_before, test_after: quality on the test part.
      before, after: audits on the test part, None where none was asked for.
    """

    subject: Subject
    params: Params
    start: Params
    k: int
    method: str
    tolerance: float
    quality: str
    num_epochs: int
    num_trained: int
    history: tuple[Checkpoint, ...]
    test_before: Quality
    test_after: Quality
    before: Audit | None
    after: Audit | None

    @property
    def chosen(self) -> Checkpoint:
        """The candidate that was chosen."""
        return next(trial for trial in self.history if trial.chosen)

    @property
    def difference(self) -> Difference | None:
        """P@k after less before, paired by input, at the threat model's budget."""
        if self.before is None or self.after is None:
            return None
        return compare({"after": self.after, "before": self.before}).differences[0]

    @property
    def one_ranking(self) -> bool:
        """Whether P@k rose, and not by more than what all inputs share anyway.

        That is so where different inputs have nearly the same top features afterwards,
        or where P@k⁺, from which their overlap is taken out, rose by no more than two
        standard errors: the model wins by one ranking for all inputs.
        """
        difference = self.difference
        if difference is None or difference.more_stable != "after":
            return False
        before, after = self.before.corrected, self.after.corrected
        gain = float(after.mean) - float(before.mean)
        error = math.hypot(float(before.stderr), float(after.stderr))
        return self.after.same >= words.ALIKE or not gain > _CLEAR * error

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write both audits, to `before` and `after` in a folder, see `Audit.save`."""
        if self.before is None or self.after is None:
            raise ValueError(
                "no audits to save: expected num_test ≥ 1 when it was hardened"
            )
        paths = self.before.save(Path(folder) / "before", title="Before")
        return paths + self.after.save(
            Path(folder) / "after", title=f"After {self.method}"
        )

    def __repr__(self) -> str:
        return f"<Hardened by {self.method}>\n{self}"

    def __str__(self) -> str:
        chosen, tried = self.chosen, len(self.history) - 1
        lines = []
        if self.difference is not None:
            lines += self._audited()
        lines.append(
            f"test accuracy {self.test_before.accuracy:.3f} → "
            f"{self.test_after.accuracy:.3f}, AUC {words.number(self.test_before.auc)} "
            f"→ {words.number(self.test_after.auc)}"
        )
        start = self.history[0]
        lines.append(
            f"on validation data, which alone chose: {self.quality} "
            f"{start.quality:.3f} → {chosen.quality:.3f} (at most {self.tolerance:g} "
            f"may be given up), P@{self.k} {words.number(start.precision)} → "
            f"{words.number(chosen.precision)}"
        )
        admissible = sum(trial.admissible for trial in self.history[1:])
        if chosen.epoch == 0:
            lines.append(
                f"no checkpoint of {self.method} was better ({tried} tried, "
                f"{admissible} of them kept the {self.quality}): the model is the one "
                "that was given"
            )
        else:
            weights = ", ".join(f"{n} {w:g}" for n, w in chosen.weights.items())
            lines.append(
                f"{self.method}{' with ' * bool(weights)}{weights} after "
                f"{chosen.epoch} of {self.num_epochs} epochs, out of {tried} "
                f"checkpoints, {admissible} of which kept the {self.quality}"
            )
        if self.num_trained < self.num_epochs:
            lines.append(
                f"stopped early after {self.num_trained} of {self.num_epochs} epochs, "
                "as no later checkpoint was better on validation data"
            )
        return "\n".join(lines)

    def _audited(self) -> list[str]:
        before, after, difference = self.before, self.after, self.difference
        k, plus = (
            before.asked.k,
            [audited.corrected.mean for audited in (before, after)],
        )
        estimate: Any = difference.estimate
        beyond = "more stable" if difference.more_stable == "after" else "less stable"
        beyond = beyond if difference.more_stable else "chance may explain it"
        lines = [
            f"{self.method}: P@{k} under attack {_mean(before)} → {_mean(after)} at "
            f"ε = {before.asked.epsilon:g} ({estimate.mean:+.3f}, 95 % interval "
            f"{words.number(estimate.low)} … {words.number(estimate.high)} over "
            f"{estimate.n} inputs: {beyond})",
            f"overlap of different inputs {words.number(before.same)} → "
            f"{words.number(after.same)}; above it, P@{k}⁺ {words.number(plus[0])} → "
            f"{words.number(plus[1])}",
        ]
        if self.one_ranking:
            lines.append(
                "it wins by one ranking for all inputs: the top features hold because "
                "they hardly depend on the input, and say little of the single one"
            )
        return lines


def _mean(audit: Audit) -> str:
    values = audit.precision[audit.counted]
    return words.number(float(values.mean()) if len(values) else float("nan"))
