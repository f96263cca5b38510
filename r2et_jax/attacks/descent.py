"""Attacks as pairs of pure functions for one example: `init` and `step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import threat as threat_lib
from r2et_jax.attacks.goals import Goal
from r2et_jax.attacks.optimizers import StepRule, check_step_rule
from r2et_jax.checks import check_count, check_k, check_nonnegative
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.score import class_probabilities
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.geometry import admissible_gradient, sample_boundary
from r2et_jax.types import ApplyFn, Array, SaliencyFn


class Context(NamedTuple):
    """What stays fixed during an attack on one input.

    Attributes:
      clean: the clean input x [n].
      target: class c that the model predicts there.
      threat: the threat model.
      clean_map: its explanation by the model under attack [n].
      top_mask: its top-k set over positive saliency, boolean [n].
      clean_logits: logits [C].
      reference: what the goal prepared, a pytree.
    """

    clean: Array
    target: Array
    threat: ThreatModel
    clean_map: Array
    top_mask: Array
    clean_logits: Array
    reference: Any


class State(NamedTuple):
    """Where an attack on one input stands.

    Attributes:
      perturbed: current admissible input x′ [n].
      optimizer_state: Optax state.
      objective: the goal at the input that the last step started from.
      num_vanished: steps so far in which the gradient was exactly zero.
      key: for steps that draw.
      num_steps: steps so far, of attacks that change with them.
    """

    perturbed: Array
    optimizer_state: Any
    objective: Array
    num_vanished: Array
    key: Array
    num_steps: Array | tuple[()] = ()


class Attack(NamedTuple):
    """An attack on the ranking of one input; run it with `attacks.runner`.

    Attributes:
      init: `init(params, x, target, threat, *, key, start=None) -> (Context, State)`;
        `start` is an admissible input to begin from instead of x.
      step: `step(params, context, state) -> State`.
      apply: the model under attack.
      saliency: its explanation, by which the result is judged.
      k: size of the top set.
    """

    init: Callable[..., tuple[Context, State]]
    step: Callable[[Any, Context, State], State]
    apply: ApplyFn
    saliency: SaliencyFn
    k: int


def clean_context(
    apply: ApplyFn, saliency: SaliencyFn, k: int
) -> Callable[..., Context]:
    """`prepare(params, x, target, threat) -> Context`, without a goal's reference."""

    def prepare(params, x, target, threat):
        clean_map = saliency(params, x, target)
        check_k(k, clean_map.size)
        return Context(
            clean=x,
            target=target,
            threat=threat,
            clean_map=clean_map,
            top_mask=positive_top_k_mask(clean_map.ravel(), k=k),
            clean_logits=apply(params, x),
            reference=(),
        )

    return prepare


def gradient_attack(
    apply: ApplyFn,
    saliency: SaliencyFn,
    goal: Goal,
    *,
    k: int,
    optimizer: StepRule,
    attack_saliency: SaliencyFn | None = None,
    random_start: float = 0.0,
    segment_points: int = 1,
    anneal: Callable[[Array], tuple[Goal, SaliencyFn]] | None = None,
) -> Attack:
    """Projected descent on a goal of the explanation.

    x′ ← Π(x′ + ε·update(∇ goal(I(x′)))), with Π the projection of the threat model.

    Args:
      apply: the model, which decides predictions.
      saliency: the explanation by which success is judged; its clean top-k set is
        the one that the goal attacks.
      goal: what is minimised, see `attacks.goals`.
      k: size of the top set, in 1…n−1.
      optimizer: step rule, called with the threat model's norm, see
        `attacks.optimizers`.
      attack_saliency: explanation that the goal sees and that is differentiated:
        unnormalised, or of a smooth surrogate of the model; the features that are
        pushed are those of `saliency` all the same. Default: `saliency`.
      random_start: distance from x, or from a given start, at which the attack starts,
        as a share of the budget; may be traced. A goal that is flat at x starts at
        least at .1.
      segment_points: T; above 1 the goal is averaged over the points x + (t/T)δ,
        t = 1…T, the published integral over the segment.
      anneal: `anneal(step) -> (goal, attack_saliency)` of a traced step 0, 1, …, whose
        values take the place of those above at that step: a border or a stand-in that
        grows sharper. What is pushed stays what `goal` prepared.

    Returns:
      `Attack`.

    Raises:
      ValueError: for k, random_start or segment_points out of range, or an optimizer
        that is no step rule.

    Example:
      >>> import jax
      >>> from r2et_jax import attacks, saliency, score
      >>> from r2et_jax.threat import threat_model
      >>> apply = lambda params, x: jnp.sum(params * x**2)[None]
      >>> explain = saliency.gradient(score.log_odds(apply))
      >>> params, x = jnp.arange(1.0, 5.0), jnp.ones((2, 4))
      >>> rule = attacks.optimizers.steepest(0.1)
      >>> goal = attacks.goals.mean_gap()
      >>> attack = gradient_attack(apply, explain, goal, k=2, optimizer=rule)

      >>> run = attacks.compile_attack(attack, num_steps=20)
      >>> result = run(params, x, threat_model("l2", 0.5), key=jax.random.key(0))
      >>> print(result.best.precision)
      [0.5 0.5]

    Source: R2ET (arXiv 2212.14106), ERAttack; Ghorbani et al. 2019.
    """
    if not isinstance(random_start, jax.Array):
        check_nonnegative("random_start", random_start)
    check_count("segment_points", segment_points)
    check_step_rule(optimizer)
    explain = saliency if attack_saliency is None else attack_saliency
    if goal.starts_flat:
        random_start = jnp.maximum(random_start, 0.1)
    prepare = clean_context(apply, saliency, k)

    def init(params, x, target, threat, /, *, key, start=None):
        goal_key, start_key, step_key = jax.random.split(key, 3)
        context = prepare(params, x, target, threat)
        seen = explain(params, x, target).ravel()
        clean_map = context.clean_map.ravel()
        reference = goal.prepare(clean_map, seen, k=k, key=goal_key)
        context = context._replace(reference=reference)
        start = x if start is None else start
        if isinstance(random_start, jax.Array) or random_start:
            jump = sample_boundary(threat, x, key=start_key) - x
            start = threat_lib.project(threat, x, start + random_start * jump)
        state = State(
            perturbed=start,
            optimizer_state=optimizer(threat.norm).init(jnp.zeros_like(x)),
            objective=jnp.zeros((), x.dtype),
            num_vanished=jnp.zeros((), jnp.int32),
            key=step_key,
            num_steps=() if anneal is None else jnp.zeros((), jnp.int32),
        )
        return context, state

    def objective(params, perturbed, context, num_steps):
        now, seen = (goal, explain) if anneal is None else anneal(num_steps)

        def at(share):
            point = context.clean + share * (perturbed - context.clean)
            values = seen(params, point, context.target).ravel()
            return now.value(values, context.reference)

        if segment_points == 1:
            values = seen(params, perturbed, context.target).ravel()
            value = now.value(values, context.reference)
        else:
            shares = jnp.arange(1, segment_points + 1) / segment_points
            value = jnp.mean(jax.vmap(at)(shares.astype(perturbed.dtype)))
        if context.threat.prediction == "penalized":
            penalty = context.threat.penalty.astype(value.dtype)
            value += penalty * prediction_divergence(
                context.clean_logits, apply(params, perturbed)
            )
        return value

    def step(params, context, state, /):
        value, gradient = jax.value_and_grad(objective, argnums=1)(
            params, state.perturbed, context, state.num_steps
        )
        perturbed, optimizer_state, vanished = move(optimizer, gradient, state, context)
        return State(
            perturbed=perturbed,
            optimizer_state=optimizer_state,
            objective=value,
            num_vanished=state.num_vanished + vanished.astype(jnp.int32),
            key=state.key,
            num_steps=() if anneal is None else state.num_steps + 1,
        )

    return Attack(init, step, apply, saliency, k)


def move(
    optimizer: StepRule, gradient: Array, state: Any, context: Context
) -> tuple[Array, Any, Array]:
    """One projected step down a gradient.

    What may not move is taken out of the gradient first: it would shorten the
    normalised step, and a gradient that is zero on all else has vanished.

    Args:
      optimizer: step rule.
      gradient: of the objective at the state's input [n].
      state: `State`, or another with its `perturbed` and `optimizer_state`.
      context: `Context`.

    Returns:
      The next admissible input [n], the optimiser's state, and whether the gradient
      vanished (boolean).
    """
    threat, start = context.threat, state.perturbed
    gradient = admissible_gradient(threat, context.clean, start, gradient)
    update, optimizer_state = optimizer(threat.norm).update(
        gradient, state.optimizer_state, start
    )
    moved = start + threat.epsilon.astype(update.dtype) * update
    perturbed = threat_lib.project(threat, context.clean, moved)
    return perturbed, optimizer_state, ~jnp.any(gradient != 0)


def random_search(
    apply: ApplyFn, saliency: SaliencyFn, *, k: int, on_boundary: bool = True
) -> Attack:
    """Independent random inputs of the threat model: the check for masked gradients.

    An attack by gradients that does worse than this is broken. Run it with
    `track_every=1`: every step is a fresh candidate.

    Args:
      apply, saliency, k: as in `gradient_attack`.
      on_boundary: draw on the boundary of the ball, else uniformly inside.

    Returns:
      `Attack`, without objective or gradient.

    Example:
      >>> import jax
      >>> from r2et_jax import attacks, saliency, score
      >>> from r2et_jax.threat import threat_model
      >>> apply = lambda params, x: jnp.sum(params * x**2)[None]
      >>> explain = saliency.gradient(score.log_odds(apply))
      >>> params, x = jnp.arange(1.0, 5.0), jnp.ones((2, 4))
      >>> attack = random_search(apply, explain, k=2)

      >>> run = attacks.compile_attack(attack, num_steps=20)
      >>> result = run(params, x, threat_model("l2", 0.5), key=jax.random.key(0))
      >>> print(result.best.precision)
      [1. 1.]

    Source: Carlini et al. 2019, "On evaluating adversarial robustness".
    """
    draw = sample_boundary if on_boundary else threat_lib.sample
    prepare = clean_context(apply, saliency, k)

    def init(params, x, target, threat, /, *, key, start=None):
        context = prepare(params, x, target, threat)
        start = x if start is None else start
        zero = jnp.zeros((), x.dtype)
        return context, State(start, (), zero, jnp.zeros((), jnp.int32), key)

    def step(params, context, state, /):
        del params
        key, draw_key = jax.random.split(state.key)
        point = draw(context.threat, context.clean, key=draw_key)
        return state._replace(perturbed=point, key=key)

    return Attack(init, step, apply, saliency, k)


def prediction_divergence(clean_logits: Array, logits: Array) -> Array:
    """KL(p(x) ‖ p(x′)) of the class probabilities (scalar, in nats)."""
    clean = class_probabilities(clean_logits)
    log_ratio = _log_probabilities(clean_logits) - _log_probabilities(logits)
    return jnp.sum(clean * log_ratio)


def _log_probabilities(logits):
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.log_softmax(logits, axis=-1)
