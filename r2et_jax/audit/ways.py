"""How far away the first change is: along the ways on which attacks found one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import ranking, score
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.subject import Form
from r2et_jax.threat import ThreatModel, distance, project
from r2et_jax.threat.definition import with_epsilon
from r2et_jax.tracing import traced_once
from r2et_jax.types import Array, Params

# Points on each way, budgets at which P@k is read there, and inputs that suit a core's
# cache.
_POINTS, _LEVELS, _IN_CACHE = 64, 16, 256


class Ways(NamedTuple):
    """What was seen on the ways from m inputs to what attacks found.

    Attributes:
      distances: the least distance at which each top-k feature is no longer one
        [m, k], in their order; ∞ where a feature left at none of the points, NaN where
        it has no saliency.
      levels: rising budgets [s], equal shares of the largest.
      precision: the lowest P@k within each of them [s, m]; 1 where nothing was seen.
    """

    distances: np.ndarray
    levels: np.ndarray
    precision: np.ndarray


def seen(
    form: Form,
    params: Params,
    x: Array,
    ends: Array,
    threat: ThreatModel,
    *,
    k: int,
    largest: float,
    context=None,
) -> Ways:
    """Where top-k features leave, and what is left of them, on the ways to the ends.

    On the straight ways from each clean input to its ends, at 64 points of each: upper
    bounds, on the radius within which a feature stays and on P@k. All points are
    admissible, as the ends are: what a threat model admits is convex. Under its rule
    "same_class" points of another class do not count.

    Args:
      form: the model, of rows.
      params: its parameters.
      x: clean inputs [m, n].
      ends: admissible inputs [m, e, n].
      threat: the threat model; its norm is that of the distances.
      k: size of the top set.
      largest: budget up to which P@k is read, 0 for one level of 0.
      context: of the inputs, leaves [m, ...], or None.

    Returns:
      `Ways`.
    """
    levels = largest * (np.arange(_LEVELS) + 1) / _LEVELS
    run = _seen(traced_once(form), k)
    shared = params, threat, levels.astype(x.dtype)
    distances, precision = run(shared, (np.asarray(x), np.asarray(ends), context))
    return Ways(distances, levels, np.moveaxis(precision, 1, 0))


@kept
def _seen(form: Form, k: int):
    explain = form.saliency()

    def of_input(params, threat, levels, x, ends, context):
        params = in_context(params, context)
        clean_class = score.predicted_class(form.apply(params, x))
        values = explain(params, x, clean_class)
        top, members = ranking.top_k_indices(values, k=k), values > 0
        center = project(with_epsilon(threat, 0.0), x, x)

        def at(end, share):
            point = center + share * (end - center)
            here = explain(params, point, clean_class)
            valid = jnp.all(jnp.isfinite(here))
            if threat.prediction == "same_class":
                logits = form.apply(params, point)
                valid &= score.predicted_class(logits) == clean_class
            gone = valid & ~positive_top_k_mask(here, k=k)[top]
            far = share * distance(threat, center, end)
            lost = jnp.sum(gone & members[top]) / jnp.maximum(jnp.sum(members[top]), 1)
            # Where an attack goes to the budget's very edge, rounding may pass it.
            within = far <= levels * (1 + 1e-6)
            return jnp.where(gone, far, jnp.inf), jnp.where(within, 1 - lost, 1)

        shares = (jnp.arange(_POINTS, dtype=x.dtype) + 1) / _POINTS
        grid = jnp.repeat(ends, _POINTS, axis=0), jnp.tile(shares, len(ends))
        leaves_at, stays = jax.lax.map(lambda way: at(*way), grid)
        least = jnp.where(members[top], jnp.min(leaves_at, axis=0), jnp.nan)
        return least, jnp.min(stays, axis=0)

    def chunk(shared, batched):
        return jax.vmap(of_input, (None, None, None, 0, 0, 0))(*shared, *batched)

    return compile_chunked(chunk, in_cache=_IN_CACHE, work="little")
