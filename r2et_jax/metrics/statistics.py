"""From seeds and folds to runs, and what the runs allow to say.

One rule for all means over trained models: a *run* is a seed, and its value the mean
over its folds; of a single seed each fold is a run. Runs are independent of each other,
inputs of one model are not: they enter through the mean of their run. One rule for "A
is better than B": the differences of the runs that both have, by Student's t, several
of them at once by Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from r2et_jax.metrics.summary import Summary, mean_and_stderr

CONFIDENCE = 0.95
# (seed, fold) -> what was measured of that model.
Cells = Mapping[tuple[Hashable, Hashable], float]


class Estimate(NamedTuple):
    """A mean over runs.

    Attributes:
      mean: the mean; nan if a run has no finite value, since the others would be those
        that went well.
      stderr: its standard error; nan if unknown. What stands behind every ±.
      over: what the error is taken over: "seeds", "folds" or "inputs".
      n: number of those.
      runs: number of runs, on which a verdict rests: none rests on a single one.
      num_nonfinite: how many of them have no finite value.
    """

    mean: float
    stderr: float
    over: str
    n: int
    runs: int
    num_nonfinite: int

    @property
    def low(self) -> float:
        """Lower end of Student's interval at `CONFIDENCE`; −∞ where unknown."""
        return self.mean - self._reach

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self._reach

    @property
    def _reach(self) -> float:
        if self.runs < 2 or math.isnan(self.stderr):
            return math.inf
        quantile = scipy.special.stdtrit(self.runs - 1, (1 + CONFIDENCE) / 2)
        return float(quantile * self.stderr)

    def p_value(self, level: float = 0.0) -> float:
        """Of Student's two-sided test that the mean is a level; nan where unknown."""
        if self.runs < 2 or math.isnan(self.stderr):
            return math.nan
        distance = abs(self.mean - level)
        if not self.stderr:
            return float(distance == 0)
        return float(2 * scipy.special.stdtr(self.runs - 1, -distance / self.stderr))


def estimate(values: Sequence[float], *, over: str = "seeds") -> Estimate:
    """The mean of independent values, one of each run.

        mean ± s/√n,   s² = Σ (vᵢ − mean)²/(n − 1)

    Args:
      values: of the runs.
      over: what they are, "seeds", "folds" or "inputs".

    Returns:
      `Estimate`; nan where a run has no finite value.

    Example:
      >>> average = estimate([0.25, 0.5, 0.75])
      >>> print(f"{average.mean} ± {average.stderr:.3f}, at least {average.low:.2f}")
      0.5 ± 0.144, at least -0.12
    """
    summary = mean_and_stderr(np.array(list(values), np.float64))
    count = int(summary.n + summary.num_nonfinite)
    mean, stderr = float(summary.mean), float(summary.stderr)
    if summary.num_nonfinite:
        mean = stderr = math.nan
    return Estimate(mean, stderr, over, count, count, int(summary.num_nonfinite))


def by_run(cells: Cells) -> dict[Hashable, float]:
    """Run -> its value: seed -> mean over folds; of a single seed, fold -> value.

    A seed that lacks a fold of another one, or has no finite value of one, is nan: its
    mean would be over other folds.

    Example:
      >>> print(by_run({(0, 0): 0.5, (0, 1): 1.0, (1, 0): 0.25, (1, 1): 0.5}))
      {0: 0.75, 1: 0.375}
      >>> print(by_run({(0, 0): 0.5, (0, 1): 1.0}))
      {0: 0.5, 1: 1.0}
    """
    seeds = dict.fromkeys(seed for seed, _ in cells)
    folds = dict.fromkeys(fold for _, fold in cells)
    if len(seeds) == 1:
        return {fold: float(value) for (_, fold), value in cells.items()}
    return {
        seed: math.fsum(cells.get((seed, fold), math.nan) for fold in folds)
        / len(folds)
        for seed in seeds
    }


def over_runs(cells: Cells, *, single: Summary | None = None) -> Estimate:
    """The mean over runs, see `by_run`.

    Args:
      cells: (seed, fold) -> value.
      single: where there is one cell alone, its mean over inputs, whose error is shown
        in place of one over runs.

    Returns:
      `Estimate`.

    Example:
      >>> average = over_runs({(0, 0): 0.5, (0, 1): 1.0, (0, 2): 0.75})
      >>> print(average.mean, average.over, average.runs)
      0.75 folds 3
    """
    values = by_run(cells)
    over = "seeds" if len({seed for seed, _ in cells}) > 1 else "folds"
    mean = estimate(list(values.values()), over=over)
    if len(cells) != 1:
        return mean
    n = 0 if single is None else int(single.n)
    stderr = math.nan if single is None else float(single.stderr)
    return mean._replace(stderr=stderr, over="inputs", n=n)


def differences(a: Cells, b: Cells) -> dict[tuple[Hashable, Hashable], float]:
    """a − b of every model, paired by seed and fold, of those that both have.

    Example:
      >>> print(differences({(0, 0): 0.75, (1, 0): 0.5}, {(0, 0): 0.5, (2, 0): 0.5}))
      {(0, 0): 0.25}
    """
    return {cell: a[cell] - b[cell] for cell in a if cell in b}


def verdicts(estimates: Iterable[Estimate], level: float = 0.0) -> list[bool | None]:
    """Whether each of several means that are judged together lies above a level.

    True above and False below, where p of Student's test, corrected by Holm's method
    over all of them, is less than 1 − `CONFIDENCE`; else None. None also where a run
    has no finite value, or there is only one.

    With `over_runs` of `differences` it is the rule for "A is better than B".

    Args:
      estimates: the means, judged together.
      level: what each has to be above.

    Returns:
      True, False or None for each, in the same order.

    Example:
      >>> from r2et_jax.metrics.statistics import differences, over_runs
      >>> better = over_runs(differences({(s, 0): 0.9 + s / 99 for s in range(5)},
      ...                                {(s, 0): 0.5 for s in range(5)}))
      >>> print(verdicts([better, better._replace(stderr=0.9)]))
      [True, None]
    """
    estimates = list(estimates)
    corrected = holm([estimated.p_value(level) for estimated in estimates])
    clear = [p < 1 - CONFIDENCE for p in corrected]
    return [
        estimated.mean > level if known else None
        for estimated, known in zip(estimates, clear, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: max over those up to mine of (m − rank) p, at most 1.

    nan stays nan and is not counted.

    Args:
      p_values: of the tests that are judged together.

    Returns:
      The corrected ones, in the same order.

    Example:
      >>> print(holm([0.01, 0.04, 0.03]))
      [0.03, 0.06, 0.06]

    Source: Holm 1979.
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(known, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def jackknife_stderr(without: ArrayLike) -> np.float64:
    """Standard error of a statistic from its values without one input each.

        stderr = √((n − 1)/n · Σᵢ (θ₋ᵢ − θ̄)²),   θ̄ = mean of θ₋ᵢ

    Of a mean it is the ordinary one.

    Args:
      without: θ₋ᵢ [n], the statistic of all inputs but the i-th.

    Returns:
      The error; nan if n < 2 or a value is not finite.

    Example:
      >>> values = np.array([1.0, 3.0, 8.0])
      >>> print(f"{jackknife_stderr((values.sum() - values) / 2):.3f}")
      2.082

    Source: Efron 1982.
    """
    without = np.asarray(without, np.float64)
    n = len(without)
    if n < 2 or not np.isfinite(without).all():
        return np.float64(np.nan)
    return np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
