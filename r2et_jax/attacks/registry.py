"""Attacks by name, each with its protocol: goal, optimiser and number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from r2et_jax import programs, score
from r2et_jax import saliency as saliency_lib
from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.descent import Attack, gradient_attack, random_search
from r2et_jax.checks import check_count, check_in
from r2et_jax.types import ApplyFn, SaliencyFn

# Sharpness of the smooth stand-in for tables; images and graphs take sharper ones.
SURROGATE_RHO = 3.0


class Protocol(NamedTuple):
    """An attack with the number of its steps and of steps between evaluations."""

    attack: Attack
    num_steps: int
    track_every: int


class Model(NamedTuple):
    """What a named attack needs to know of a model.

    Attributes:
      apply: `apply(params, x) -> logits [C]`.
      surrogate: the same function with smooth activations, for the same parameters.
        By default, and where it is `apply` itself, the stand-in that is read from the
        model's program (`programs.smooth`) with ρ = `SURROGATE_RHO`: a model without
        kinks stands for itself in it.
    """

    apply: ApplyFn
    surrogate: ApplyFn | None = None

    @property
    def stand_in(self) -> ApplyFn:
        """The smooth function that gradients go through."""
        # Not `is`: each look at `module.apply` makes another bound method.
        if self.surrogate is None or self.surrogate == self.apply:
            return programs.smooth(self.apply, rho=SURROGATE_RHO)
        return self.surrogate


def _published(goal, *, segment_points=1, num_steps=1000):
    def build(model: Model, explainer, k, steps):
        steps = num_steps if steps is None else steps
        return Protocol(
            gradient_attack(
                model.apply,
                explainer(score.log_odds(model.apply)),
                goal(k),
                k=k,
                optimizer=optimizers.steepest(1 / steps),
                attack_saliency=explainer(
                    score.probability(model.apply), normalize=False
                ),
                segment_points=segment_points,
            ),
            steps,
            10,
        )

    return build


def _through_surrogate(goal, *, num_steps=200):
    def build(model: Model, explainer, k, steps):
        steps = num_steps if steps is None else steps
        return Protocol(
            gradient_attack(
                model.apply,
                explainer(score.log_odds(model.apply)),
                goal(k),
                k=k,
                optimizer=optimizers.steepest(2 / steps),
                attack_saliency=explainer(score.log_odds(model.stand_in)),
            ),
            steps,
            10,
        )

    return build


def _random(model: Model, explainer, k, steps):
    del steps
    attack = random_search(model.apply, explainer(score.log_odds(model.apply)), k=k)
    return Protocol(attack, 300, 1)


_ATTACKS: dict[str, Callable[..., Protocol]] = {
    "er": _published(lambda k: goals.mean_gap()),
    "er_segment": _published(
        lambda k: goals.mean_gap(), segment_points=10, num_steps=100
    ),
    "er_surrogate": _through_surrogate(lambda k: goals.mean_gap()),
    "mse": _published(lambda k: goals.mse()),
    "random": _random,
}
NAMES = tuple(_ATTACKS)

# What each one does, for tables and messages.
DESCRIPTIONS = {
    "er": "ERAttack as published: greedy, unnormalised saliency, 1000 steps of ε/1000",
    "er_segment": "ERAttack on the integral over the segment, 10 points, 100 steps",
    "er_surrogate": "ERAttack through smooth activations, normalised saliency, "
    "200 projected steps of ε/100",
    "mse": "MSE attack, unnormalised saliency, 1000 steps of ε/1000",
    "random": "300 random directions on the boundary of the budget",
}


def named_attack(
    name: str,
    model: Model,
    *,
    k: int,
    explainer: Callable[..., SaliencyFn] = saliency_lib.gradient,
    num_steps: int | None = None,
) -> Protocol:
    """The attack of that name on a model's explanation.

    Success is judged on the explanation of the log-odds, whose ranking is that of the
    probability.

    Args:
      name: one of `NAMES`.
      model: the model and its smooth surrogate.
      k: size of the top set.
      explainer: factory of the explanation under attack, called with a score and
        `normalize=`.
      num_steps: steps in place of those in `DESCRIPTIONS`; the sum of their lengths
        stays, once or twice the budget. Random directions stay 300.

    Returns:
      `Protocol`.

    Raises:
      ValueError: for an unknown attack, with the known ones, or num_steps < 1.
    """
    if num_steps is not None:
        check_count("num_steps", num_steps)
    check_in("attack", name, NAMES)
    return _ATTACKS[name](model, explainer, k, num_steps)
