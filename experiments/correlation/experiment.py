"""What tells how long an input's top-k set withstands an attack.

Of every test input the first iteration of an attack at which a top-k feature leaves,
of images and graphs at which P@k falls below a share, against the norm of the Hessian,
the gaps of its ranking and its thickness under three distributions. Inputs for which
no iteration did it are censored: correlations are given without them, and with them as
the longest of all.

    python -m experiments.correlation --datasets=adult,bank,compas
    python -m experiments.correlation --datasets=mnist
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from experiments.console import flags
from experiments.correlation import report as correlation_report
from experiments.correlation.report import EPOCH, EXACT_FEATURES, PROBES
from experiments.loop import parts, runs
from experiments.measures import thickness
from experiments.measures.convergence import dependence
from experiments.measures.numbers import measured, summary
from experiments.problems import presets
from experiments.problems.registry import View
from r2et_jax import attacks, curvature, metrics, objectives, ranking, score
from r2et_jax.context import in_context
from r2et_jax.execution import example_keys, map_batched

_SHARE = 0.8


def _define(values):
    parts.define_of_pairs(values)
    absl_flags.DEFINE_float(
        "share",
        None,
        "P@k in (0, 1] below which an input counts as manipulated (default: tables 1, "
        f"the first loss; others {_SHARE:g}, since of a large top set one is lost at "
        "once)",
        flag_values=values,
    )


FLAGS = flags.describe(
    "correlation",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,r2et_nh",
            "standard": "vanilla,wd,sp,r2et_nh,r2et",
            "paper": "vanilla,wd,sp,r2et_nh,r2et",
        },
        "attacks": thickness.ATTACK,
        "k": str(presets.TABULAR_K),
        "epsilon": "1",
        "seeds": runs.SEEDS,
    },
    own=(*parts.OF_PAIRS, "share"),
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=objectives.NAMES,
        attacks=[name for name in attacks.SINGLE if name != thickness.ADVERSARY],
    )
    runs.check_single(common, ("k", "attacks", "epsilon"))
    share = common.given["share"]
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--share must lie in (0, 1], got {share}")
    chosen = [parts.choose_largest(found, common) for found in parts.problems(common)]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        correlation_report.write_report,
        experiment=FLAGS.experiment,
        title="What tells an input's resistance: curvature, gap or thickness",
        questions=correlation_report.QUESTIONS,
        figures=correlation_report.FIGURES,
    )


def _measure_dataset(found, k, common, store):
    effort = thickness.effort(found, common.preset)
    share = common.given["share"]
    if share is None:
        share = 1.0 if found.view.tabular else _SHARE
    for one in parts.models(
        FLAGS.experiment, found, k, common, description="correlation"
    ):
        (epsilon,), (attack,) = common.epsilon, common.attacks
        cell = {**one.fields, "attack": attack, "epsilon": epsilon, "share": share}
        if not store.has(**cell):
            measurements = measure(
                found,
                one.model,
                one.params,
                k=k,
                epsilon=epsilon,
                attack=attack,
                effort=effort,
                share=share,
            )
            store.append([{**cell, **record} for record in measurements])


def measure(
    found,
    model: Any,
    params: Any,
    *,
    k: int,
    epsilon: float,
    attack: str,
    effort: thickness.Effort,
    share: float = 1.0,
) -> list[dict[str, Any]]:
    """The records of one model: quantities of every input, and their correlations.

    Args:
      found: the data.
      model: the Flax module.
      params: its parameters.
      k: size of the top set.
      epsilon: the budget.
      attack: its name.
      effort: inputs, and how finely thickness is estimated.
      share: P@k below which an input counts as manipulated.
    """
    sample = thickness.first_inputs(found, model, params, effort.num_inputs)
    run, num_steps = _attack(model, attack, k, found.view)
    ball, key = found.budget(epsilon), jax.random.key(0)
    result = run(params, sample.x, ball, key=key, context=sample.context)
    trace = result.details.precision
    steps = np.asarray(attacks.manipulation_epoch(trace, share=share))
    local = _local(model, k, found.view)(params, sample)
    values = {name: np.asarray(value) for name, value in local.items()}
    for distribution in thickness.DISTRIBUTIONS:
        thick = thickness.estimate(
            found,
            model,
            params,
            sample,
            distribution,
            k=k,
            epsilon=epsilon,
            effort=effort,
        )
        values[distribution] = thick.mean
        values[f"{distribution}_min"] = thick.least
    units = metrics.distinct_inputs(sample.x)
    cells = [
        # An input that was never manipulated has no epoch.
        _each(EPOCH, np.where(steps > 0, steps, np.nan), units),
        summary("censored", steps == 0, units),
        summary("p@k", result.best.precision, units),
    ]
    for quantity, value in values.items():
        related = dependence(value, steps, num_steps=num_steps)
        m = len(steps)
        found_here = [
            _each("quantity", value, units),
            measured("pearson", related.pearson, None, related.n),
            measured("spearman", related.spearman, None, related.n),
            measured("spearman_all", related.spearman_all, None, m),
        ]
        cells += [{**record, "quantity": quantity} for record in found_here]
    return cells


def _each(metric, values, units):
    """A summary with the values themselves, to five digits."""
    short = [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
    return {**summary(metric, values, units), "values": short}


@functools.lru_cache
def _attack(model, name: str, k: int, view: View):
    """The compiled attack, judged after every step, and the number of its steps."""
    named = attacks.protocol(name, view.attacked(model), k=k, **view.attack_options)
    run = attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=1, **view.batching
    )
    return run, named.num_steps


@functools.lru_cache
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
        return curvature.safe_sqrt(estimate(params, x, target, key=key))

    def one(x, context, key, params):
        params = in_context(params, context)
        target = score.predicted_class(apply(params, x))
        values = explain(params, x, target)
        mask = ranking.top_k_mask(values, k=k)
        inner, outer = ranking.border(values, k=k)
        size = jnp.linalg.norm(gradient(params, x, target))
        bend = norm(score.log_odds(smooth), params, x, target, key)
        return {
            "hessian": norm(score.probability(smooth), params, x, target, key),
            "bend": bend / jnp.where(size > 0, size, 1),
            "gap": inner - outer,
            "gap_mean": ranking.weighted_sum(
                values, ranking.mean_gap_weights(mask, k=k)
            ),
        }

    def run(params, sample):
        keys = example_keys(jax.random.key(3), len(sample.x))
        size = max(1, min(64, 2**15 // sample.x.shape[1]))
        return map_batched(
            lambda *args: one(*args, params), (*sample, keys), batch_size=size
        )

    return jax.jit(run)
