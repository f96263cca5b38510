"""What the audit says of a model on given inputs."""

from __future__ import annotations

import collections
import dataclasses
import numbers
import os
from pathlib import Path

import numpy as np

from r2et_jax.audit import guard_words, page, words, writing
from r2et_jax.audit.asked import Asked
from r2et_jax.audit.gate import Gate
from r2et_jax.audit.measures import Certified, OnTheWay
from r2et_jax.audit.quality import Quality
from r2et_jax.checks import check_in
from r2et_jax.metrics.same import corrected_precision
from r2et_jax.metrics.summary import Summary, distinct_inputs, mean_and_stderr


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """How stable the explanations of a model are on m inputs.

    An input without a ranking is left out of every mean, and its entries are NaN: where
    the log-odds or a value of the explanation is not finite, or no value is positive.
    Where fewer than k values are positive, P@k is the share of those.

    Attributes:
      precision: lowest P@k that `strongest` reached on each input [m]; an upper bound
        of what an adversary leaves.
      precision_same_class: the same among inputs whose predicted class stayed [m].
        NaN for a regression.
      perturbed: the inputs that reached `precision`, in rows [m, n].
      maps: clean explanations [m, f] of the f features, pixels or variables.
      top_k: clean top-k features [m, k], the largest first.
      kept: whether each of them has positive saliency and stayed in the top k of
        `perturbed`, boolean [m, k].
      same: mean top-k overlap between different inputs; near 1 the explanation hardly
        depends on the input, and a high precision says little. NaN where fewer than two
        distinct inputs have a ranking.
      noise_precision: P@k under random noise of norm 1e-6 [m]; below 1 the input sits
        on a kink or a tie.
      vanished: share of inputs at which the gradient of the ranking is exactly zero
        on all features that may move: attacks by the model's own gradient are blind
        there, and go through its smooth stand-in.
      predicted: the class of each clean input [m]; of a regression, and with a
        `target`, whether the value or the log-odds of the target is positive.
      excluded: why an input is left out, texts [m], empty where it is not.
      num_positive: features with positive saliency, integers [m].
      tied: whether the k-th and the (k+1)-th value are positive and equal, so that the
        top set depends on the features' order, boolean [m].
      moved: whether the threat model moved the clean input inside, boolean [m].
      coarse: whether an input holds values so large that changes of ε are lost in the
        rounding of a column, boolean [m]: P@k says too much there.
      x: the clean inputs, in rows [m, n].
      perturbed_maps: explanations of `perturbed` [m, f].
      outputs: logits or values of the clean inputs [m, C].
      perturbed_outputs: those of `perturbed` [m, C].
      epsilons: budgets [e], rising, the threat model's own among them.
      curve: lowest P@k under each [e, m]; does not rise with the budget.
      curve_same_class: the same with the predicted class kept [e, m].
      distances: least distance seen at which each top feature is no longer one
        [m, k]; ∞ where none was, NaN where it has no saliency. An upper bound.
      on_the_way: `OnTheWay`, P@k at smaller budgets than those that were attacked, on
        the straight ways to what the attacks found; an attack at these may find less.
      certified: `Certified`, what is provable at each budget, or why nothing is.
      nearest: median distance of the inputs to the nearest other one.
      quality: `Quality`, thickness, and faithfulness beside that of a random ranking.
      asked: what was asked, see `Asked`.
    """

    precision: np.ndarray
    precision_same_class: np.ndarray
    perturbed: np.ndarray
    maps: np.ndarray
    top_k: np.ndarray
    kept: np.ndarray
    same: float
    noise_precision: np.ndarray
    vanished: float
    predicted: np.ndarray
    excluded: np.ndarray
    num_positive: np.ndarray
    tied: np.ndarray
    moved: np.ndarray
    coarse: np.ndarray
    x: np.ndarray
    perturbed_maps: np.ndarray
    outputs: np.ndarray
    perturbed_outputs: np.ndarray
    epsilons: np.ndarray
    curve: np.ndarray
    curve_same_class: np.ndarray
    distances: np.ndarray
    on_the_way: OnTheWay
    certified: Certified
    nearest: float
    quality: Quality
    asked: Asked

    @property
    def counted(self) -> np.ndarray:
        """Whether an input has a ranking and enters the means, boolean [m]."""
        return self.excluded == ""

    @property
    def radius(self) -> np.ndarray:
        """Least distance seen at which the top set is another one [m]."""
        some = np.where(np.isnan(self.distances), np.inf, self.distances)
        return np.where(self.counted, some.min(axis=1), np.nan)

    @property
    def certified_radius(self) -> np.ndarray:
        """Up to which distance the top set provably stays [m]; NaN without proofs."""
        if self.certified.radii is None:
            return np.full(len(self.precision), np.nan)
        least = np.where(np.isnan(self.distances), np.inf, self.certified.radii)
        return np.where(self.counted, least.min(axis=1), np.nan)

    @property
    def corrected(self) -> Summary:
        """P@k⁺, P@k above what different inputs share anyway."""
        k = self.asked.k
        kept = self.counted
        distinct = distinct_inputs(self.x)
        return corrected_precision(
            self.precision[kept], self.maps[kept], k=k, units=distinct[kept]
        )

    def at(self, epsilon: float | None = None) -> int:
        """The place of a budget in `epsilons`; by default the threat model's own.

        Raises:
          ValueError: for a budget that was not measured.
        """
        epsilon = self.asked.epsilon if epsilon is None else epsilon
        try:
            close = np.isclose(self.epsilons, float(epsilon), rtol=1e-6, atol=0)
        except (TypeError, ValueError):
            close = np.zeros(1, bool)
        if not close.any():
            measured = ", ".join(f"{known:g}" for known in self.epsilons)
            raise ValueError(
                f"P@k was measured at ε = {measured}, got {epsilon!r}: name it in "
                "epsilons= of the audit"
            )
        return int(np.flatnonzero(close)[0])

    def check(
        self,
        min_precision: float = 0.9,
        at: float | None = None,
        *,
        prediction: str = "free",
    ) -> Gate:
        """Whether the mean P@k under attack is at least a level: a gate.

        Args:
          min_precision: the level, in [0, 1].
          at: a budget that was measured; by default the threat model's own.
          prediction: "free", or "same_class" for attacks that keep the class.

        Returns:
          `Gate`: true if it is, false also where no input has a ranking; print it for
          a line, its `exit_status` is that of a command.

        Raises:
          ValueError: for a level outside of [0, 1], a budget that was not measured, an
            unknown rule, a class that a regression should keep.
        """
        check_in("prediction rule", prediction, ("free", "same_class"))
        is_number = isinstance(min_precision, numbers.Real | np.number)
        if isinstance(min_precision, bool) or not (
            is_number and 0 <= min_precision <= 1
        ):
            raise ValueError(f"min_precision must lie in [0, 1], got {min_precision!r}")
        if prediction == "same_class" and self.asked.output == "regression":
            raise ValueError(
                "a regression has no class that stays: ask with prediction='free', got "
                "'same_class'"
            )
        curve = self.curve if prediction == "free" else self.curve_same_class
        place = self.at(at)
        mean = float(mean_and_stderr(curve[place]).mean)
        return Gate(
            # Means of shares of k are exact but for rounding.
            passed=bool(mean >= min_precision - 1e-9),
            precision=mean,
            min_precision=float(min_precision),
            epsilon=float(self.epsilons[place]),
            k=self.asked.k,
            prediction=prediction,
            doubts=words.doubts(self),
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        title: str = "Audit of explanations",
        figures: bool | None = None,
    ) -> list[Path]:
        """Write a page, the numbers and pictures to a folder, see `writing.save`."""
        return writing.save(self, folder, title=title, figures=figures)

    def _repr_html_(self) -> str:
        return page.notebook(self)

    def __repr__(self) -> str:
        return f"<Audit of {len(self.precision)} inputs>\n{self}"

    def __str__(self) -> str:
        k, m = self.top_k.shape[1], len(self.precision)
        counted = self.excluded == ""
        if not counted.any():
            lines = [f"P@{k} not available: no input has a ranking"]
        else:
            same = f"{self.same:.3f} between different inputs"
            if np.isnan(self.same):
                same = "overlap between inputs not available (only one)"
            n = f"{m} input{'s' * (m > 1)}"
            n = n if counted.all() else f"{counted.sum()} of {n}"
            by_class = f" ({_mean(self.precision_same_class)} with the class kept)"
            by_class = "" if self.asked.output == "regression" else by_class
            lines = [
                f"P@{k} {_mean(self.precision)} under attack{by_class}, "
                f"{_mean(self.noise_precision)} under noise of norm 1e-6, "
                f"{same}; {n}"
            ]
        reasons = collections.Counter(self.excluded[~counted].tolist())
        single = len(np.unique(self.predicted[counted])) == 1 < counted.sum()
        if single and self.asked.output != "regression":
            # Outputs of another kind than logits may never change sign.
            which = words.class_name(self, int(np.flatnonzero(counted)[0]))
            lines.append(f"all are predicted as {which}")
        lines += [f"left out: {n} of {m} inputs, {why}" for why, n in reasons.items()]
        silent = int(np.sum(counted & ~np.isfinite(self.noise_precision)))
        fewer = int(np.sum(counted & (self.num_positive < k)))
        for n, what in (
            (fewer, f"have fewer than {k} features with saliency: P@{k} is over those"),
            (int(self.tied.sum()), f"are tied between ranks {k} and {k + 1}"),
            (silent, "have no ranking under the noise, and are left out there"),
            (
                int(guard_words.no_number(self).sum()),
                "can be changed within ε so that the explanation is not finite: the "
                "attack leaves such changes out",
            ),
            (int(self.moved.sum()), "were outside of the box and were moved inside"),
            (
                int(self.coarse.sum()),
                f"hold values so large that {self.asked.dtype} rounds changes of ε = "
                f"{self.asked.epsilon:g} off: standardise the columns, or use float64",
            ),
        ):
            lines += [f"{n} of {m} inputs {what}"] * bool(n)
        if not self.asked.differentiable:
            lines.append(f"gradients are from {self.asked.stand_in}")
        if self.asked.unsmoothed:
            lines.append(words.unseen(self.asked))
        if counted.any():
            lines += [words.table(self), guard_words.worth(self), *words.verdict(self)]
        return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    return f"{mean_and_stderr(values).mean:.3f}"
