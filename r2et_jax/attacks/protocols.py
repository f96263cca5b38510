"""Attacks of one run by name, each with its goal, optimiser and number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from r2et_jax import score
from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.descent import Attack, gradient_attack, random_search
from r2et_jax.checks import check_count, check_in
from r2et_jax.subject import Form, Subject

# Sharpness of the smooth stand-in for tables; images and graphs take sharper ones.
SURROGATE_RHO = 3.0


class Protocol(NamedTuple):
    """An attack with the number of its steps and of steps between evaluations."""

    attack: Attack
    num_steps: int
    track_every: int


def _published(goal, *, segment_points=1, num_steps=1000):
    def build(form: Form, rho, k, steps):
        steps = num_steps if steps is None else steps
        return Protocol(
            gradient_attack(
                form.apply,
                form.saliency(),
                goal(k),
                k=k,
                optimizer=optimizers.steepest(1 / steps),
                attack_saliency=form.explainer(
                    score.probability(form.apply), normalize=False
                ),
                segment_points=segment_points,
            ),
            steps,
            10,
        )

    return build


def _through_surrogate(goal, *, num_steps=200):
    def build(form: Form, rho, k, steps):
        steps = num_steps if steps is None else steps
        return Protocol(
            gradient_attack(
                form.apply,
                form.saliency(),
                goal(k),
                k=k,
                optimizer=optimizers.steepest(2 / steps),
                attack_saliency=form.explainer(score.log_odds(form.stand_in(rho))),
            ),
            steps,
            10,
        )

    return build


def _random(form: Form, rho, k, steps):
    del rho, steps
    attack = random_search(form.apply, form.saliency(), k=k)
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
SINGLE = tuple(_ATTACKS)


def protocol(
    name: str,
    subject: Subject | Form,
    *,
    k: int,
    num_steps: int | None = None,
    rho: float = SURROGATE_RHO,
) -> Protocol:
    """The attack of that name on a model's explanation, to be run by `compile_attack`.

    Success is judged on the explanation of the log-odds, whose ranking is that of the
    probability.

    Args:
      name: one of `SINGLE`.
      subject: the model; its parameters have no part in it.
      k: size of the top set.
      num_steps: steps in place of those in `DESCRIPTIONS`; the sum of their lengths
        stays, once or twice the budget. Random directions stay 300.
      rho: sharpness ρ of the smooth stand-in.

    Returns:
      `Protocol`.

    Raises:
      ValueError: for an unknown attack, with the known ones, num_steps < 1, or an
        attack by gradients on a black box.

    Example:
      >>> import jax
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> model = MLP()
      >>> examined = subject(model, model.init(jax.random.key(0), jax.numpy.ones(4)))
      >>> published = protocol("er", examined, k=2)
      >>> print(published.num_steps, published.track_every)
      1000 10
    """
    if num_steps is not None:
        check_count("num_steps", num_steps)
    check_in("attack", name, SINGLE)
    form = subject.form if isinstance(subject, Subject) else subject
    if name != "random" and not form.differentiable:
        raise ValueError(
            f"the attack {name!r} takes gradients, which a black box has not: attack "
            "it by 'random' or 'strongest', which then searches at random"
        )
    return _ATTACKS[name](form, rho, k, num_steps)
