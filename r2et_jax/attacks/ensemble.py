"""The members of `strongest`: goals, stand-ins, starts and an evolution."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

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
# Kinds of models: without kinks, with cells between them that an evolution searches, or
# with too many kinks for that.
KINDS = ("smooth", "cells", "many_kinks")
_STEPS = 99
_POPULATION = 20
# Of the evolution at least, and of that in cells at most so many times as many.
_GENERATIONS, _LONGEST = 9, 5
# Name -> start, and the settings of `annealed`: ρ and its growth, the width of the
# border and the step, each at first and in the end, spread, and where a run starts.
# Steps that fall slowly let P@k fall furthest: on vanilla of MNIST, 32 pairs, steps of
# .3 … .02 of the budget left .031 at 3,500 evaluations and 1 … .1 left .024.
_RUNS = {
    "annealed": ("clean", (1.2, 14.0, 0.3, 0.05, 1.0, 0.1, 0.0, 1.0)),
    "annealed_narrow": ("clean", (12.0, 3.0, 0.05, 0.02, 1.0, 0.1, 0.5, 1.0)),
    "elite_soft": ("best", (2.0, 6.0, 0.15, 0.05, 0.5, 0.1, 0.5, 0.5)),
    "elite_sharp": ("best", (6.0, 6.0, 0.15, 0.03, 0.5, 0.1, 0.5, 0.5)),
}
_DECAY = 0.8
_DRAWS = 30
# Evaluations of a round, the random draws' included, where no cells are searched and
# where they are, at least.
_ROUND = len(_RUNS) * _STEPS + _DRAWS + _GENERATIONS * _POPULATION
_CELLS_ROUND = _ROUND + (len(STARTS) - 1) * _GENERATIONS * _POPULATION
# Steps of the published attacks on images, and where evaluations are too few for more.
_FEW_STEPS = 100
# Evaluations for each input; the curve of P@k against them is flat by then on the
# tabular networks (python -m experiments.evidence --claim=saturation).
DEFAULT_EVALUATIONS = 16_000
# Numbers in an input, at most -> evaluations, which take longer the larger the input.
_EVALUATIONS = ((256, DEFAULT_EVALUATIONS), (16_384, 3500), (math.inf, 1040))


def default_evaluations(n: int) -> int:
    """Evaluations for each input of n numbers that an attack takes by default.

    Of tables as many as it takes until more lower P@k hardly any further; of images and
    graphs those at which twice as many lower it by about .01 at most; of inputs of more
    than 16,384 numbers, such as photographs, those with which every member runs once.

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
    return next(most for largest, most in _EVALUATIONS if n <= largest)


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
      suited: one of `KINDS` or "all"; on other models the member does not run.
      relative: whether the first of the settings is a sharpness ρ that suits
        pre-activations which the budget moves as it does in standardised tables, and is
        a power of two higher where they move less.
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
    run has settled after some hundred steps. They follow the model's own explanation,
    whose derivative alone sees its kinks as smooth, see `straight_through`. Within a
    run kinks and border grow sharper: wide ones find the way, sharp ones the last
    swaps. Where the budget moves the pre-activations less than it does in tables at
    ε = 1, ρ is 2, 4, … times as high, see `Member.relative`. All but one weigh the
    features at random, and two go on from the best input so far. On a model without
    kinks the border alone grows sharper.

    On models with kinks an evolution that crosses them finds what no gradient does.
    Where it searches the cells between them, see `evolution`, it runs from the clean
    input, from the best, and with the class kept, and takes most of the evaluations;
    elsewhere briefly from the best alone.

    Args:
      subject: the model; its parameters have no part in it.
      k: size of the top set.
      num_steps: of the published attacks, as in `protocol`; by default 100, as on
        images, where the evaluations let every member run once with these alone.
      rho: sharpness of the stand-in in `er_surrogate`.
      evaluations: for each input, that are planned for. The evolution in cells is five
        times as long in a round as its shortest, or as long as lets every member run
        once within them; the random draws are in proportion.

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
    if num_steps is None and evaluations < round_cost(members) + _CELLS_ROUND:
        members = _published(form, k, _FEW_STEPS, rho)
    left = evaluations - round_cost(members)
    times = min(max(left // _CELLS_ROUND, 1), _LONGEST)
    members += _annealed(form, k)
    members += [m._replace(suited="cells") for m in _evolutions(evolve, times)]
    (alone,) = (m for m in _evolutions(evolve, 1) if m.start == "best")
    members.append(alone._replace(name="evolution", suited="many_kinks"))
    draw = functools.partial(random_search, apply, judged, k=k)
    members.append(Member("random", draw, (), _DRAWS * times, 1, 1, True))
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


def _annealed(form: Form, k: int) -> list[Member]:
    """Runs by the model's own explanation that grow sharper, see `straight_through`."""

    def annealed(rho, growth, width, last_width, step, last_step, spread, start):
        def at(count):
            done = count / _STEPS
            bent = straight_through(form.apply, rho=rho * growth**done)
            temperature = width * (last_width / width) ** done
            goal = goals.log_precision(temperature=temperature, spread=spread)
            return goal, form.explainer(score.log_odds(bent), normalize=False)

        return gradient_attack(
            form.apply,
            form.saliency(),
            goals.log_precision(spread=spread),
            k=k,
            optimizer=optimizers.momentum(
                lambda count: step * (last_step / step) ** (count / _STEPS),
                decay=_DECAY,
            ),
            random_start=start,
            anneal=at,
        )

    return [
        Member(
            name,
            annealed,
            settings,
            _STEPS,
            3,
            1,
            False,
            start,
            relative=True,
        )
        for name, (start, settings) in _RUNS.items()
    ]


def _evolutions(evolve, times: int) -> list[Member]:
    generations = _GENERATIONS * times
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
    times = min(max(evaluations // cost, 1), _LONGEST)
    draw = functools.partial(random_search, apply, judged, k=k)
    random = Member("random", draw, (), _DRAWS * times, 1, 1, False)
    return (random, *_evolutions(evolve, times))


def round_cost(members: Sequence[Member], kinds: Iterable[str] = KINDS) -> int:
    """Evaluations for each input with which every member runs once.

    Args:
      members: of the ensemble.
      kinds: of models, of `KINDS`; those that suit none of them do not count.
    """
    return max(
        sum(member.cost for member in members if member.suited in ("all", kind))
        for kind in kinds
    )
