"""How near the certified radii come to the smallest change that attacks find."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.console.flags import Options
from experiments.evidence.measure import Finding
from experiments.loop import setup
from experiments.problems import presets, registry
from r2et_jax import attacks, certificates, datasets
from r2et_jax.audit import ways
from r2et_jax.execution import num_cores
from r2et_jax.subject import Subject, subject
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.definition import with_epsilon

# Part of what is certified by which a change within it has to be nearer to count
# against it: both distances are rounded.
_ROUNDING = 1e-4


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      num_inputs: validation inputs whose radii are measured.
      largest: budget that is looked at.
      evaluations: of the gradient by `strongest` at each budget.
      num_budgets: budgets of each input, at most.
      num_timed: test inputs whose certificates are timed.
    """

    num_inputs: int
    largest: float
    evaluations: int
    num_budgets: int
    num_timed: int


class Radii(NamedTuple):
    """Of m inputs, in units of x.

    Attributes:
      certified: radius within which the whole top-k set provably stays [m].
      smallest: distance of the nearest input found whose top-k set is another one [m];
        ∞ where none was found.
    """

    certified: np.ndarray
    smallest: np.ndarray


def radii(options: Options) -> Iterator[Finding]:
    """Certified radius over the smallest change found, model by model."""
    sizes = Sizes(*presets.RADII[options.preset])
    for name in options.datasets:
        problem = registry.problem(datasets.load(name, data_dir=options.data_dir))
        k = problem.k or options.k[0]
        fitter = setup.fitter(problem, k, options)
        x, _, _ = problem.inputs("valid", sizes.num_inputs)
        for method in options.methods or presets.RADII_METHODS:
            model, params = fitter.fit(method).at(0, 0)
            start = time.perf_counter()
            measured = measure(
                subject(model, params),
                np.asarray(x),
                problem.threat_model(sizes.largest, norm="l2"),
                k=k,
                evaluations=sizes.evaluations,
                num_budgets=sizes.num_budgets,
            )
            seconds = time.perf_counter() - start
            yield finding(f"{name}, {method}", measured, sizes.largest, seconds)


def measure(
    examined: Subject,
    x: np.ndarray,
    threat: ThreatModel,
    *,
    k: int,
    evaluations: int,
    num_budgets: int,
) -> Radii:
    """Certified radii and the smallest changes found.

    `strongest` attacks each input at budgets between what is certified and the nearest
    change so far, the geometric mean of both. Whatever it finds is followed on the
    straight way to it, on which the set may change earlier.

    Args:
      examined: a model of rows.
      x: inputs [m, n].
      threat: its budget is the largest that is looked at.
      k: size of the top set.
      evaluations: of the gradient at each budget.
      num_budgets: budgets of each input, at most.

    Returns:
      `Radii`.
    """
    largest = float(threat.epsilon)
    certified = certificates.certified_radii(examined, x, threat, k=k, largest=largest)
    nearest = _nearest(examined, threat, k, evaluations)
    smallest = [
        _smallest(nearest, row, radius, largest, num_budgets)
        for row, radius in zip(x, certified.radius.astype(float), strict=True)
    ]
    return Radii(certified.radius, np.array(smallest))


def _nearest(
    examined: Subject, threat: ThreatModel, k: int, evaluations: int
) -> Callable[[np.ndarray, float], float]:
    """`nearest(row, budget)`: distance at which an attack within it changes the set."""
    attack = attacks.attack(k=k, evaluations=evaluations)
    key = jax.random.key(0)

    def nearest(row, budget):
        x, within = row[None], with_epsilon(threat, budget)
        ends = attack(examined, x, within, key=key).best.perturbed[:, None]
        way = ways.seen(
            examined.form, examined.params, x, ends, within, k=k, largest=budget
        )
        # NaN of top features without saliency, which no change can take away.
        return float(np.nanmin(np.append(way.distances[0], np.inf)))

    return nearest


def _smallest(nearest, row, certified, largest, num_budgets) -> float:
    if certified >= largest:
        return np.inf
    high = nearest(row, largest)
    # Just within what is certified nothing may change. Else the interval shrinks from
    # above by changes, from below by budgets without any.
    low = certified * (1 - _ROUNDING)
    budgets = [low] if 0 < low < high < np.inf else []
    while budgets:
        budget = budgets.pop()
        seen = nearest(row, budget)
        high, low = min(high, seen), low if seen < np.inf else budget
        num_budgets -= 1
        if num_budgets and low < high * (1 - presets.RADII_PRECISION):
            budgets.append(float(np.sqrt(low * high)))
    return high


def finding(subject_name: str, measured: Radii, largest: float, seconds: float):
    """What the radii of a model show; the median of the ratios has to reach .9."""
    certified, smallest = measured
    whole, changed = certified >= largest, np.isfinite(smallest)
    unseen = ~whole & ~changed
    ratio = certified[changed] / smallest[changed]
    below = int(np.sum(ratio > 1 + _ROUNDING))
    quartiles = np.quantile(ratio, [0.25, 0.5, 0.75]) if ratio.size else [np.nan] * 3
    low, median, high = (float(value) for value in quartiles)
    text = (
        f"median ratio {median:.3f}, quartiles {low:.3f} and {high:.3f}, of "
        f"{ratio.size} inputs; left out {whole.sum()} certified as far as "
        f"{largest:g}, the largest budget that was looked at, and {unseen.sum()} "
        f"without a change that far; {below} with a change within what is certified; "
        f"{seconds:.0f} s"
    )
    numbers = {
        "median": median,
        "lower_quartile": low,
        "upper_quartile": high,
        "inputs": ratio.size,
        "certified_to_the_end": int(whole.sum()),
        "unchanged": int(unseen.sum()),
        "violations": below,
        "median_certified": float(np.median(certified)),
        "seconds": seconds,
    }
    return Finding(subject_name, text, numbers, bool(median >= 0.9 and not below))


def many_radii(options: Options) -> Iterator[Finding]:
    """Seconds that certified P@k of many inputs takes at ten budgets."""
    sizes = Sizes(*presets.RADII[options.preset])
    budgets = np.linspace(0.1, 1.0, presets.NUM_RADII)
    for name in options.datasets:
        for hidden in presets.RADII_NETWORKS:
            problem = registry.problem(datasets.load(name, data_dir=options.data_dir))
            problem.hidden = hidden
            k = problem.k or options.k[0]
            fitter = setup.fitter(problem, k, options)
            x, _, _ = problem.inputs("test", sizes.num_timed)
            for method in options.methods or presets.TIMED_METHODS:
                model, params = fitter.fit(method).at(0, 0)
                widths = ",".join(map(str, hidden))
                yield timed(
                    f"{name}, {method}, hidden={widths}",
                    subject(model, params),
                    np.asarray(x),
                    problem.threat_model(1.0, norm="l2"),
                    budgets,
                    k=k,
                )


def timed(subject_name: str, examined: Any, x, threat, budgets, *, k: int) -> Finding:
    """How long the first certificates take, which compile, and the same once more."""

    def certify():
        start = time.perf_counter()
        precision = [
            certificates.certify(examined, x, with_epsilon(threat, float(e)), k=k)
            .precision.mean()
            for e in budgets
        ]  # fmt: skip
        return time.perf_counter() - start, precision

    first, _ = certify()
    again, precision = certify()
    ends = [float(value) for value in (precision[0], precision[-1])]
    text = (
        f"certified P@{k} of {len(x)} inputs at {len(budgets)} budgets takes "
        f"{again:.1f} s, {first:.1f} s with what compiles, on {num_cores()} cores "
        f"({ends[0]:.3f} at ε = {budgets[0]:g}, {ends[1]:.3f} at {budgets[-1]:g})"
    )
    numbers = {
        "seconds": again,
        "seconds_first": first,
        "cores": num_cores(),
        "inputs": len(x),
        "budgets": len(budgets),
        "certified_at_first_budget": ends[0],
        "certified_at_last_budget": ends[1],
    }
    return Finding(subject_name, text, numbers, first < presets.MOST_SECONDS)
