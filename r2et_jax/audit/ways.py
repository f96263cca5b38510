"""How far away the first change is: along the ways on which attacks found one."""

from __future__ import annotations

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

# Points on each way, and inputs that suit a core's cache.
_POINTS, _IN_CACHE = 64, 256


def first_leaving(
    form: Form,
    params: Params,
    x: Array,
    ends: Array,
    threat: ThreatModel,
    *,
    k: int,
    context=None,
) -> np.ndarray:
    """The least distance seen at which each top-k feature is no longer one.

    On the straight ways from each clean input to its ends, at 64 points of each: an
    upper bound on the radius within which the feature stays. All points are admissible,
    as the ends are: what a threat model admits is convex. Under its rule "same_class"
    points of another class do not count.

    Args:
      form: the model, of rows.
      params: its parameters.
      x: clean inputs [m, n].
      ends: admissible inputs [m, e, n].
      threat: the threat model; its norm is that of the distances.
      k: size of the top set.
      context: of the inputs, leaves [m, ...], or None.

    Returns:
      Distances [m, k], in the order of the top-k features; ∞ where a feature left at
      none of the points, NaN where it has no saliency.
    """
    run = _leaving(traced_once(form), k)
    return run((params, threat), (np.asarray(x), np.asarray(ends), context))


@kept
def _leaving(form: Form, k: int):
    explain = form.saliency()

    def of_input(params, threat, x, ends, context):
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
            return jnp.where(gone, share * distance(threat, center, end), jnp.inf)

        shares = (jnp.arange(_POINTS, dtype=x.dtype) + 1) / _POINTS
        grid = jnp.repeat(ends, _POINTS, axis=0), jnp.tile(shares, len(ends))
        least = jnp.min(jax.lax.map(lambda way: at(*way), grid), axis=0)
        return jnp.where(members[top], least, jnp.nan)

    def chunk(shared, batched):
        return jax.vmap(of_input, (None, None, 0, 0, 0))(*shared, *batched)

    return compile_chunked(chunk, in_cache=_IN_CACHE, work="little")
