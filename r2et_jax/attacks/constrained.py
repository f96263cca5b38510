"""Attacks that pay for changed predictions: a Lagrangian whose weights move.

min over x′ of Σ_m λ_m·g_m(x′)/s_m, λ on the simplex, where g₀ is the goal on the
ranking and g_m = KL(p_m(x) ‖ p_m(x′)) for each prediction that should stay: one of an
ordinary classifier; the pair's and each input's of a Siamese net. Every step goes down
the mixture of gradients, and a weighting rule says how λ moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r2et_jax.attacks.descent import (
    Attack,
    gradient_attack,
    move,
    prediction_divergence,
)
from r2et_jax.attacks.goals import Goal
from r2et_jax.attacks.min_norm import MAX_VECTORS, min_norm_weights
from r2et_jax.attacks.optimizers import StepRule
from r2et_jax.checks import check_in, check_nonnegative, check_positive
from r2et_jax.score import class_probabilities
from r2et_jax.types import ApplyFn, Array, SaliencyFn


class ConstrainedState(NamedTuple):
    """Where a constrained attack on one input stands: a `State` with weights.

    Attributes:
      perturbed: current admissible input x′ [n].
      optimizer_state: Optax state.
      objective: the ranking goal g₀ at the input that the last step started from.
      num_vanished: steps so far whose mixture of gradients was exactly zero.
      key: for steps that draw; these don't.
      weights: λ [M] on the simplex, the ranking goal's first, that the last step used.
      objectives: scaled g_m/s_m [M] at the input that the last step started from.
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
      goal: what the ranking goal prepared.
      logits: logits of every prediction, a tuple of [C].
      scales: s [M] by which the objectives are divided.
    """

    goal: Any
    logits: tuple[Array, ...]
    scales: Array


# Called with λ [M], scaled objectives [M], their gradients [M, n], which of these have
# not vanished [M] and the learning rate; returns the next λ.
_Rule = Callable[[Array, Array, Array, Array, Any], Array]


def _unconstrained(weights, objectives, gradients, active, rate):
    del objectives, gradients, active, rate
    return jnp.zeros_like(weights).at[0].set(1)


def _fixed(weights, objectives, gradients, active, rate):
    del objectives, gradients, active, rate
    return weights


def _gda(weights, objectives, gradients, active, rate):
    del gradients, active
    with jax.numpy_dtype_promotion("standard"):  # Optax divides by integers
        return optax.projections.projection_simplex(weights + rate * objectives)


def _hedge(weights, objectives, gradients, active, rate):
    del gradients, active
    # The floor lets a weight that underflowed come back.
    logs = jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))
    return jax.nn.softmax(logs + rate * objectives)


def _qp(weights, objectives, gradients, active, rate):
    del weights, objectives, rate
    return min_norm_weights(gradients, active=active)


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
    optimizer: StepRule,
    learning_rate: Array | float = 0.1,
    weights: Sequence[float] | Array | None = None,
    predictions: tuple[ApplyFn, ...] | None = None,
    attack_saliency: SaliencyFn | None = None,
    random_start: float = 0.1,
    scale_floor: float = 1e-3,
) -> Attack:
    """Projected descent on the Lagrangian of a ranking goal and changes of prediction.

    x′ ← Π(x′ + ε·update(Σ_m λ_m ∇g_m(x′)/s_m)), with Π the projection of the threat
    model and λ, on the simplex, by one of the rules

    * `unconstrained`: λ = (1, 0, …);
    * `fixed`: λ = `weights`;
    * `gda`: λ ← P(λ + η·g/s), gradient ascent projected on the simplex;
    * `hedge`: λ ← λ ⊙ exp(η·g/s), renormalised;
    * `qp`: λ = argmin ‖Σ λ_m ∇g_m/s_m‖, see `min_norm_weights`.

    The scales are those of the clean input. A divergence is divided by the smallest
    one at which the class can change (`boundary_divergence`), so that g_m/s_m < 1
    proves that the class stayed; the ranking goal by its magnitude at the clean input
    or, if larger, at the start.

    ∇KL vanishes where the prediction is the clean one, as at x′ = x: the attack starts
    at random, and gradients that have vanished are left out of the hull and of the
    mixture, whose other weights are what is left.

    Args:
      apply: the model, which decides predictions.
      saliency: the explanation by which success is judged.
      goal: g₀, minimised, see `attacks.goals`.
      k: size of the top set, in 1…n−1.
      weighting: rule for λ, one of `WEIGHTINGS`.
      optimizer: step rule of x′ with its schedule of step sizes, see
        `attacks.optimizers`.
      learning_rate: η > 0 of `gda` and `hedge`; may be traced.
      weights: λ [1 + predictions] to begin with, or of `fixed`; nonnegative, divided
        by its sum. Default: uniform. May be traced.
      predictions: models whose prediction should stay, each `(params, x) -> logits`
        called as `apply` is, with the example's context where it has one. Default:
        `(apply,)`. For pairs see the example. One that does not depend on x, as the
        class of the second input, has the divergence 0 and no part in the mixture.
      attack_saliency: explanation that the goal sees and that is differentiated.
        Default: `saliency`.
      random_start: distance from x at which the attack starts, as a share of the
        budget.
      scale_floor: smallest scale of a divergence in nats, for inputs that sit on the
        boundary between two classes.

    Returns:
      `Attack`; its state is a `ConstrainedState`, its context's reference a
      `Reference`.

    Raises:
      ValueError: for an unknown rule, numbers out of range, weights that do not fit
        the objectives, no or too many predictions, a threat model under which the
        objective pays for the prediction a second time.

    Example:
      The pair and its first input, of a model of pairs:

      >>> from r2et_jax import models
      >>> from r2et_jax.context import without_context
      >>> from r2et_jax.models.siamese import class_apply
      >>> siamese = models.Siamese(models.MLP(hidden=(6,), num_outputs=4))
      >>> single = class_apply(siamese)
      >>> predictions = models.pair_apply(siamese), without_context(single)

    Source: R2ET (arXiv 2212.14106), the constrained attacks of the appendix.
    """
    check_in("weighting", weighting, WEIGHTINGS)
    check_positive("scale_floor", scale_floor)
    check_nonnegative("random_start", random_start)
    if not isinstance(learning_rate, jax.Array):
        check_positive("learning_rate", learning_rate)
    predictions = (apply,) if predictions is None else tuple(predictions)
    num = 1 + len(predictions)
    if not 2 <= num <= MAX_VECTORS:
        raise ValueError(
            f"predictions must be 1…{MAX_VECTORS - 1} models, got {len(predictions)}"
        )
    _check_weights(weights, num)
    rule = _RULES[weighting]
    explain = saliency if attack_saliency is None else attack_saliency
    plain = gradient_attack(
        apply,
        saliency,
        goal,
        k=k,
        optimizer=optimizer,
        attack_saliency=attack_saliency,
        random_start=random_start,
    )

    def ranking(params, perturbed, context, reference):
        seen = explain(params, perturbed, context.target).ravel()
        return goal.value(seen, reference)

    def init(params, x, target, threat, /, *, key, start=None):
        if threat.prediction == "penalized":
            raise ValueError(
                "a constrained attack weighs the change of prediction itself: the "
                "threat model's prediction rule must be free or same_class, got "
                "penalized"
            )
        context, state = plain.init(params, x, target, threat, key=key, start=start)
        logits = tuple(predict(params, x) for predict in predictions)
        ends = (x, state.perturbed)
        values = [ranking(params, end, context, context.reference) for end in ends]
        size = jnp.maximum(*map(jnp.abs, values))
        scales = [jnp.where(size > 0, size, 1)]
        scales += [jnp.maximum(boundary_divergence(z), scale_floor) for z in logits]
        reference = Reference(context.reference, logits, jnp.stack(scales))
        if weights is None:
            first = jnp.full(num, 1 / num, x.dtype)
        else:
            first = jnp.asarray(weights, x.dtype)
            first = first / jnp.sum(first)
        state = ConstrainedState(
            perturbed=state.perturbed,
            optimizer_state=state.optimizer_state,
            objective=state.objective,
            num_vanished=state.num_vanished,
            key=state.key,
            weights=first,
            objectives=jnp.zeros(num, x.dtype),
        )
        return context._replace(reference=reference), state

    def step(params, context, state, /):
        reference, perturbed = context.reference, state.perturbed
        values, gradients, active = _objectives(
            ranking, predictions, params, perturbed, context
        )
        rows = (-1, *(1,) * perturbed.ndim)
        gradients = gradients / reference.scales.reshape(rows)
        objectives = values / reference.scales
        rate = jnp.asarray(learning_rate).astype(objectives.dtype)
        chosen = rule(
            state.weights, objectives, gradients.reshape(num, -1), active, rate
        )
        mixture = _mixture(chosen, gradients, active)
        moved, optimizer_state, vanished = move(optimizer, mixture, state, context)
        return ConstrainedState(
            perturbed=moved,
            optimizer_state=optimizer_state,
            objective=values[0],
            num_vanished=state.num_vanished + vanished.astype(jnp.int32),
            key=state.key,
            weights=chosen,
            objectives=objectives,
        )

    return Attack(init, step, apply, saliency, k)


def _objectives(ranking, predictions, params, perturbed, context):
    """Values [M], gradients [M, *x.shape], and which gradients have not vanished [M].

    ∇KL is the difference of the probabilities through the model's Jacobian: within
    rounding of the clean ones its direction is noise.
    """
    reference = context.reference
    value, gradient = jax.value_and_grad(ranking, argnums=1)(
        params, perturbed, context, reference.goal
    )
    values, gradients = [value], [gradient]
    active = [jnp.any(gradient != 0)]
    tolerance = 8 * jnp.finfo(value.dtype).eps
    for predict, clean in zip(predictions, reference.logits, strict=True):

        def divergence(point, predict=predict, clean=clean):
            logits = predict(params, point)
            return prediction_divergence(clean, logits), logits

        (value, logits), gradient = jax.value_and_grad(divergence, has_aux=True)(
            perturbed
        )
        change = jnp.abs(class_probabilities(logits) - class_probabilities(clean))
        values.append(value)
        gradients.append(gradient)
        active.append(jnp.any(gradient != 0) & (jnp.max(change) > tolerance))
    return jnp.stack(values), jnp.stack(gradients), jnp.stack(active)


def _mixture(weights, gradients, active):
    """Σ λ_m ∇g_m over active gradients; their plain sum where λ has none of them."""
    used = jnp.where(active, weights, 0)
    used = jnp.where(jnp.any(used > 0), used, active.astype(used.dtype))
    return jnp.sum(used.reshape(-1, *(1,) * (gradients.ndim - 1)) * gradients, axis=0)


def _check_weights(weights, num):
    if weights is None:
        return
    if np.shape(weights) != (num,):
        raise ValueError(
            f"weights must have one entry for the ranking and one for each prediction, "
            f"{num} in all, got shape {np.shape(weights)}"
        )
    if isinstance(weights, jax.core.Tracer):
        return
    values = np.asarray(weights, np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(
            f"weights must be nonnegative and not all zero, got {values.tolist()}"
        )


def boundary_divergence(logits: Array) -> Array:
    """The smallest KL(p ‖ q) over predictions q of another class than p's, in nats.

    It ties the two likeliest classes: p_a·log(p_a/μ) + p_b·log(p_b/μ) with their mean
    μ, at most log 2. A prediction at a smaller divergence has the class of p.

    Args:
      logits: [C]; a single logit z stands for the classes [0, z].

    Returns:
      Scalar in 0…log 2.

    Example:
      >>> round(float(boundary_divergence(jnp.array([2.0, 0.0]))), 4)
      0.3278
    """
    p = class_probabilities(logits)
    top = jax.lax.top_k(p, 2)[0]
    ratio = jnp.where(top > 0, top, 1) / jnp.mean(top)
    return jnp.sum(jnp.where(top > 0, top * jnp.log(ratio), 0))
