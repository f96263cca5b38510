"""The members of `strongest`: goals, stand-ins, starts and an evolution."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import optax

from r2et_jax import score
from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.descent import Attack, gradient_attack, random_search
from r2et_jax.attacks.evolution import evolution
from r2et_jax.attacks.protocols import SURROGATE_RHO, protocol
from r2et_jax.checks import check_count
from r2et_jax.subject import Form, Subject

# Where a member starts: at the clean input, at the best one so far, or at the best one
# so far of the clean class.
STARTS = ("clean", "best", "same_class")
# Models that a member is for: those with kinks, those without, or all.
SUITED = ("all", "kinked", "smooth")
_STEPS = 30
_POPULATION = 20
_RESTARTS = 10
# Of the evolution, for each restart of the others.
_GENERATIONS = 9
# Members that start at random or go on from the best: their goal's weights are those of
# P@k, the mean gap and a random target; start and first step are shares of the budget.
_PRECISION, _GAP, _TARGET = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_FAR, _NEAR = (1.0, 0.3), (0.3, 0.1)
# Name -> start, and the settings of `drawn`: ρ, temperature, weights, start, step.
_RUNS = {
    "precision_rho10": ("clean", (10.0, 0.3, *_PRECISION, *_FAR)),
    "mean_gap_rho10": ("clean", (10.0, 0.3, *_GAP, *_FAR)),
    "precision_rho20": ("clean", (20.0, 0.3, *_PRECISION, *_FAR)),
    "random_target_rho10": ("clean", (10.0, 0.3, *_TARGET, *_FAR)),
    "precision_wide_rho10": ("clean", (10.0, 1.0, *_PRECISION, *_FAR)),
    "mean_gap_rho5": ("clean", (5.0, 0.3, *_GAP, *_FAR)),
    "precision_narrow_rho10": ("clean", (10.0, 0.05, *_PRECISION, *_FAR)),
    "elite_rho20": ("best", (20.0, 0.03, *_PRECISION, *_NEAR)),
    "elite_wide_rho10": ("best", (10.0, 0.1, *_PRECISION, *_NEAR)),
}
# On models without kinks, where ρ is nothing and the evolution has nothing to cross, in
# place of both: two of those runs and an elite run, and the settings of `sharp`, which
# are runs for each restart of the others, temperature, spread, start and step.
_SMOOTH_RUNS = {
    "precision": _RUNS["precision_rho10"],
    "precision_narrow": _RUNS["precision_narrow_rho10"],
    "elite": _RUNS["elite_rho20"],
}
_SHARP = {
    "sharp": ("clean", 4, (0.03, 0.5, 1.0, 0.3)),
    "sharp_near": ("best", 3, (0.03, 0.5, 0.3, 0.3)),
    "sharp_far": ("best", 3, (0.03, 0.5, 1.0, 0.3)),
    "sharp_same_class": ("same_class", 2, (0.03, 0.5, 0.5, 0.3)),
}
_SHARP_STEPS, _SHARP_DECAY = 60, 0.8
# Restarts of the kinked for each of the smooth: more rounds, as more of the members go
# on from the best so far. P@8 on 100 validation inputs of Adult, softplus, at 16,000
# evaluations by 10 and 5 restarts: .381 and .380; at 8,000: .393 and .384.
_SMOOTH_SHARE = 2
# Evaluations of one restart of all members, the random draws' included.
_RESTART_COST = (len(_RUNS) + 1) * _STEPS + len(STARTS) * _GENERATIONS * _POPULATION
# Steps of the published attacks on images, and where evaluations are too few for more.
_FEW_STEPS = 100
# Evaluations for each input; the curve of P@k against them is flat by then on the
# tabular networks (python -m experiments.evidence --claim=saturation).
DEFAULT_EVALUATIONS = 16_000
# With which every member runs once, if only just.
_LEAST = 2 * _FEW_STEPS + _RESTART_COST
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
    run has settled after some thirty steps. Sharp surrogates (ρ = 10, 20) suit most
    inputs of tables at ε = 1; where the budget moves the pre-activations less, as in
    images and graphs, ρ is 10, 100, … times as high, see `Member.relative`. The others
    differ, so that their failures do too. Two members go on from
    the best input so far. An evolution that crosses kinks finds what no gradient
    does; it runs from the clean input, from the best, and with the class kept.

    A model without kinks gets other members of the same cost: longer runs with momentum
    at a sharper border, each with random weights of the features, from the clean input
    and around the best so far.

    Args:
      subject: the model; its parameters have no part in it.
      k: size of the top set.
      num_steps: of the published attacks, as in `protocol`; by default 100, as on
        images, where the evaluations let every member run once with these alone.
      rho: sharpness of the stand-in in `er_surrogate`.
      evaluations: for each input, that are planned for. Members draw ten random starts
        in a round, or as many as let every member run once within them; the evolution
        and the random draws are in proportion.

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
    decay = optax.cosine_decay_schedule(1.0, _STEPS)

    def drawn(rho, temperature, precision, gap, target, share, step_size):
        goal = goals.mixture(
            (
                goals.smooth_precision(temperature=temperature),
                goals.mean_gap(),
                goals.random_target(),
            ),
            (precision, gap, target),
        )
        return gradient_attack(
            apply,
            judged,
            goal,
            k=k,
            optimizer=optimizers.steepest(lambda count: step_size * decay(count)),
            attack_saliency=form.explainer(score.log_odds(form.stand_in(rho))),
            random_start=share,
        )

    members = _published(form, k, num_steps, rho)
    if (
        num_steps is None
        and _LEAST <= evaluations < round_cost(members) + _RESTART_COST
    ):
        members = _published(form, k, _FEW_STEPS, rho)
    fixed = round_cost(members)
    restarts = min(max((evaluations - fixed) // _RESTART_COST, 1), _RESTARTS)
    fewer = max(restarts // _SMOOTH_SHARE, 1)
    members += [
        Member(
            name,
            drawn,
            settings,
            _STEPS,
            3,
            count,
            False,
            start,
            suited=suited,
            relative=suited == "kinked",
        )
        for runs, count, suited in (
            (_RUNS, restarts, "kinked"),
            (_SMOOTH_RUNS, fewer, "smooth"),
        )
        for name, (start, settings) in runs.items()
    ]
    members += [
        member._replace(suited="kinked") for member in _evolutions(evolve, restarts)
    ]
    members += _sharp(form, k, fewer)
    draw = functools.partial(random_search, apply, judged, k=k)
    members.append(Member("random", draw, (), _STEPS * restarts, 1, 1, True))
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
    cost = _STEPS + len(STARTS) * _GENERATIONS * _POPULATION
    restarts = min(max(evaluations // cost, 1), _RESTARTS)
    draw = functools.partial(random_search, apply, judged, k=k)
    random = Member("random", draw, (), _STEPS * restarts, 1, 1, False)
    return (random, *_evolutions(evolve, restarts))


def round_cost(members: Sequence[Member]) -> int:
    """Evaluations for each input with which every member runs once, on any model."""
    return max(
        sum(member.cost for member in members if member.suited in ("all", suited))
        for suited in SUITED
    )
