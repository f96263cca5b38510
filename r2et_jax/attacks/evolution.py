"""A search by evaluations of the explanation alone: evolution that crosses kinks.

The explanation of a piecewise-linear network is constant between its kinks, so that a
gradient of the ranking is zero and that of a smooth stand-in only a hint. What changes
the ranking there is to step over a kink. The moves here do so one or two units at a
time, beside noise and crossover, and fitness looks at all features near the border.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import threat as threat_lib
from r2et_jax.attacks import cells as cells_lib
from r2et_jax.attacks.descent import Attack, clean_context
from r2et_jax.checks import check_count
from r2et_jax.programs.transform import crossing, kinks
from r2et_jax.ranking import top_k_mask
from r2et_jax.ranking.topk import border
from r2et_jax.score import predicted_class
from r2et_jax.threat.geometry import (
    admissible_gradient,
    movable_features,
    sample_boundary,
)
from r2et_jax.types import ApplyFn, Array, SaliencyFn

# Beyond the kink by so much of its distance, and noise of so much of the budget.
_BEYOND = 0.2
_NOISE = (1e-3, 1.0)
# Shares of mixtures and of noise among the moves, where cells are searched and where
# not, and of children whose base is the member itself.
_OF_CELLS, _OTHERWISE, _OWN = (0.1, 0.05), (0.3, 0.1), 0.8
# Share of the moves into another cell that cross two kinks at once.
_TWO = 0.5
# A feature of the border's value counts half, of so much more nearly whole.
_SHARPNESS = 0.05
# Projections on the ball undo a part of a crossing, which is then done again.
_CROSSINGS = 4


class Population(NamedTuple):
    """Where an evolution on one input stands: a `State` with a population.

    Attributes:
      perturbed: the admissible input with the least `swap_distance` so far [n].
      objective: that distance.
      num_vanished: zero; there are no gradients.
      key: for the next generation.
      members: admissible inputs [P, n].
      fitness: their fitness [P], see `border_energy`.
      duals: λ of the members' cells, see `cells.nearest`, and of `perturbed` [P, H],
        [H]; empty where no cells are searched.
    """

    perturbed: Array
    objective: Array
    num_vanished: Array
    key: Array
    members: Array
    fitness: Array
    duals: tuple[Array, Array]


def swap_distance(values: Array, mask: Array, *, k: int) -> Array:
    """How much of a top set is left, and how far the next swap of two features is.

    #(T ∩ T′) + g/(1 + g) with g = (min of I over T ∩ T′ − max of I outside T and T′),
    in units of the mean saliency. Below 1 nothing of the top set is left.

    Args:
      values: explanation of a perturbed input [n].
      mask: the clean top-k set T, boolean [n].
      k: size of the top set.

    Returns:
      Scalar in [0, k + 1); ∞ where a value is not finite.
    """
    now = top_k_mask(values, k=k) & (values > 0)
    kept, out = mask & now, ~mask & ~now
    weakest = jnp.min(jnp.where(kept, values, jnp.inf))
    strongest = jnp.max(jnp.where(out, values, 0))
    mean = jnp.mean(values)
    gap = jnp.maximum(weakest - strongest, 0) / jnp.where(mean > 0, mean, 1)
    count = jnp.sum(kept, dtype=values.dtype)
    left = count + jnp.where(count > 0, gap / (1 + gap), 0)
    return jnp.where(jnp.all(jnp.isfinite(values)), left, jnp.inf)


def border_energy(values: Array, mask: Array, *, k: int) -> Array:
    """How much of a top set is left, features near its border in part.

    Σ over T of σ((I_i/τ − 1)/.05), τ the middle between the saliencies of rank k and
    k + 1. Moves that bring several features nearer to the border show in it, although
    the next swap is no nearer.

    Args:
      values, mask, k: as in `swap_distance`.

    Returns:
      Scalar in [0, k]; ∞ where a value is not finite.
    """
    middle = 0.5 * sum(border(values, k=k))
    above = values / jnp.where(middle > 0, middle, 1) - 1
    left = jnp.sum(jnp.where(mask, jax.nn.sigmoid(above / _SHARPNESS), 0))
    return jnp.where(jnp.all(jnp.isfinite(values)), left, jnp.inf)


def _pick(share: Array, count: Array | int) -> Array:
    """An index below `count` from a share in [0, 1)."""
    count = jnp.asarray(count, jnp.int32)
    place = (share * count.astype(share.dtype)).astype(jnp.int32)
    return jnp.minimum(place, count - 1)


def evolution(
    apply: ApplyFn,
    saliency: SaliencyFn,
    *,
    k: int,
    population: int = 20,
    keep_class: Array | bool = False,
) -> Attack:
    """Evolution on the ranking of an explanation, by evaluations of it alone.

    Each generation makes one child of every member and keeps the better of the two. A
    child is, from a base that is the member itself or, in a fifth, the best one so far,

    * in .85 the point nearest to the clean input of a cell beside the base's, across
      one or two of the kinks that the ball meets, see `cells.nearest`: under l2, where
      the kinks' gradients hold at most 65,536 numbers;
    * else in .6 x′ − (1 + u)·z·w/‖w‖², u in 0 … .2: across one kink, alternated with
      the projection on the threat model, as it would undo a part of the move;
    * in .1, else .3, a mixture of two members, feature by feature;
    * in .05, else .1, x′ + noise of a size drawn log-uniformly in .001 … 1 of ε.

    The kinks are read from the model's own program; of a model without any the first
    are noise too. Where the class is kept, an input of another class is less fit than
    any other. What finding a cell costs is not counted as evaluations: it takes no
    explanation, but 12 visits of each kink.

    Args:
      apply, saliency, k: as in `gradient_attack`.
      population: members P ≥ 2; a generation takes P explanations and P crossings.
      keep_class: whether the predicted class is kept also where the threat model
        leaves it free; may be traced.

    Returns:
      `Attack`; `start`, if given, is one member, and the others lie around it.

    Raises:
      ValueError: for a population below 2.

    Example:
      >>> import jax
      >>> from r2et_jax import attacks, saliency, score
      >>> from r2et_jax.threat import threat_model
      >>> apply = lambda params, x: jnp.sum(params * x**2)[None]
      >>> explain = saliency.gradient(score.log_odds(apply))
      >>> params, x = jnp.arange(1.0, 5.0), jnp.ones((2, 4))
      >>> attack = evolution(apply, explain, k=2, population=8)

      >>> run = attacks.compile_attack(attack, num_steps=20)
      >>> result = run(params, x, threat_model("l2", 0.5), key=jax.random.key(0))
      >>> print(result.best.precision)
      [0.5 0.5]

    Source: ours; differential evolution of Storn & Price 1997 without its differences.
    """
    check_count("population", population)
    if population < 2:
        raise ValueError(f"population must be at least 2, got {population}")
    prepare = clean_context(apply, saliency, k)
    switches, cross = kinks(apply), crossing(apply)

    def num_kinks(params, x):
        return jax.eval_shape(switches, params, x).shape[0]

    def fitness(params, context, x):
        values = saliency(params, x, context.target).ravel()
        left = swap_distance(values, context.top_mask, k=k)
        clean_class = predicted_class(context.clean_logits)
        changed = predicted_class(apply(params, x)) != clean_class
        kept = keep_class | (context.threat.prediction == "same_class")
        extra = jnp.where(changed & kept, k + 1, 0).astype(left.dtype)
        energy = border_energy(values, context.top_mask, k=k)
        return energy + extra, left + extra

    def noisy(context, x, share, key):
        draw = sample_boundary(context.threat, context.clean, key=key)
        low, high = (jnp.log(jnp.asarray(s, x.dtype)) for s in _NOISE)
        size = jnp.exp(low + share * (high - low))
        return x + size * (draw - context.clean)

    def init(params, x, target, threat, /, *, key, start=None):
        context = prepare(params, x, target, threat)
        start = x if start is None else start
        # The first generation makes the members: the start, and others around it.
        unknown = jnp.full(population, jnp.inf, x.dtype)
        members = jnp.broadcast_to(start, (population, *x.shape))
        zero = jnp.zeros((), jnp.int32)
        dual = jnp.zeros(0, x.dtype)
        count = num_kinks(params, x)
        if cells_lib.are_searched(threat.norm, count, x.size):
            movable = movable_features(threat, x)
            around = cells_lib.cells(switches, params, x, start, movable)
            context = context._replace(reference=around)
            dual = jnp.zeros(count, x.dtype)
        duals = jnp.broadcast_to(dual, (population, *dual.shape)), dual
        return context, Population(
            start, unknown[0], zero, key, members, unknown, duals
        )

    def into_another_cell(context, base, known, unit, second, two):
        """The nearest point across one or two of the kinks that the ball meets."""
        around, epsilon = context.reference, context.threat.epsilon
        met = cells_lib.reachable(around, epsilon)
        place, count = jnp.cumsum(met) - 1, jnp.sum(met)

        def chosen(share):
            return met & (place == _pick(share, count))

        crossed = chosen(unit) ^ (chosen(second) & (two < _TWO))
        side = cells_lib.sides(around, base - context.clean) ^ crossed
        delta, dual = cells_lib.nearest(
            around, side, jnp.where(crossed, 0, known), epsilon
        )
        return threat_lib.project(
            context.threat, context.clean, context.clean + delta
        ), dual

    def across(params, context, base, unit_share, far_share):
        """Base on the other side of one of its kinks, if the budget allows it."""
        z, w = cross(params, base, _pick(unit_share, num_kinks(params, base)))
        beyond = _BEYOND * far_share * jnp.abs(z)

        def move(_, point):
            # The kink's hyperplane at the base; nothing is evaluated again.
            now = jnp.sign(z) * (z + jnp.sum(w * (point - base)))
            left = jnp.where(now > 0, now + beyond, 0)
            toward = admissible_gradient(
                context.threat, context.clean, point, jnp.sign(z) * w
            )
            square = jnp.sum(toward**2)
            step = left / jnp.where(square > 0, square, 1)
            return threat_lib.project(
                context.threat, context.clean, point - step * toward
            )

        return jax.lax.fori_loop(0, _CROSSINGS, move, base)

    def child(params, context, state, i, key):
        noise_key, draw_key = key
        # One draw for all choices: compiling a draw takes longer than all else here.
        draws = jax.random.uniform(
            draw_key, (6 + state.perturbed.size,), state.perturbed.dtype
        )
        chance, mate, kind, size, unit, far = draws[:6]
        fresh = jnp.isinf(state.fitness[i])
        itself = fresh | (chance < _OWN)
        base = jnp.where(itself, state.members[i], state.perturbed)
        of_members, of_best = state.duals
        known = jnp.where(itself, of_members[i], of_best)
        by_cells = isinstance(context.reference, cells_lib.Cells)
        mixed, shaken = _OF_CELLS if by_cells else _OTHERWISE
        mate = state.members[_pick(mate, population)]
        mixture = jnp.where(draws[6:] < 0.5, base, mate)
        noise = noisy(context, base, size, noise_key)
        made = jnp.where(~fresh & (kind < mixed), mixture, noise)
        made = threat_lib.project(context.threat, context.clean, made)
        dual = jnp.zeros_like(known)
        stays = fresh | (kind < mixed + shaken)
        if by_cells:
            moved, moved_dual = into_another_cell(context, base, known, unit, far, size)
            made, dual = (
                jnp.where(stays, made, moved),
                jnp.where(stays, dual, moved_dual),
            )
        elif num_kinks(params, base):
            made = jnp.where(stays, made, across(params, context, base, unit, far))
        made = jnp.where(fresh & (i == 0), base, made)
        return made, dual, fitness(params, context, made)

    def step(params, context, state, /):
        keys = jax.random.split(state.key, 2 * population + 1)
        make = jax.vmap(child, (None, None, None, 0, 0))
        index = jnp.arange(population)
        pairs = keys[1 : population + 1], keys[population + 1 :]
        made, duals, (values, left) = make(params, context, state, index, pairs)
        better = values <= state.fitness
        kept, dual = state.duals
        best = jnp.argmin(left)
        closer = left[best] < state.objective
        return Population(
            perturbed=jnp.where(closer, made[best], state.perturbed),
            objective=jnp.where(closer, left[best], state.objective),
            num_vanished=state.num_vanished,
            key=keys[0],
            members=jnp.where(better[:, None], made, state.members),
            fitness=jnp.where(better, values, state.fitness),
            duals=(
                jnp.where(better[:, None], duals, kept),
                jnp.where(closer, duals[best], dual),
            ),
        )

    return Attack(init, step, apply, saliency, k)
