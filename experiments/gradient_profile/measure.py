"""Sorted saliency of one model: how uneven it is, beside what chance gives."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments.loop import parts
from experiments.problems import presets
from experiments.problems.registry import View
from experiments.store.numbers import listed, summary
from r2et_jax import score
from r2et_jax.context import in_context
from r2et_jax.execution import kept, map_batched

# Share of the sum whose features are counted.
MOST = 0.9
_BATCH_SIZE = 256


@kept
def explain(model: Any, view: View):
    """Compiled maps of inputs: `run(params, x [m, n], context) -> [m, n]`."""
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def run(params, x, context):
        def chosen(x, context):
            both = in_context(params, context)
            return explain(both, x, score.predicted_class(apply(both, x)))

        size = view.batch_size or _BATCH_SIZE
        return map_batched(chosen, (x, context), batch_size=size)

    return jax.jit(run)


def measure(
    maps: np.ndarray, reference: np.ndarray, *, k: int, units: Any = None
) -> list[dict[str, Any]]:
    """The records of saliency maps [m, n]: metric, value, stderr, n, and the profile.

    Maps that are zero or not finite have no profile; they are counted in `note`. The
    metrics of the reference [d, n], what chance gives, begin with `reference_`. `units`
    as of `summary`.
    """
    records = []
    for prefix, of, rows in (("", maps, units), ("reference_", reference, None)):
        profiles = sorted_shares(of)
        told = statistics(profiles, k=k).items()
        records += [summary(prefix + name, values, rows) for name, values in told]
        mean = np.nanmean(profiles, axis=0)
        records.append(listed(f"{prefix}profile", mean[0], len(of), mean))
    return records


def normal_maps(factors: np.ndarray, num_features: int) -> np.ndarray:
    """Maps [d, n] of chance: |independent normal numbers × factors [m, c·n]|.

    The channels of a feature are added up, as explanations of pixels do.
    """
    size = presets.CHANCE_MAPS, factors.shape[1]
    draws = np.random.default_rng(0).normal(size=size)
    maps = np.abs(draws * np.resize(factors, draws.shape))
    return maps.reshape(len(draws), num_features, -1).sum(axis=2)


def sorted_shares(maps: np.ndarray) -> np.ndarray:
    """Each map over its sum, in descending order, in float64; NaN if it has none."""
    maps = np.asarray(maps, np.float64)
    totals = maps.sum(axis=1, keepdims=True)
    usable = np.isfinite(totals) & (totals > 0)
    shares = np.where(usable, maps, np.nan) / np.where(usable, totals, 1)
    return -np.sort(-shares, axis=1)


def statistics(profiles: np.ndarray, *, k: int) -> dict[str, np.ndarray]:
    """How uneven profiles [m, n] are: name -> [m].

    top_share: of the k largest; gini: Gini's index, 0 if all are equal; num_90: how
    many of the largest make up 90 %; border_gap: from rank k to k + 1, relative to the
    largest.
    """
    n = profiles.shape[1]
    reached = np.cumsum(profiles, axis=1)
    usable = np.isfinite(reached[:, -1])
    # Rounding must not ask for another feature.
    short = (reached < MOST - 1e-6).sum(axis=1)
    weights = n + 1 - 2 * np.arange(1, n + 1)
    return {
        "top_share": reached[:, k - 1],
        "gini": profiles @ weights / n,
        "num_90": np.where(usable, short + 1, np.nan),
        "border_gap": (profiles[:, k - 1] - profiles[:, k]) / profiles[:, 0],
    }


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    num_test = problem.protocol(options.preset).num_test
    inputs = problem.inputs("test", num_test)
    x, partner, _ = inputs
    for chosen in parts.models(problem, k, options, description="profile"):
        cell = {**chosen.fields, "attack": "none", "epsilon": None}
        if not store.has(**cell):
            context = problem.view.context(chosen.model, chosen.params, partner)
            maps = explain(chosen.model, problem.view)(chosen.params, x, context)
            # Graphs are explained by a product with the input, which has a tail itself.
            factors = np.asarray(x)
            if problem.view.kind != "graph":
                factors = np.ones_like(factors)
            reference = normal_maps(factors, maps.shape[1])
            units = inputs.units
            measurements = measure(np.asarray(maps), reference, k=k, units=units)
            store.append([{**cell, **record} for record in measurements])
