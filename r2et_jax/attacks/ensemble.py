"""The members of `strongest`: goals, stand-ins, starts and an evolution."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import optax

from r2et_jax import score
from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.descent import Attack, gradient_attack, random_search
from r2et_jax.attacks.evolution import evolution
from r2et_jax.attacks.protocols import SURROGATE_RHO, protocol
from r2et_jax.checks import check_count
from r2et_jax.programs.transform import straight_through
from r2et_jax.subject import Form, Subject

# Where a member starts: at the clean input, at the best one so far, or at the best one
# so far of the clean class.
STARTS = ("clean", "best", "same_class")
# Models that a member is for: those with kinks, those of them whose cells an evolution
# searches, those without kinks, or all.
SUITED = ("all", "kinked", "cells", "smooth")
# Kind of model -> what of these it takes.
SUITED_TO = {
    "smooth": ("all", "smooth"),
    "kinked": ("all", "kinked"),
    "cells": ("all", "kinked", "cells"),
}
_STEPS = 60
_POPULATION = 20
_RESTARTS = 10
# Restarts of the evolution for each of the runs by gradients.
_EVOLUTION_SHARE = 3
# Of the evolution, for each of its restarts.
_GENERATIONS = 9
# Members that start at random or go on from the best: start and first step are shares
# of the budget.
_FAR, _NEAR, _ELITE = (1.0, 0.3), (0.3, 0.1), (0.5, 0.3)
# Name -> start, and the settings of `drawn`: ρ, temperature, spread, start, step. Which
# sharpness suits differs from model to model by more than ten. P@k of vanilla models
# after 300 evaluations of one member, ρ = 1, 3, 10, 30: MNIST, 32 inputs, .066, .084,
# .132 and –; planted graphs, 48 inputs, –, .056, .029 and .040. Wider borders (.3) left
# .087 and .065 at best, and `goals.smooth_precision` at its best width .086 and .060.
_RUNS = {
    "straight_rho1": ("clean", (1.0, 0.1, 0.0, *_FAR)),
    "straight_rho3": ("clean", (3.0, 0.1, 0.0, *_FAR)),
    "straight_rho10": ("clean", (10.0, 0.1, 0.0, *_FAR)),
    "straight_rho30": ("clean", (30.0, 0.1, 0.0, *_FAR)),
    "elite_rho3": ("best", (3.0, 0.1, 0.5, *_ELITE)),
    "elite_rho10": ("best", (10.0, 0.1, 0.5, *_ELITE)),
    "elite_narrow_rho10": ("best", (10.0, 0.03, 0.5, *_ELITE)),
}
# On models without kinks, where ρ is nothing and the evolution has nothing to cross, in
# place of both: runs without a spread, and the settings of `sharp`, which are runs for
# each restart of the others, temperature, spread, start and step.
_SMOOTH_RUNS = {
    "precision": ("clean", (1.0, 0.3, *_FAR)),
    "precision_narrow": ("clean", (1.0, 0.05, *_FAR)),
    "elite": ("best", (1.0, 0.03, *_NEAR)),
}
_SMOOTH_STEPS = 30
_SHARP = {
    "sharp": ("clean", 4, (0.03, 0.5, 1.0, 0.3)),
    "sharp_near": ("best", 3, (0.03, 0.5, 0.3, 0.3)),
    "sharp_far": ("best", 3, (0.03, 0.5, 1.0, 0.3)),
    "sharp_same_class": ("same_class", 2, (0.03, 0.5, 0.5, 0.3)),
}
_SHARP_STEPS, _SHARP_DECAY = 60, 0.8
# At most so many restarts, for more rounds, as more of the members go on from the best
# so far. P@8 on 100 validation inputs of Adult, softplus, at 16,000 evaluations by 10
# and 5 restarts: .381 and .380; at 8,000: .393 and .384.
_SMOOTH_RESTARTS = 5
_DRAWS = 30
# Evaluations of one restart of all members, the random draws' included, where no cells
# are searched and where they are.
_RESTART_COST = len(_RUNS) * _STEPS + _DRAWS + _GENERATIONS * _POPULATION
_CELLS_COST = _RESTART_COST + (len(STARTS) - 1) * _GENERATIONS * _POPULATION
# The same on models without kinks.
_SMOOTH_COST = (
    len(_SMOOTH_RUNS) * _SMOOTH_STEPS
    + sum(runs for _, runs, _ in _SHARP.values()) * _SHARP_STEPS
    + _DRAWS
)
# Steps of the published attacks on images, and where evaluations are too few for more.
_FEW_STEPS = 100
# Evaluations for each input; the curve of P@k against them is flat by then on the
# tabular networks (python -m experiments.evidence --claim=saturation).
DEFAULT_EVALUATIONS = 16_000
# With which every member runs once, if only just.
_LEAST = 2 * _FEW_STEPS + max(_RESTART_COST, _SMOOTH_COST)
# Numbers in an input -> evaluations: an evaluation takes longer the larger the input.
_EVALUATIONS = ((256, DEFAULT_EVALUATIONS), (16_384, 3500))


def default_evaluations(n: int) -> int:
    """Evaluations for each input of n numbers that an attack takes by default.

    Of tables as many as it takes until more lower P@k hardly any further; of images and
    graphs as many as the experiments take at `standard`; of inputs of more than 16,384
    numbers, such as photographs, those with which every member runs once.

    Args:
      n: numbers in an input.

    Returns:
      16,000 up to 256 numbers, 3,500 up to 16,384, and 1,040 above.

    Raises:
      ValueError: for n < 1.

    Example:
      >>> [default_evaluations(n) for n in (30, 28 * 28, 224 * 224 * 3)]
      [16000, 3500, 1040]
    """
    check_count("n", n)
    return next((most for largest, most in _EVALUATIONS if n <= largest), _LEAST)


class Member(NamedTuple):
    """One member of the ensemble.

    Attributes:
      name: unique name.
      build: `build(*settings) -> Attack`. Members that share it share one compiled
        program, in which the settings are traced.
      settings: numbers, such as the sharpness of a surrogate.
      num_steps: steps of one run.
      track_every: steps between two evaluations of P@k.
      restarts: runs with fresh keys in one round.
      once: whether later rounds leave it out, as it draws nothing.
      start: one of `STARTS`.
      step_cost: evaluations of a step.
      suited: one of `SUITED`; on other models the member does not run.
      relative: whether the first of the settings is a sharpness ρ that suits
        pre-activations which the budget moves as it does in standardised tables, and is
        a power of ten higher where they move less.
    """

    name: str
    build: Callable[..., Attack]
    settings: tuple[float, ...]
    num_steps: int
    track_every: int
    restarts: int
    once: bool
    start: str = "clean"
    step_cost: int = 1
    suited: str = "all"
    relative: bool = False

    @property
    def cost(self) -> int:
        """Evaluations of one round for one input.

        A gradient of the explanation counts one, and so does an explanation by itself:
        a random draw, or a child of the evolution.
        """
        return self.num_steps * self.restarts * self.step_cost


def default_ensemble(
    subject: Subject | Form,
    *,
    k: int,
    num_steps: int | None = None,
    rho: float = SURROGATE_RHO,
    evaluations: int = DEFAULT_EVALUATIONS,
) -> tuple[Member, ...]:
    """Published attacks, short runs from random starts, elite runs, and an evolution.

    Many short runs beat few long ones at equal cost: P@k falls by restarts, while a
    run has settled after some sixty steps. They follow the model's own explanation,
    whose derivative alone sees its kinks as smooth, see `straight_through`;
    which sharpness suits differs from model to model and from input to input, so that
    members differ in it. Where the budget moves the pre-activations less than it does
    in tables at ε = 1, ρ is 10, 100, … times as high, see `Member.relative`. Three go
    on from the best input so far, with random weights of the features. An evolution
    that crosses kinks finds what no gradient does. Where it searches the cells between
    them, see `evolution`, it runs from the clean input, from the best, and with the
    class kept, elsewhere from the best alone.

    A model without kinks gets other members of the same cost: longer runs with momentum
    at a sharper border, each with random weights of the features, from the clean input
    and around the best so far.

    Args:
      subject: the model; its parameters have no part in it.
      k: size of the top set.
      num_steps: of the published attacks, as in `protocol`; by default 100, as on
        images, where the evaluations let every member run once with these alone.
      rho: sharpness of the stand-in in `er_surrogate`.
      evaluations: for each input, that are planned for. The evolution is ten times as
        long in a round as its shortest, or as long as lets every member run once
        within them; the random starts and draws are in proportion.

    Returns:
      Members, those that draw nothing first; of a black box random draws and evolution
      alone.

    Raises:
      ValueError: for evaluations below 1, or k out of range (when traced).
    """
    check_count("evaluations", evaluations)
    form = subject.form if isinstance(subject, Subject) else subject
    apply, judged = form.apply, form.saliency()

    def evolve(keep_class):
        return evolution(
            apply, judged, k=k, population=_POPULATION, keep_class=keep_class > 0
        )

    if not form.differentiable:
        return _by_evaluations(evolve, apply, judged, k, evaluations)
    members = _published(form, k, num_steps, rho)
    if num_steps is None and _LEAST <= evaluations < round_cost(members) + _CELLS_COST:
        members = _published(form, k, _FEW_STEPS, rho)
    left = evaluations - round_cost(members)
    restarts = min(max(left // _CELLS_COST, 1), _RESTARTS)
    members += _runs(
        form,
        k,
        _RUNS,
        lambda width, spread: goals.log_precision(temperature=width, spread=spread),
        _STEPS,
        max(restarts // _EVOLUTION_SHARE, 1),
        suited="kinked",
        relative=True,
    )
    searching = _evolutions(evolve, restarts)
    members += [
        member._replace(suited="kinked" if member.start == "best" else "cells")
        for member in searching
    ]
    # Two rounds of them, rather than one with all restarts.
    fewer = min(max(left // (2 * _SMOOTH_COST), 1), _SMOOTH_RESTARTS)
    members += _runs(
        form,
        k,
        _SMOOTH_RUNS,
        lambda width: goals.smooth_precision(temperature=width),
        _SMOOTH_STEPS,
        fewer,
        suited="smooth",
    )
    members += _sharp(form, k, fewer)
    draw = functools.partial(random_search, apply, judged, k=k)
    members.append(Member("random", draw, (), _DRAWS * restarts, 1, 1, True))
    return tuple(members)


def _published(form: Form, k: int, num_steps: int | None, rho: float) -> list[Member]:
    members = []
    for name in ("er", "er_surrogate"):
        named = protocol(name, form, k=k, num_steps=num_steps, rho=rho)
        build = functools.partial(lambda attack: attack, named.attack)
        members.append(
            Member(name, build, (), named.num_steps, named.track_every, 1, True)
        )
    return members


def _runs(form: Form, k: int, runs, goal, num_steps: int, restarts: int, **kind):
    """Short runs by the model's own explanation, see `straight_through`."""
    decay = optax.cosine_decay_schedule(1.0, num_steps)

    def drawn(rho, *settings):
        *about_goal, share, step_size = settings
        bent = straight_through(form.apply, rho=rho)
        return gradient_attack(
            form.apply,
            form.saliency(),
            goal(*about_goal),
            k=k,
            optimizer=optimizers.steepest(lambda count: step_size * decay(count)),
            attack_saliency=form.explainer(score.log_odds(bent), normalize=False),
            random_start=share,
        )

    return [
        Member(name, drawn, settings, num_steps, 3, restarts, False, start, **kind)
        for name, (start, settings) in runs.items()
    ]


def _sharp(form: Form, k: int, restarts: int) -> list[Member]:
    """Runs at a sharp border, with random weights and momentum, for smooth models."""
    decay = optax.cosine_decay_schedule(1.0, _SHARP_STEPS)

    def sharp(temperature, spread, share, step_size):
        return gradient_attack(
            form.apply,
            form.saliency(),
            goals.weighted_precision(temperature=temperature, spread=spread),
            k=k,
            optimizer=optimizers.momentum(
                lambda count: step_size * decay(count), decay=_SHARP_DECAY
            ),
            # A factor of all saliencies is no change of their ranking.
            attack_saliency=form.explainer(score.log_odds(form.apply), normalize=False),
            random_start=share,
        )

    return [
        Member(
            name,
            sharp,
            settings,
            _SHARP_STEPS,
            1,
            runs * restarts,
            False,
            start,
            suited="smooth",
        )
        for name, (start, runs, settings) in _SHARP.items()
    ]


def _evolutions(evolve, restarts: int) -> list[Member]:
    generations = _GENERATIONS * restarts
    return [
        Member(
            f"evolution_{start}",
            evolve,
            (float(start == "same_class"),),
            generations,
            generations,
            1,
            False,
            start,
            _POPULATION,
        )
        for start in STARTS
    ]


def _by_evaluations(
    evolve, apply, judged, k: int, evaluations: int
) -> tuple[Member, ...]:
    """The members that take no gradients, of which every round draws afresh."""
    cost = _DRAWS + len(STARTS) * _GENERATIONS * _POPULATION
    restarts = min(max(evaluations // cost, 1), _RESTARTS)
    draw = functools.partial(random_search, apply, judged, k=k)
    random = Member("random", draw, (), _DRAWS * restarts, 1, 1, False)
    return (random, *_evolutions(evolve, restarts))


def round_cost(
    members: Sequence[Member], kinds: Iterable[str] = tuple(SUITED_TO)
) -> int:
    """Evaluations for each input with which every member runs once.

    Args:
      members: of the ensemble.
      kinds: of models, keys of `SUITED_TO`; those that suit none of them do not count.
    """
    return max(
        sum(member.cost for member in members if member.suited in SUITED_TO[kind])
        for kind in kinds
    )
