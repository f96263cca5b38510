"""The terms of multi-objective descent: smooth maps, and constraints on predictions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in, check_nonnegative, check_positive
from r2et_jax.numerics import safe_norm, unit_sum
from r2et_jax.score import class_probabilities, predicted_class
from r2et_jax.threat.definition import PREDICTION_RULES
from r2et_jax.types import ApplyFn, Array, SaliencyFn, ScoreFn


def smoothed_gradient(
    score: ScoreFn, *, mu: float = 1e-3, normalize: bool = True
) -> SaliencyFn:
    """Simple gradient with a smooth magnitude: I_i = √(g_i² + μ²) − μ, g = ∇ₓs.

    It ranks the features as |g| does, is 0 where |g| is, and differs from it by less
    than μ; its derivative g_i/√(g_i² + μ²)·H_i has no jump at g_i = 0.

    Args:
      score: scalar to explain; smooth activations make the map smooth.
      mu: μ > 0, in units of the gradient.
      normalize: whether to divide by the sum.

    Returns:
      `saliency(params, x, target) -> map`, of x's shape.

    Raises:
      ValueError: if μ is not positive.
    """
    check_positive("mu", mu)
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        g = input_gradient(params, x, target)
        # √(g² + μ²) − μ without its cancellation.
        values = g**2 / (jnp.sqrt(g**2 + mu**2) + mu)
        return unit_sum(values) if normalize else values

    return saliency


def prediction_constraint(
    apply: ApplyFn, *, eta: float
) -> Callable[[str], Callable[..., Array] | None]:
    """What a prediction rule asks of x′, as c(x′) ≤ 0.

    "same_class": c = max_{j≠c} z_j − z_c, with c the clean class. "penalized":
    c = ‖p(x) − p(x′)‖₂ − η. "free": nothing.

    Args:
      apply: the model.
      eta: η ≥ 0.

    Returns:
      `rule(name) -> constraint`, of which `constraint(params, x, context) -> scalar`
      with the context of an attack; None for "free".

    Raises:
      ValueError: if η is negative, or by the rule for an unknown name.
    """
    check_nonnegative("eta", eta)

    def margin(params, x, context):
        logits = apply(params, x)
        if logits.shape[0] == 1:
            logits = jnp.concatenate([jnp.zeros_like(logits), logits])
        kept = predicted_class(context.clean_logits)
        is_kept = jnp.arange(logits.shape[0], dtype=kept.dtype) == kept
        best_other = jnp.max(jnp.where(is_kept, -jnp.inf, logits))
        return best_other - jnp.sum(jnp.where(is_kept, logits, 0))

    def shift(params, x, context):
        clean = class_probabilities(context.clean_logits)
        return safe_norm(class_probabilities(apply(params, x)) - clean) - eta

    def rule(name):
        check_in("prediction rule", name, PREDICTION_RULES)
        return {"free": None, "same_class": margin, "penalized": shift}[name]

    return rule
