"""Penalties at an input that a short attack on the ranking found.

Every factory returns a `Penalty`, see `objectives.penalties`. The attack has a few
normalised steps inside the ball ‖δ‖₂ ≤ ε and begins at x, where its goals have a
slope, or at random near it. It goes through a smooth surrogate of the model: in a
piecewise-linear network with one logit the normalised map is piecewise constant, and
the attack would not move. δ is a constant for differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import ranking, saliency, score
from r2et_jax.attacks import goals
from r2et_jax.checks import check_count, check_k, check_nonnegative, check_positive
from r2et_jax.numerics import magnitude, over_channels, unit_l2, unit_sum
from r2et_jax.objectives.penalties import Penalty, ranked_maps
from r2et_jax.objectives.perturb import ascend
from r2et_jax.ranking.gaps import mean_gap_weights, weighted_sum
from r2et_jax.types import ApplyFn, Array


class InnerAttack(NamedTuple):
    """How the inner attack moves.

    Attributes:
      surrogate: smooth stand-in of the model, with the same parameters, whose map is
        attacked.
      epsilon: radius ε > 0 of the l2 ball, in units of x.
      num_steps: steps, at least 1.
      step_size: their length in units of ε.
      start: length of δ at the start in units of ε, in [0, 1], in a random direction.
      channels: neighbouring values of x that are one feature of the map, see
        `penalties.ranked_maps`.
    """

    surrogate: ApplyFn
    epsilon: float = 1.0
    num_steps: int = 3
    step_size: float = 0.6
    start: float = 0.0
    channels: int = 1


def perturbation(
    goal: goals.Goal, attack: InnerAttack, *, k: int
) -> Callable[..., Array]:
    """δ of a few steps against the top-k set of a map.

    Args:
      goal: what is minimised, deterministic and not flat at x; it sees the map of unit
        sum.
      attack: how the attack moves.
      k: size of the top set.

    Returns:
      `fn(params, ranked, x, target, /, *, key=None) -> δ`, of x's shape; `ranked` is
      the clean map whose top-k set is attacked. x has one axis. The key is needed
      for a random start alone.

    Raises:
      ValueError: for a goal that starts flat, or numbers out of range.
    """
    if goal.starts_flat:
        raise ValueError("the goal must have a slope at the clean input, got none")
    check_positive("epsilon", attack.epsilon)
    check_count("num_steps", attack.num_steps)
    check_positive("step_size", attack.step_size)
    check_nonnegative("start", attack.start)
    if attack.start > 1:
        raise ValueError(f"start must be at most 1, the radius, got {attack.start}")
    explainer = saliency.of_pixels(attack.channels)
    explain = explainer(score.log_odds(attack.surrogate))

    def find(params, ranked, x, target, /, *, key=None):
        check_k(k, ranked.size)
        start = jnp.zeros_like(x)
        if attack.start:
            if key is None:
                raise ValueError("an attack with a random start needs a key, got None")
            direction = unit_l2(jax.random.normal(key, x.shape, x.dtype))
            start = attack.start * attack.epsilon * direction
        params, x = jax.lax.stop_gradient((params, x))
        # The goals used here draw nothing.
        prepared = goal.prepare(ranked, ranked, k=k, key=None)
        return ascend(
            lambda delta: -goal.value(explain(params, x + delta, target), prepared),
            start,
            epsilon=attack.epsilon,
            num_steps=attack.num_steps,
            step_size=attack.step_size,
        )

    return find


def adversarial_loss(apply: ApplyFn, attack: InnerAttack, *, k: int) -> Penalty:
    """Cross-entropy at x + δ: adversarial training on the ranking.

    δ lowers the mean gap of the top-k set. The class, explained and predicted, is the
    label. Added to the cross-entropy at x, with a weight.

    Source: R2ET (arXiv 2212.14106), AT; Madry et al. 2018.
    """
    find = perturbation(goals.mean_gap(), attack, k=k)
    loss = score.loss(apply)
    maps = ranked_maps(apply, channels=attack.channels)

    def penalty(params, x, label, /, *, reference=None):
        ranked = maps(params, x, label, reference=reference)[1]
        return loss(params, x + find(params, ranked, x, label), label)

    return penalty


def adversarial_gap(apply: ApplyFn, attack: InnerAttack, *, k: int) -> Penalty:
    """−mean h at x + δ over the pairs of the clean top-k set, on the map of unit sum.

    δ lowers that mean. It is the adversarial form that R2ET bounds.

    Source: R2ET (arXiv 2212.14106), section 4.
    """
    find = perturbation(goals.mean_gap(), attack, k=k)
    explain = saliency.of_pixels(attack.channels)(score.log_odds(apply))
    maps = ranked_maps(apply, channels=attack.channels)

    def penalty(params, x, target, /, *, reference=None):
        ranked = maps(params, x, target, reference=reference)[1]
        delta = find(params, ranked, x, target)
        mask = ranking.top_k_mask(ranked, k=k)
        weights = mean_gap_weights(mask, k=k)
        return -weighted_sum(explain(params, x + delta, target), weights)

    return penalty


def adversarial_hinge(
    apply: ApplyFn, attack: InnerAttack, *, k: int, margin: float = 0.3
) -> Penalty:
    """Σ_i relu(m ∓ (n I_i(x + δ) − th)), − in the clean top-k set: ranking AT.

    δ lowers the smooth stand-in for P@k. The threshold th lies midway between the
    lowest n I_i of the clean top-k set and the highest of the rest, at x + δ; it is a
    constant for differentiation.

    Args:
      apply: the model.
      attack: how the inner attack moves; a start of .3 and three steps of .6 suit it.
      k: size of the top set.
      margin: m > 0, in units of the mean saliency (ours).

    Returns:
      `penalty(params, x, target, /, *, reference=None, key=None)`; see `perturbation`.

    Raises:
      ValueError: if margin ≤ 0; when traced, for k out of range.

    Source: ours.
    """
    check_positive("margin", margin)
    find = perturbation(goals.smooth_precision(), attack, k=k)
    input_gradient = jax.grad(score.log_odds(apply), argnums=1)
    maps = ranked_maps(apply, channels=attack.channels)

    def penalty(params, x, target, /, *, reference=None, key=None):
        ranked = maps(params, x, target, reference=reference)[1]
        delta = find(params, ranked, x, target, key=key)
        mask = ranking.top_k_mask(ranked, k=k)
        g = input_gradient(params, x + delta, target)
        values = over_channels(magnitude(g), attack.channels)
        values = ranked.size * unit_sum(values)
        lowest = jnp.min(jnp.where(mask, values, jnp.inf))
        highest = jnp.max(jnp.where(mask, -jnp.inf, values))
        over = values - jax.lax.stop_gradient((lowest + highest) / 2)
        return jnp.sum(jax.nn.relu(margin - jnp.where(mask, over, -over)))

    return penalty
