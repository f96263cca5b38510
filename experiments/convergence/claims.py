"""Does multi-objective descent converge as 1/√T, and do larger gaps take longer?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.loop import runs
from experiments.measures import convergence
from experiments.models.fitting import Fitter
from experiments.problems import presets
from experiments.store import records
from experiments.thickness import report as thickness_report
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
    k: int = presets.TABULAR_K,
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
            protocol=presets.PRESETS[preset],
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


def _of(store, dataset, common, method):
    """Metric -> the records of one method."""
    found = store.select(dataset=dataset, method=method, k=common.k[0])
    whole = [r for r in found if "iteration" not in r and "input" not in r]
    return {
        name: records.select(whole, metric=name)
        for name in dict.fromkeys(r["metric"] for r in whole)
    }


def _judge_rate(store, dataset, common):
    verdicts, texts = [], []
    for method in common.methods:
        of = _of(store, dataset, common, method)
        wrong = sum(
            records.number(r["value"])
            for metric in ("rises", "bound_violations")
            for r in of[metric]
        )
        exponent = runs.of_records(of["rate_exponent"])
        falls = runs.above(exponent._replace(mean=-exponent.mean), 0.5)
        verdicts.append(False if wrong else falls)
        texts.append(f"{method} {runs.shown(exponent)} ({wrong:.0f} violations)")
    return runs.together(verdicts), f"{dataset} {', '.join(texts)}"


def _judge_gaps(store, dataset, common):
    verdicts, texts = [], []
    for method in common.methods:
        of = _of(store, dataset, common, method)
        related = runs.of_records(of["gap_steps_spearman_all"])
        censored = runs.of_records(of["censored"])
        verdicts.append(runs.above(related, 0))
        texts.append(
            f"{method} {runs.shown(related)} ({censored.mean:.0%} kept their top k)"
        )
    return runs.together(verdicts), f"{dataset} {', '.join(texts)}"


def _judge_models(store, dataset, common):
    """Spearman's correlation of thickness and mean steps over the methods of a run."""
    steps, thick = {}, {}
    for method in common.methods:
        found = store.select(dataset=dataset, method=method, k=common.k[0])
        last = max(
            (r["iteration"] for r in records.select(found, metric="p@k_trace")),
            default=0,
        )
        for r in records.select(found, metric="steps"):
            value = last + 1 if r["value"] is None else r["value"]
            steps.setdefault((method, r["seed"], r["fold"]), []).append(value)
        for r in records.select(found, metric="thickness"):
            thick[method, r["seed"], r["fold"]] = records.number(r["value"])
    points = {
        model: (width, float(np.mean(steps[model]))) for model, width in thick.items()
    }
    methods = dict.fromkeys(method for method, *_ in points)
    if len(methods) < 3:  # two have an order by chance
        return None
    related = thickness_report.association(points)["by_run"]
    shown = []
    for method in methods:
        own = [pair for model, pair in points.items() if model[0] == method]
        width, taken = np.mean(own, axis=0)
        shown.append(f"{method} Θ {width:.3f}, {taken:.1f} steps")
    text = f"{dataset} {runs.shown(related, '+.2f')} ({', '.join(shown)})"
    return runs.above(related, 0), text


QUESTIONS = (
    runs.Question(
        "Multi-objective descent converges at least as fast as 1/√T.",
        "exponent of the smallest direction's norm in T, median over inputs, below "
        "−.5; no step in which an objective rose, no direction above Armijo's bound",
        _judge_rate,
        "The rate is that of the limit; the steps here are few, and an input whose "
        "directions are small from the start has little left to fall.",
        figure="direction_norm",
    ),
    runs.Question(
        "Inputs with a larger gap take more steps until a top-k feature leaves.",
        "Spearman's correlation of the smallest gap and the steps, above 0",
        _judge_gaps,
        "Where few inputs lose a feature, or the gaps grow along the way, the first "
        "gap says little.",
        figure="steps_by_gap",
    ),
    runs.Question(
        "Models with a thicker ranking take longer until a top-k feature leaves.",
        "Spearman's correlation over the methods of a run of thickness and mean steps, "
        "above 0; inputs that keep their top k count as one step beyond the last",
        _judge_models,
        "Steps have a fixed length at most: a model with larger gradients may have "
        "larger gaps that fall faster as well.",
    ),
)


def rate_holds(numbers: dict[str, float]) -> bool:
    """Whether min‖d‖ = O(1/√T) was seen: every objective fell, within the bound."""
    sound = numbers["rises"] == 0 and numbers["violations"] == 0
    return bool(sound and numbers["reached"] > 0.5)


def dependence_holds(numbers: dict[str, float]) -> bool:
    """Whether larger initial gaps needed more steps."""
    longer = numbers["steps_wide"] > numbers["steps_narrow"]
    return bool(longer and numbers["spearman_all"] > 0)
