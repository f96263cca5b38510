"""Attacks that pay for the predictions they change: a Lagrangian with learnt weights.

min over x′ of max over λ on the simplex of λ₀·g₀(x′)/s₀ + Σ_m λ_m·g_m(x′)/s_m, with g₀
the goal on the ranking and g_m = KL(p_m(x) ‖ p_m(x′)) for every prediction that should
stay. The attack steps down the mixture of gradients; a weighting rule moves λ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from r2et_jax import threat as threat_lib
from r2et_jax.attacks.descent import (
    Attack,
    Context,
    gradient_attack,
    prediction_divergence,
)
from r2et_jax.attacks.goals import Goal
from r2et_jax.attacks.min_norm import MAX_VECTORS, min_norm_weights
from r2et_jax.checks import check_in, check_nonnegative, check_positive
from r2et_jax.numerics import unit_l2
from r2et_jax.score import class_probabilities
from r2et_jax.types import ApplyFn, Array, SaliencyFn

# name -> `rule(λ [M], g [M], unit gradients [M, n], active [M], learning rate) -> λ`
_Rule = Callable[[Array, Array, Array, Array, Any], Array]


class ConstrainedState(NamedTuple):
    """Where a constrained attack on one input stands: a `State` with weights.

    Attributes:
      perturbed: current admissible input x′ [n].
      optimizer_state: Optax state.
      objective: the ranking goal g₀ at the input that the last step started from.
      num_vanished: steps so far in which the mixture of gradients was exactly zero.
      key: for steps that draw; none does.
      weights: λ [M] on the simplex, the ranking goal first: what the last step used.
      objectives: scaled objectives [M] at the input that the last step started from.
    """

    perturbed: Array
    optimizer_state: Any
    objective: Array
    num_vanished: Array
    key: Array
    weights: Array
    objectives: Array


class Reference(NamedTuple):
    """What a constrained attack keeps of the clean input.

    Attributes:
      goal: what the goal prepared.
      logits: clean logits of every prediction.
      scales: scale of every objective [M].
    """

    goal: Any
    logits: tuple[Array, ...]
    scales: Array


def _unconstrained(weights, objectives, units, active, learning_rate):
    del objectives, units, active, learning_rate
    return jnp.zeros_like(weights).at[0].set(1)


def _fixed(weights, objectives, units, active, learning_rate):
    del objectives, units, active, learning_rate
    return weights


def _gda(weights, objectives, units, active, learning_rate):
    del units, active
    moved = weights + (learning_rate * objectives).astype(weights.dtype)
    return optax.projections.projection_simplex(moved)


def _hedge(weights, objectives, units, active, learning_rate):
    del units, active
    # A weight that underflowed may come back.
    logs = jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
    return jax.nn.softmax(logs + (learning_rate * objectives).astype(weights.dtype))


def _qp(weights, objectives, units, active, learning_rate):
    del weights, objectives, learning_rate
    return min_norm_weights(units, active=active)


_RULES: dict[str, _Rule] = {
    "unconstrained": _unconstrained,
    "fixed": _fixed,
    "gda": _gda,
    "hedge": _hedge,
    "qp": _qp,
}
WEIGHTINGS = tuple(_RULES)


def constrained_attack(
    apply: ApplyFn,
    saliency: SaliencyFn,
    goal: Goal,
    *,
    k: int,
    weighting: str,
    optimizer: optax.GradientTransformation,
    learning_rate: Array | float = 1.0,
    weights: Sequence[float] | Array | None = None,
    predictions: tuple[ApplyFn, ...] | None = None,
    attack_saliency: SaliencyFn | None = None,
    random_start: float = 0.1,
    floor: float = 1e-3,
    unit_gradients: bool = True,
    scaling: str = "boundary",
) -> Attack:
    """PROTOTYPE"""
    check_in("weighting", weighting, WEIGHTINGS)
    rule = _RULES[weighting]
    predictions = (apply,) if predictions is None else tuple(predictions)
    num = 1 + len(predictions)
    explain = saliency if attack_saliency is None else attack_saliency
    base = gradient_attack(
        apply,
        saliency,
        goal,
        k=k,
        optimizer=optimizer,
        attack_saliency=attack_saliency,
        random_start=random_start,
    )

    def values(perturbed, params, context):
        seen = explain(params, perturbed, context.target).ravel()
        reference = context.reference
        ranking = goal.value(seen, reference.goal)
        rest = [
            prediction_divergence(predict(params, perturbed), clean)
            for predict, clean in zip(predictions, reference.logits, strict=True)
        ]
        return jnp.stack([ranking, *rest])

    def init(params, x, target, threat, /, *, key, start=None):
        context, state = base.init(params, x, target, threat, key=key, start=start)
        logits = tuple(predict(params, x) for predict in predictions)
        reference = Reference(context.reference, logits, jnp.ones(num, x.dtype))
        context = context._replace(reference=reference)
        at_clean, at_start = values(x, params, context), values(state.perturbed, params, context)
        if scaling == "boundary":
            rest = jnp.stack([boundary_divergence(l) for l in logits])
        else:
            rest = at_start[1:]
        first = jnp.maximum(jnp.abs(at_clean[0]), jnp.abs(at_start[0]))
        scales = jnp.concatenate([jnp.where(first > 0, first, 1)[None], jnp.maximum(rest, floor)])
        context = context._replace(reference=reference._replace(scales=scales))
        given = jnp.full(num, 1 / num, x.dtype) if weights is None else jnp.asarray(weights, x.dtype)
        return context, ConstrainedState(*state, given, at_start / scales)

    def step(params, context, state, /):
        scales = context.reference.scales
        f = lambda p: values(p, params, context) / scales
        objectives, pull = jax.vjp(f, state.perturbed)
        grads = jax.vmap(lambda e: pull(e)[0])(jnp.eye(num, dtype=objectives.dtype))
        norms = jax.vmap(lambda g: jnp.linalg.norm(g))(grads)
        active = norms > 1e-6 * jnp.max(norms)
        units = jax.vmap(unit_l2)(grads) if unit_gradients else grads
        lam = rule(state.weights, objectives, units, active, learning_rate)
        used = jnp.where(active, lam, 0)
        used = jnp.where(jnp.sum(used) > 0, used, active.astype(used.dtype))
        mix = (used @ (units if (weighting == "qp" or unit_gradients=="all") else grads))
        update, optimizer_state = optimizer.update(mix, state.optimizer_state, state.perturbed)
        moved = state.perturbed + context.threat.epsilon * update
        return ConstrainedState(
            threat_lib.project(context.threat, moved, context.clean),
            optimizer_state,
            objectives[0] * scales[0],
            state.num_vanished + (~jnp.any(mix != 0)).astype(jnp.int32),
            state.key, lam, objectives)

    return Attack(init, step, apply, saliency, k)


def boundary_divergence(logits: Array) -> Array:
    """min over q with a tie for the first class of KL(p ‖ q) (scalar, in nats)."""
    p = class_probabilities(logits)
    two = jax.lax.top_k(p, 2)[0]
    mid = jnp.mean(two)
    return jnp.sum(jnp.where(two > 0, two * jnp.log(jnp.where(two > 0, two, 1) / mid), 0))
