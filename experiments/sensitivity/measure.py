"""What of a method is trained, factor by factor, and the metrics of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments.console.progress import track
from experiments.loop import setup
from experiments.measures.evaluation import PER_INPUT, Evaluator
from experiments.models import trained
from experiments.models.fitting import Fitter
from experiments.problems import presets, protocols
from experiments.problems.registry import Problem
from r2et_jax import objectives

FACTORS = ("k", "k_prime", "lambda_1", "lambda_2", "schedule", "reference")
# In the place of a factor, of methods without a penalty.
BASELINE = "none"
_NOT_KEPT = (PER_INPUT, "p@k_trace", "p@k_curve")
# Penalties on k′ pairs; on any pairs.
_ON_PAIRS = frozenset({
    "mm_gap", "mm_exp_gap", "anchored_gap", "radius", "radius_hinge",
})  # fmt: skip
_RANKED = frozenset({"gap", "exp_gap", *_ON_PAIRS})
# The anchored form is there for its k′; else it is the one with the smallest gaps.
_K_PRIME_ALONE = frozenset({"r2et_anchored"})


class Variation(NamedTuple):
    """One method at one level of one factor.

    Attributes:
      method: its name.
      factor: one of `FACTORS`, or `BASELINE` for a method without a penalty.
      level: of the factor, as text.
      default: whether this is what it has where another factor is varied.
      k: size of the top set.
      protocol: how it is trained.
      weight: of the penalty that is varied, or None.
    """

    method: str
    factor: str
    level: str
    default: bool
    k: int
    protocol: protocols.Protocol
    weight: float | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What its records say of it."""
        names = ("factor", "level", "default", "weight")
        return {name: getattr(self, name) for name in names}


def settings(
    problem: Problem,
    method: str,
    k: int,
    preset: str,
    factors: Sequence[str] = FACTORS,
) -> Iterator[Variation]:
    """What is trained of a method, factor by factor; the default is part of each.

    Args:
      problem: the data.
      method: its name.
      k: the default size of the top set.
      preset: of the protocol and the levels.
      factors: some of `FACTORS`.
    """
    terms = objectives.method(method).terms
    whole, levels = problem.protocol(preset), presets.LEVELS[preset]
    short = short_grid(whole) if problem.view.tabular else whole
    n = problem.num_features
    if not terms:
        yield Variation(method, BASELINE, "default", True, k, short)
    if "k" in factors and method not in _K_PRIME_ALONE:
        for level in sorted({k, *levels["k"]}):
            if level < n:
                yield Variation(method, "k", str(level), level == k, level, short)
    if "k_prime" in factors and _ON_PAIRS.intersection(terms):
        usual = protocols.default_k_prime(k, n)
        for level in sorted({usual, *levels["k_prime"]}):
            if level <= min(k, n - k):
                changed = short._replace(k_prime=level)
                default = level == usual
                yield Variation(method, "k_prime", str(level), default, k, changed)
    if method in _K_PRIME_ALONE:
        return
    for place, term in enumerate(terms, 1):
        factor = f"lambda_{place}"
        if factor not in factors:
            continue
        middle = {t: _middle(whole, t, alone=len(terms) == 1) for t in terms}
        for multiple in sorted({1.0, *levels["lambda"]}):
            weight = float(f"{multiple * middle[term]:.3g}")
            fixed = {t: (w,) for t, w in {**middle, term: weight}.items()}
            changed = whole._replace(
                grid={**whole.grid, **fixed}, paired={**whole.paired, **fixed}
            )
            level, default = f"×{multiple:g}", multiple == 1
            yield Variation(method, factor, level, default, k, changed, weight)
    if "schedule" in factors and terms:
        for level in levels["schedule"]:
            changed = short._replace(schedule=level)
            default = level == whole.schedule
            yield Variation(method, "schedule", level, default, k, changed)
    if "reference" in factors and _RANKED.intersection(terms):
        for level in levels["reference"]:
            changed = short._replace(reference=level)
            default = level == whole.reference
            yield Variation(method, "reference", level, default, k, changed)


def short_grid(whole: protocols.Protocol) -> protocols.Protocol:
    """A third of the weights for one penalty, half of them for each of two."""
    return whole._replace(
        grid={t: weights[1::3] or weights for t, weights in whole.grid.items()},
        paired={t: weights[::2] for t, weights in whole.paired.items()},
    )


def _middle(whole: protocols.Protocol, term: str, *, alone: bool) -> float:
    weights = (whole.grid if alone else whole.paired)[term]
    return weights[len(weights) // 2]


def measure(
    evaluator: Evaluator, params: Any, options
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Clean metrics, and those under the attack at the largest budget."""
    clean = [r for r in evaluator.clean(params) if r.get("attack") != "noise"]
    attacked = evaluator.attacked(params, options.attacks[0], max(options.epsilon))
    return clean, [r for r in attacked if r["metric"] not in _NOT_KEPT]


def measure_dataset(factors, problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    tolerance = presets.TOLERANCES.index(presets.MAIN_TOLERANCE)
    tried = [
        setting
        for method in options.methods
        for setting in settings(problem, method, k, options.preset, factors)
    ]
    evaluators: dict[Any, Evaluator] = {}
    for setting in track(
        tried, description=f"{problem.name} sensitivity", show=options.progress
    ):
        cells = [_cell(problem, setting, seed, options) for seed in options.seeds]
        if all(store.has(**cell) for cell in cells):
            continue
        fitted = Fitter(
            problem,
            seeds=options.seeds,
            protocol=setting.protocol,
            k=setting.k,
            models_dir=options.models_dir,
            progress=False,
        ).fit(setting.method)
        for s, cell in enumerate(cells):
            if store.has(**cell):
                continue
            model, params = fitted.at(s, tolerance)
            at = model, setting.k
            if at not in evaluators:
                evaluators[at] = Evaluator(
                    problem,
                    model,
                    k=setting.k,
                    num_test=setting.protocol.num_test,
                    strongest_evaluations=setting.protocol.strongest_evaluations,
                )
            clean, attacked = measure(evaluators[at], params, options)
            calm = {**cell, "attack": "none", "epsilon": 0.0}
            choice = trained.choice_records(calm, fitted.choices[s][tolerance])
            clean = [{**calm, **record} for record in clean]
            store.append([*clean, *choice, *({**cell, **r} for r in attacked)])


def _cell(problem, setting, seed, options) -> dict[str, Any]:
    fields = setup.model_fields(
        options.experiment,
        problem,
        problem.model(setting.method),
        method=setting.method,
        seed=seed,
        k=setting.k,
        tolerance=presets.MAIN_TOLERANCE,
        schedule=setting.protocol.schedule,
    )
    at = {"attack": options.attacks[0], "epsilon": max(options.epsilon)}
    return {**fields, **at, **setting.fields}
