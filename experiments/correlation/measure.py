"""Of every input of one model: when it is manipulated, and what may tell."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.loop import parts
from experiments.measures import thickness
from experiments.measures.convergence import dependence
from experiments.problems.registry import View
from experiments.store.numbers import measured, summary
from r2et_jax import attacks, curvature, ranking, score
from r2et_jax.context import in_context
from r2et_jax.curvature.norms import safe_sqrt
from r2et_jax.execution import example_keys, kept, map_batched
from r2et_jax.metrics.summary import distinct_inputs
from r2et_jax.ranking.gaps import mean_gap_weights, weighted_sum
from r2et_jax.ranking.topk import border

SHARE = 0.8

EPOCH = "manipulation_epoch"
# Features up to which the Hessian's norm is exact, and probes of the estimate above.
EXACT_FEATURES = 64
PROBES = 16


def measure(
    problem,
    model: Any,
    params: Any,
    *,
    k: int,
    epsilon: float,
    attack: str,
    sampling: thickness.Sampling,
    share: float = 1.0,
) -> list[dict[str, Any]]:
    """The records of one model: quantities of every input, and their correlations.

    Args:
      problem: the data.
      model: the Flax module.
      params: its parameters.
      k: size of the top set.
      epsilon: the budget.
      attack: its name.
      sampling: inputs, and how finely thickness is estimated.
      share: P@k below which an input counts as manipulated.
    """
    sample = thickness.first_inputs(problem, model, params, sampling.num_inputs)
    run, num_steps = _attack(model, attack, k, problem.view)
    ball, key = problem.threat_model(epsilon), jax.random.key(0)
    result = run(params, sample.x, ball, key=key, context=sample.context)
    trace = result.details.precision
    steps = np.asarray(attacks.manipulation_epoch(trace, share=share))
    local = _local(model, k, problem.view)(params, sample)
    values = {name: np.asarray(value) for name, value in local.items()}
    for distribution in thickness.DISTRIBUTIONS:
        thick = thickness.estimate(
            problem,
            model,
            params,
            sample,
            distribution,
            k=k,
            epsilon=epsilon,
            sampling=sampling,
        )
        values[distribution] = thick.mean
        values[f"{distribution}_min"] = thick.least
    units = distinct_inputs(sample.x)
    cells = [
        # An input that was never manipulated has no epoch.
        _each(EPOCH, np.where(steps > 0, steps, np.nan), units),
        summary("censored", steps == 0, units),
        summary("p@k", result.best.precision, units),
    ]
    for quantity, value in values.items():
        related = dependence(value, steps, num_steps=num_steps)
        m = len(steps)
        cells_here = [
            _each("quantity", value, units),
            measured("pearson", related.pearson, None, related.n),
            measured("spearman", related.spearman, None, related.n),
            measured("spearman_all", related.spearman_all, None, m),
        ]
        cells += [{**record, "quantity": quantity} for record in cells_here]
    return cells


def _each(metric, values, units):
    """A summary with the values themselves, to five digits."""
    short = [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
    return {**summary(metric, values, units), "values": short}


@kept
def _attack(model, name: str, k: int, view: View):
    """The compiled attack, judged after every step, and the number of its steps."""
    named = attacks.protocol(name, view.attacked(model), k=k, **view.attack_options)
    run = attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=1, **view.batching
    )
    return run, named.num_steps


@kept
def _local(model, k: int, view: View):
    """Compiled quantities of the input alone: `run(params, Sample) -> {name: [m]}`.

    Hessians are those of the smooth stand-in, since a kinked network has none.
    """
    apply, smooth = view.apply(model), view.smoothed(model, view.rho)
    explain = view.explainer(score.log_odds(apply))
    gradient = jax.grad(score.log_odds(smooth), argnums=1)

    def norm(explained, params, x, target, key):
        if x.size <= EXACT_FEATURES:
            return curvature.frobenius_norm(explained)(params, x, target)
        estimate = curvature.frobenius_norm_squared_hutchinson(
            explained, num_samples=PROBES
        )
        return safe_sqrt(estimate(params, x, target, key=key))

    def chosen(x, context, key, params):
        params = in_context(params, context)
        target = score.predicted_class(apply(params, x))
        values = explain(params, x, target)
        mask = ranking.top_k_mask(values, k=k)
        inner, outer = border(values, k=k)
        size = jnp.linalg.norm(gradient(params, x, target))
        bend = norm(score.log_odds(smooth), params, x, target, key)
        return {
            "hessian": norm(score.probability(smooth), params, x, target, key),
            "bend": bend / jnp.where(size > 0, size, 1),
            "gap": inner - outer,
            "gap_mean": weighted_sum(values, mean_gap_weights(mask, k=k)),
        }

    def run(params, sample):
        keys = example_keys(jax.random.key(3), len(sample.x))
        size = max(1, min(64, 2**15 // sample.x.shape[1]))
        return map_batched(
            lambda *args: chosen(*args, params), (*sample, keys), batch_size=size
        )

    return jax.jit(run)


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    sampling = thickness.sampling(problem, options.preset)
    share = options.given["share"]
    if share is None:
        share = 1.0 if problem.view.tabular else SHARE
    for chosen in parts.models(problem, k, options, description="correlation"):
        (epsilon,), (attack,) = options.epsilon, options.attacks
        cell = {**chosen.fields, "attack": attack, "epsilon": epsilon, "share": share}
        if not store.has(**cell):
            measurements = measure(
                problem,
                chosen.model,
                chosen.params,
                k=k,
                epsilon=epsilon,
                attack=attack,
                sampling=sampling,
                share=share,
            )
            store.append([{**cell, **record} for record in measurements])
