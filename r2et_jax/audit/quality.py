"""What an explanation is worth beside its rank: thickness, and faithfulness.

Beside each faithfulness stands that of a random ranking: only what is above it is the
explanation's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import metrics, ranking, score
from r2et_jax.audit.layout import Layout
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.metrics.faithfulness import Faithfulness, removal_sizes
from r2et_jax.saliency.grouped import variables
from r2et_jax.subject import Form
from r2et_jax.threat import ThreatModel, sample
from r2et_jax.tracing import traced_once
from r2et_jax.types import Array

# Of so many features COMP and SUFF take every number.
_FEW_FEATURES = 64
# Random rankings of each input, whose faithfulness is averaged: of few features, many.
_RANKINGS = 32, 8
# Thickness takes at most this share of the attack's evaluations.
_SHARE = 0.08
_MOST_DRAWS, _MOST_POINTS = 64, 20
# Numbers of changed inputs that a model sees at a time; bounds the memory.
_HELD = 2**22


class Quality(NamedTuple):
    """Of m inputs; NaN of what does not apply, see `not_faithful`.

    Attributes:
      thickness: share of the way to random changes within ε on which pairs of a top
        feature and another keep their order, Θ_k [m].
      thickness_attacked: the same on the way to what the attack found [m].
      num_nonfinite: of these random changes, those at which the explanation holds a
        number that is not finite [m].
      faithfulness: `metrics.Faithfulness` of the explanation, entries [m].
      random: the same of random rankings, means over `num_rankings` of each [m].
      num_draws: changes drawn for the thickness of an input.
      num_points: points on the way to each.
      num_rankings: random rankings of each input.
      not_faithful: why faithfulness was not measured, "" where it was.
    """

    thickness: np.ndarray
    thickness_attacked: np.ndarray
    num_nonfinite: np.ndarray
    faithfulness: Faithfulness
    random: Faithfulness
    num_draws: int
    num_points: int
    num_rankings: int
    not_faithful: str


def feature_of_columns(
    groups: Sequence[Sequence[int]], layout: Layout, count: int
) -> tuple[int, ...] | None:
    """The explained feature of each of the n numbers of an input; None: unknown.

    Args:
      groups: of columns that are explained as one variable.
      layout: of the inputs.
      count: features of an explanation.
    """
    if groups:
        members = variables(groups, layout.size)
        of_column = {i: j for j, columns in enumerate(members) for i in columns}
        return tuple(of_column[i] for i in range(layout.size))
    if count != math.prod(layout.explained):
        return None
    index = np.arange(count).reshape(layout.explained)
    if layout.channel_axis is not None:
        index = np.expand_dims(index, layout.channel_axis)
        index = np.broadcast_to(index, layout.shapes[0])
    return tuple(index.ravel().tolist())


def measured(
    form: Form,
    params: Any,
    x: np.ndarray,
    attacked: np.ndarray,
    threat: ThreatModel,
    *,
    k: int,
    features: tuple[int, ...] | None,
    count: int,
    output: str,
    evaluations: int,
    key: Array,
    context: Any = None,
) -> Quality:
    """Thickness and faithfulness of the explanations of a batch.

    Args:
      form: the model, of rows.
      params: its parameters.
      x: clean inputs [m, n].
      attacked: what the attack found [m, n].
      threat: the threat model, from whose ball changes are drawn.
      k: size of the top set.
      features: see `feature_of_columns`.
      count: features of an explanation, f.
      output: kind of output; a regression has no probability to compare.
      evaluations: of the attack, of which thickness takes a small share.
      key: of the draws; those of an input depend on its index alone.
      context: of the inputs, leaves [m, ...], or None.

    Returns:
      `Quality`, NumPy arrays.
    """
    num_points = min(_MOST_POINTS, max(8, math.isqrt(int(_SHARE * evaluations))))
    num_draws = min(_MOST_DRAWS, max(4, int(_SHARE * evaluations) // num_points))
    why_not = ""
    if output == "regression":
        why_not = "a regression has no probability that could fall"
    elif features is None:
        why_not = "an explainer of its own features does not say which numbers to move"
    features = None if why_not else features
    num_rankings = _RANKINGS[count > _FEW_FEATURES]
    numbers = num_draws, num_points, num_rankings
    run = _measuring(traced_once(form), k, count, features, numbers)
    shared = params, threat, key, np.asarray(_baseline(x))
    index = np.arange(len(x), dtype=np.uint32)
    parts = run(shared, (x, attacked, index, context))
    return Quality(*parts, *numbers, why_not)


def _baseline(x: np.ndarray) -> np.ndarray:
    """What stands in the place of a removed number: its mean over different inputs."""
    rows = np.unique(x, axis=0)
    return rows.mean(axis=0) if len(rows) > 1 else np.zeros_like(x[0])


@kept
def _measuring(
    form: Form,
    k: int,
    count: int,
    features: tuple[int, ...] | None,
    numbers: tuple[int, int, int],
) -> Callable[..., Any]:
    num_draws, num_points, num_rankings = numbers
    explain = form.saliency()
    thick = ranking.mean_thickness(explain, k=k, num_points=num_points)
    sizes, flips = removal_sizes(count, every=count <= _FEW_FEATURES)
    nothing = Faithfulness(*[jnp.nan] * len(Faithfulness._fields))

    def of_input(params, threat, key, baseline, x, attacked, index, context):
        params = in_context(params, context)
        target = score.predicted_class(form.apply(params, x))
        key = jax.random.fold_in(key, index)
        draws = jax.vmap(lambda key: sample(threat, x, key=key))(
            jax.random.split(key, num_draws)
        )
        ends = jnp.concatenate([draws, attacked[None]])[:, None]
        shares = jax.lax.map(lambda end: thick(params, x, target, end).mean, ends)
        finite = jax.lax.map(
            lambda end: jnp.all(jnp.isfinite(explain(params, end, target))), draws
        )
        drawn = jnp.mean(shares[:-1]), shares[-1], jnp.sum(~finite, dtype=jnp.int32)
        if features is None:
            return *drawn, nothing, nothing
        measure = metrics.faithfulness(
            form.apply,
            metrics.constant_baseline(baseline),
            sizes=sizes,
            flip_sizes=flips,
            features=features,
        )
        rankings = jax.random.uniform(key, (num_rankings, count), x.dtype)
        rankings = jnp.concatenate([explain(params, x, target)[None], rankings])
        each = jax.lax.map(lambda values: measure(params, x, values, key=key), rankings)
        of_it = jax.tree.map(lambda values: values[0], each)
        return *drawn, of_it, jax.tree.map(lambda v: jnp.mean(v[1:]), each)

    def chunk(shared, batched):
        return jax.vmap(of_input, (None, None, None, None, 0, 0, 0, 0))(
            *shared, *batched
        )

    rows = len({*sizes, *flips}) + len(sizes)
    in_cache = max(1, _HELD // (rows * (len(features) if features else count)))
    return compile_chunked(chunk, in_cache=min(16, in_cache), work="little")
