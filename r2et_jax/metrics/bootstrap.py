"""Two methods compared by resampling seeds and inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.metrics._arrays import check_axes

# Resampled values that are held at once; bounds the memory of the bootstrap.
_BOOTSTRAP_BLOCK = 2_000_000


class Comparison(NamedTuple):
    """Two methods compared over seeds and inputs.

    Attributes:
      difference: mean of a − b: mean over inputs, then over seeds.
      lower: lower end of the percentile confidence interval.
      upper: upper end of it.
      p_value: two-sided, in (0, 1].
      num_nonfinite: pairs left out because either value is not finite.
    """

    difference: float
    lower: float
    upper: float
    p_value: float
    num_nonfinite: int


def hierarchical_bootstrap(
    values_a: Any,
    values_b: Any,
    *,
    num_samples: int = 10_000,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two methods by resampling seeds, then inputs within each drawn seed.

        d_si = a_si − b_si,   d* = mean over drawn seeds s of mean over drawn i of d_si
        p = min(1, 2 min(1 + #{d* ≤ 0}, 1 + #{d* ≥ 0}) / (B + 1))

    Paired: a and b keep their seed and their input together. Inputs of one model are
    not independent of each other, so that the seeds carry the comparison. With few of
    them the interval is too narrow: where the spread between seeds dominates, a true
    null is rejected at p < .05 in about 16 % of comparisons of 5 seeds and 9 % of 10
    or 20 (simulated). One seed alone leaves only the spread over inputs.

    Args:
      values_a: metric [seeds, inputs] of the first method.
      values_b: metric [seeds, inputs] of the second, on the same seeds and inputs.
      num_samples: number B of bootstrap samples, at least 1.
      rng: NumPy generator, the only source of randomness.
      confidence: level of the interval, in (0, 1).

    Returns:
      `Comparison`. Pairs with a value that is not finite are left out and counted; if
      a seed has no other pair, the difference, the interval and the p-value are nan.

    Raises:
      ValueError: if the shapes differ, are not [seeds, inputs] or are empty, or a
        hyperparameter is out of its range.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> a = np.array([[0.9, 0.8], [0.7, 0.9]])
      >>> result = hierarchical_bootstrap(a, a - 0.25, num_samples=99, rng=rng)
      >>> print(f"{result.difference:.2f} {result.lower:.2f} {result.p_value:.2f}")
      0.25 0.25 0.02

    Source: Davison and Hinkley 1997, section 3.8; Saravanan et al. 2020.
    """
    values_a = np.asarray(values_a, np.float64)
    values_b = np.asarray(values_b, np.float64)
    check_axes("values_a", values_a, "seeds, inputs")
    if values_a.shape != values_b.shape or values_a.size == 0:
        raise ValueError(
            "values_a and values_b must have the same shape [seeds, inputs] and hold "
            f"something, got {values_a.shape} and {values_b.shape}"
        )
    check_count("num_samples", num_samples)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, got {rng!r}")

    finite = np.isfinite(values_a) & np.isfinite(values_b)
    num_nonfinite = int(np.sum(~finite))
    if not finite.any(axis=1).all():
        return Comparison(np.nan, np.nan, np.nan, np.nan, num_nonfinite)
    differences = [
        a[keep] - b[keep] for a, b, keep in zip(values_a, values_b, finite, strict=True)
    ]
    difference = float(np.mean([np.mean(d) for d in differences]))

    block = max(1, _BOOTSTRAP_BLOCK // values_a.size)
    sizes = [min(block, num_samples - start) for start in range(0, num_samples, block)]
    samples = np.concatenate([_resample(differences, size, rng) for size in sizes])
    tail = 100 * (1 - confidence) / 2
    lower, upper = np.percentile(samples, [tail, 100 - tail])
    extreme = 1 + min(np.sum(samples <= 0), np.sum(samples >= 0))
    p_value = min(1.0, 2 * float(extreme) / (num_samples + 1))
    return Comparison(difference, float(lower), float(upper), p_value, num_nonfinite)


def _resample(
    differences: list[np.ndarray], num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    num_seeds = len(differences)
    drawn = rng.integers(num_seeds, size=(num_samples, num_seeds))
    means = np.empty(drawn.shape)
    for seed, values in enumerate(differences):
        here = drawn == seed
        rows = rng.integers(values.size, size=(int(here.sum()), values.size))
        means[here] = values[rows].mean(axis=1)
    return means.mean(axis=1)
