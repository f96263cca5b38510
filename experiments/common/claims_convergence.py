"""Does multi-objective descent converge as 1/√T, and do larger gaps take longer?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.common import convergence, protocol
from experiments.common.fitting import Fitter
from r2et_jax import datasets


def measure(
    models, x: np.ndarray, *, k: int, effort: convergence.Effort
) -> dict[str, float]:
    """The numbers of one data set, over the models of all seeds.

    Args:
      models: pairs of a Flax module and its parameters, one for each seed.
      x: inputs [m, n], of which the effort takes the first.
      k: size of the top set.
      effort: how many inputs and steps.

    Returns:
      `rises`: accepted steps in which an objective did not fall. `violations`:
      directions above the bound of Armijo's rule. `exponent`: log(min‖d_T‖/‖d_1‖) over
      log T after the last step T, median over inputs; 1/√T is −.5. `reached`: share
      of inputs at −.5 or less. `converged`, `stalled`, `censored`: shares of inputs.
      `spearman`, `pearson`, `spearman_all`: of gap and steps, means over seeds.
      `seeds_positive`: share of seeds whose `spearman_all` is positive.
      `steps_narrow`, `steps_wide`: median steps of the narrower and of the wider half
      of the gaps, censored inputs as one step beyond the last, means over seeds.
    """
    x = x[: effort.num_inputs]
    rises, violations, exponents, related, halves, ends = 0, 0, [], [], [], []
    for model, params in models:
        result = convergence.descent(model, k, effort.rate_steps)(params, x)
        counted = convergence.descent(
            model, k, effort.flip_steps, max_length=convergence.MAX_LENGTH
        )(params, x)
        found = convergence.rate(result)
        rises += found.num_rises + convergence.rate(counted).num_rises
        violations += found.num_violations
        exponents += list(found.exponent)
        gaps, steps = convergence.initial_gaps(counted), counted.manipulation_epoch
        related.append(convergence.dependence(gaps, steps, num_steps=effort.flip_steps))
        filled = np.where(steps > 0, steps, effort.flip_steps + 1)
        order = np.argsort(gaps, kind="stable")
        narrow, wide = np.array_split(filled[order], 2)
        halves.append((np.median(narrow), np.median(wide)))
        ends.append(
            (result.converged.mean(), result.stalled.mean(), np.mean(steps == 0))
        )
    moved = np.array(exponents)[np.isfinite(exponents)]
    converged, stalled, censored = np.mean(ends, axis=0)
    narrow, wide = np.mean(halves, axis=0)
    spearman_all = np.array([item.spearman_all for item in related])
    return {
        "rises": float(rises),
        "violations": float(violations),
        "exponent": float(np.median(moved)) if moved.size else np.nan,
        "reached": float(np.mean(moved <= -0.5)) if moved.size else np.nan,
        "converged": float(converged),
        "stalled": float(stalled),
        "censored": float(censored),
        "spearman": float(np.mean([item.spearman for item in related])),
        "pearson": float(np.mean([item.pearson for item in related])),
        "spearman_all": float(np.mean(spearman_all)),
        "seeds_positive": float(np.mean(spearman_all > 0)),
        "steps_narrow": float(narrow),
        "steps_wide": float(wide),
    }


def convergence_numbers(
    names: tuple[str, ...] = ("adult", "bank", "compas"),
    *,
    data_dir: Path,
    models_dir: Path,
    preset: str = "standard",
    method: str = "vanilla",
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    k: int = protocol.TABULAR_K,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """`measure` on data sets; models are trained, or found in models_dir.

    Returns:
      data set -> numbers of `measure`.
    """
    found = {}
    for name in names:
        dataset = datasets.load(name, data_dir=data_dir)
        fitted = Fitter(
            dataset,
            seeds=seeds,
            protocol=protocol.PRESETS[preset],
            k=k,
            models_dir=models_dir,
            progress=progress,
        ).fit(method)
        found[name] = measure(
            [fitted.at(s, 0) for s in range(len(seeds))],
            dataset.test.x,
            k=k,
            effort=convergence.EFFORTS[preset],
        )
    return found


def rate_holds(numbers: dict[str, float]) -> bool:
    """Whether min‖d‖ = O(1/√T) was seen: every objective fell, within the bound."""
    sound = numbers["rises"] == 0 and numbers["violations"] == 0
    return bool(sound and numbers["reached"] > 0.5)


def dependence_holds(numbers: dict[str, float]) -> bool:
    """Whether larger initial gaps needed more steps."""
    longer = numbers["steps_wide"] > numbers["steps_narrow"]
    return bool(longer and numbers["spearman_all"] > 0)
