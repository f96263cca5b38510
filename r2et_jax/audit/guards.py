"""Guards: what shows that a ranking was had too cheaply, or is none.

A high P@k says little of an input that sits on a kink or a tie, has no ranking at all,
or hides its gradient from the attack. One look at each clean input tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import ranking, score
from r2et_jax.ranking.gaps import mean_gap_weights, weighted_sum
from r2et_jax.ranking.topk import border_tie, positive_top_k_mask
from r2et_jax.subject import Form
from r2et_jax.threat.geometry import movable_features
from r2et_jax.types import Array

# Norm of the noise under which a ranking must stand.
NOISE = 1e-6


class Look(NamedTuple):
    """What one look at a clean input shows.

    Attributes:
      score: its log-odds; not finite where the output is not.
      predicted: the class that is explained.
      map: the explanation [n].
      gradient: of the log-odds, signed and not normalised, of x's shape; NaN of a
        black box.
      top_k: the top-k features [k], the largest first.
      noise_precision: P@k under random noise of norm `NOISE`; below 1 the input sits on
        a kink or a tie.
      num_positive: features with positive saliency.
      tied: whether the k-th and the (k+1)-th value are equal.
    """

    score: Array
    predicted: Array
    map: Array
    gradient: Array
    top_k: Array
    noise_precision: Array
    num_positive: Array
    tied: Array


def look(form: Form, *, k: int) -> Callable[..., Look]:
    """One look at a clean input.

    Args:
      form: the model, see `Subject.form`.
      k: size of the top set.

    Returns:
      `run(params, x, /, *, key) -> Look` of one input; not compiled.
    """
    log_odds, explain = score.log_odds(form.apply), form.saliency()
    raw = jax.grad(log_odds, argnums=1)
    if not form.differentiable:

        def raw(params, x, target, /):
            return jnp.full_like(x, jnp.nan)

    def run(params, x, /, *, key):
        target = score.predicted_class(form.apply(params, x))
        values = explain(params, x, target)
        noise = jax.random.normal(key, x.shape, x.dtype)
        noise = NOISE * noise / jnp.linalg.norm(noise)
        mask = positive_top_k_mask(values, k=k)
        noisy = explain(params, x + noise, target)
        return Look(
            score=log_odds(params, x, target),
            predicted=target,
            map=values,
            gradient=raw(params, x, target),
            top_k=ranking.top_k_indices(values, k=k),
            noise_precision=ranking.top_k_overlap(mask, noisy, k=k),
            num_positive=jnp.sum(values > 0),
            tied=border_tie(values, k=k),
        )

    return run


def has_vanished(form: Form, *, k: int) -> Callable[..., Array]:
    """Whether the gradient of the ranking is exactly zero on all that may move.

    Attacks by the model's own gradient are blind at such an input. A black box has
    none.

    Args:
      form: the model, see `Subject.form`.
      k: size of the top set.

    Returns:
      `run(params, x, threat, /) -> boolean` of one input; not compiled.
    """
    explain = form.saliency()
    if not form.differentiable:
        return lambda params, x, threat, /: jnp.array(True)

    def run(params, x, threat, /):
        target = score.predicted_class(form.apply(params, x))
        mask = ranking.top_k_mask(explain(params, x, target), k=k)
        weights = mean_gap_weights(mask, k=k)

        def gap(x):
            return weighted_sum(explain(params, x, target), weights)

        movable = movable_features(threat, x)
        slope = jnp.where(True if movable is None else movable, jax.grad(gap)(x), 0)
        return ~jnp.any(slope != 0)

    return run
