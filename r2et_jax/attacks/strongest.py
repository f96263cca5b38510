"""The per-input worst over an ensemble of goals, surrogates and restarts.

A single attack overstates robustness: its gradient vanishes on piecewise-linear
networks, or it sits in a local optimum. `strongest` runs members of different goals
and surrogates from many random starts within a number of evaluations, and keeps for
every input the lowest P@k that any of them reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.attacks.cells import are_searched
from r2et_jax.attacks.descent import Attack
from r2et_jax.attacks.ensemble import (
    DEFAULT_EVALUATIONS,
    KINDS,
    STARTS,
    Member,
)
from r2et_jax.attacks.results import AttackResult, Best, Rounds
from r2et_jax.attacks.runner import phases
from r2et_jax.attacks.stepwise import (
    batched_phases,
    choose_form,
    compile_phases,
    scan_phases,
)
from r2et_jax.checks import check_count, check_in
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, drive_chunks, jit, kept
from r2et_jax.programs.transform import has_kinks, kinks
from r2et_jax.ranking import top_k_overlap
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.score import class_probabilities, predicted_class
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.geometry import check_inputs, sample_boundary
from r2et_jax.types import ApplyFn, Array, Params

# Inputs that suit a core's cache with the states of all restarts.
_IN_CACHE = 64
# How far a random change of the budget's size moves a pre-activation on average, on the
# tables at ε = 1 for which the sharpness of members was chosen; of so many inputs it is
# measured, with so many changes of each.
_MOVEMENT, _LOOKED_AT, _CHANGES = 0.25, 16, 4
# Evaluations of an input in a call, up to which a program of few inputs runs for less
# time than its compiler takes to make it faster.
_BRIEF = 250


def compile_strongest(
    members: Sequence[Member],
    *,
    evaluations: int = DEFAULT_EVALUATIONS,
    batch_size: int | None = None,
    host_driven: bool | None = None,
) -> Callable[..., AttackResult]:
    """The ensemble on a batch, driven in rounds; each kind of member compiles once.

    Every round runs each member that suits the model from fresh random starts. Inputs
    whose P@k is 0 with the predicted class kept, which cannot be beaten under any
    prediction rule, drop out of all that follows. What happens to an input does not
    depend on the others, but for the power of two of `Member.relative`, which is that
    of the first 16 inputs' median.

    Args:
      members: the ensemble, not empty, with distinct names.
      evaluations: for each input, at most; a member that does not fit any more
        is left out, and the result names those that never ran. `round_cost` is what
        all of them take once.
      batch_size: inputs that are attacked at a time on each device, at most; by default
        as in `execution.compile_chunked`.
      host_driven: whether the host drives the steps too, see `compile_attack`.

    Returns:
      `run(params, x [m, n], threat, *, key, context=None) -> AttackResult` on the
      host; the context, a pytree of arrays [m, ...], is that of `attack_batch`.

    Raises:
      ValueError: for repeated names, a batch_size below 1, or evaluations too few for
        any member.
    """
    check_count("evaluations", evaluations)
    names = [member.name for member in members]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"members must have distinct names, got {names}")
    first = members[0].build(*members[0].settings)
    judge = _compile_judge(first, batch_size)
    movement = _compile_movement(first.apply)
    for member in members:
        check_in(f"start of {member.name}", member.start, STARTS)
        check_in(f"suited of {member.name}", member.suited, ("all", *KINDS))
    families: dict[Any, Callable] = {}
    shapes = [(m.build, m.num_steps, m.track_every) for m in members]
    for shape in shapes:
        if shape not in families:
            sharing = [m for m, s in zip(members, shapes, strict=True) if s == shape]
            once = all(member.once for member in sharing)
            is_brief = once and sum(member.cost for member in sharing) <= _BRIEF
            counts = {member.restarts for member in sharing}
            families[shape] = _compile_family(
                *shape,
                counts.pop() if len(counts) == 1 else None,
                work="little" if is_brief else "some",
                apply=first.apply,
                most_restarts=max(member.restarts for member in members),
                batch_size=batch_size,
                host_driven=host_driven,
            )
    compiled = [families[shape] for shape in shapes]
    cheapest = min(member.cost for member in members)
    if evaluations < cheapest:
        raise ValueError(
            f"evaluations must allow at least one member, of {cheapest}, got "
            f"{evaluations}"
        )

    def run(
        params: Params,
        x: Array,
        threat: ThreatModel,
        /,
        *,
        key: Array,
        context: Any = None,
    ) -> AttackResult:
        check_inputs(threat, x)
        x, context = np.asarray(x), jax.tree.map(np.asarray, context)
        m = x.shape[0]
        clean, clean_map, clean_logits, before = judge(params, x, x, context)
        best = Best(x.copy(), clean.copy(), np.zeros(m, np.int32))
        same = Best(x.copy(), clean.copy(), np.zeros(m, np.int32))
        member_precision = np.ones((len(members), m), clean.dtype)
        winner = np.full(m, -1)
        each_spent = np.zeros(m, np.int64)
        num_steps, num_vanished = np.zeros(m, np.int64), np.zeros(m)
        curve_evaluations, curve = [0], [clean.copy()]
        suited, sharper = _suited(members, params, threat, x, context), None
        never = dict.fromkeys(itertools.compress(names, suited))
        spent, stage = 0, 0
        while True:
            ran = False
            for i, member in enumerate(members):
                if not suited[i] or (member.once and stage):
                    continue
                if spent + member.cost > evaluations:
                    continue
                ran = True
                never.pop(member.name, None)
                spent += member.cost
                active = np.flatnonzero(same.precision > 0)
                draws = key, np.uint32(i), np.uint32(stage)
                restarts = np.int32(member.restarts)
                if active.size:
                    beside = jax.tree.map(lambda leaf, rows=active: leaf[rows], context)
                    starts = _starts(member.start, x, best, same)[active]
                    settings = member.settings
                    if member.relative:
                        if sharper is None:
                            moved = movement(params, threat, x, context)
                            sharper = _sharper(moved)
                        settings = (sharper * settings[0], *settings[1:])
                    lowest, lowest_same, vanished = compiled[i](
                        (params, threat, draws, settings, restarts),
                        (x[active], starts, active.astype(np.uint32), beside),
                        # One shape for all rounds, however few inputs are left.
                        like=m,
                    )
                    winner[_keep_lower(best, lowest, active)] = i
                    _keep_lower(same, lowest_same, active)
                    member_precision[i, active] = np.fmin(
                        member_precision[i, active], lowest.precision
                    )
                    num_vanished[active] += vanished
                    num_steps[active] += member.num_steps * member.restarts
                each_spent[active] += member.cost
                curve_evaluations.append(spent)
                curve.append(best.precision.copy())
            stage += 1
            if not ran or not np.any(same.precision > 0):
                break
        _, best_map, best_logits, after = judge(params, x, best.perturbed, context)
        curve = np.stack(curve)
        left = curve < 1
        return AttackResult(
            best=best,
            best_same_class=same,
            clean_map=clean_map,
            best_map=best_map,
            clean_logits=clean_logits,
            best_logits=best_logits,
            class_changed=after.label != before.label,
            prediction_change=0.5
            * np.abs(after.probabilities - before.probabilities).sum(axis=-1),
            vanished=(num_vanished / np.maximum(num_steps, 1)).astype(curve.dtype),
            manipulated_at=np.where(
                left.any(axis=0), np.array(curve_evaluations)[left.argmax(axis=0)], 0
            ),
            details=Rounds(
                member_precision=member_precision,
                winner=winner,
                evaluations=each_spent,
                left_out=tuple(never) if np.any(same.precision > 0) else (),
                curve_evaluations=np.array(curve_evaluations),
                curve=curve,
            ),
        )

    return run


def _suited(members, params: Params, threat, x: Array, context: Any) -> list[bool]:
    """Which members are for a model of that kind, see `Member.suited`."""
    kinds = {member.suited for member in members}
    if kinds != {"all"}:
        example, beside = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (x, context)
        )
        given = in_context(params, beside), example
        apply = members[0].build(*members[0].settings).apply
        kind = "smooth"
        if has_kinks(apply, *given):
            (count,) = jax.eval_shape(kinks(apply), *given).shape
            searched = are_searched(threat.norm, count, example.size)
            kind = "cells" if searched else "many_kinks"
        kinds = ("all", kind)
    return [member.suited in kinds for member in members]


def _compile_movement(apply: ApplyFn):
    """`run(params, threat, x, context) -> scalar`, see `_MOVEMENT`.

    It is the mean over kinks that move at all, and the median over the inputs. Units
    that weight decay has all but switched off hardly move, and their share would drag a
    median of kinks down: of MNIST's network twofold, and P@50 under attack was .03
    higher (32 validation pairs) by the ρ that follows.
    """
    switches = kinks(apply)

    def movement(params, threat, x, context, keys):
        params = in_context(params, context)
        clean = switches(params, x)
        if not clean.size:
            return jnp.zeros((), x.dtype)

        def change(key):
            return switches(params, sample_boundary(threat, x, key=key)) - clean

        size = jnp.sqrt(jnp.mean(jax.lax.map(change, keys) ** 2, axis=0))
        return jnp.nanmean(jnp.where(size > 0, size, jnp.nan))

    def several(params, threat, x, context):
        keys = jax.random.split(jax.random.key(0), _CHANGES)
        each = jax.vmap(movement, (None, None, 0, 0, None))
        return jnp.nanmedian(each(params, threat, x, context, keys))

    run = jit(several, work="little")
    return lambda params, threat, x, context: run(
        params, threat, *jax.tree.map(lambda leaf: leaf[:_LOOKED_AT], (x, context))
    )


def _sharper(movement: Array) -> float:
    """The power of two, at least 1, by which members' sharpness grows."""
    movement = float(movement)
    if not 0 < movement < _MOVEMENT:
        return 1.0
    return 2.0 ** round(np.log2(_MOVEMENT / movement))


def _starts(start: str, x: np.ndarray, best: Best, same: Best) -> np.ndarray:
    """Where a member begins [m, n]; what cannot be lowered goes on in its class."""
    if start == "clean":
        return x
    if start == "same_class":
        return same.perturbed
    done = (best.precision == 0)[:, None]
    return np.where(done, same.perturbed, best.perturbed)


def _keep_lower(best: Best, candidate: Best, rows: np.ndarray) -> np.ndarray:
    """Take over, in place, what lies below; the rows in which it does."""
    lower = candidate.precision < best.precision[rows]
    best.precision[rows[lower]] = candidate.precision[lower]
    best.perturbed[rows[lower]] = candidate.perturbed[lower]
    return rows[lower]


class _Prediction(NamedTuple):
    label: Array
    probabilities: Array


def _compile_judge(attack: Attack, batch_size: int):
    """`run(params, clean, x, context) -> (P@k, map, logits, _Prediction)`."""

    def judge(params, clean, x, context):
        params = in_context(params, context)
        target = predicted_class(attack.apply(params, clean))
        before = attack.saliency(params, clean, target).ravel()
        values = attack.saliency(params, x, target)
        mask = positive_top_k_mask(before, k=attack.k)
        overlap = top_k_overlap(mask, values.ravel(), k=attack.k)
        logits = attack.apply(params, x)
        seen = _Prediction(predicted_class(logits), class_probabilities(logits))
        return overlap, values, logits, seen

    def chunk(params, batched):
        return jax.vmap(judge, (None, 0, 0, 0))(params, *batched)

    run = compile_chunked(
        chunk, batch_size=batch_size, in_cache=_IN_CACHE, work="little"
    )
    return lambda params, *batched: run(params, batched)


def _compile_family(
    build,
    num_steps,
    track_every,
    num_restarts,
    *,
    work,
    apply,
    most_restarts,
    batch_size,
    host_driven,
):
    """`run((params, threat, draws, settings, restarts), (x, start, index, context))`.

    x and start are [m, n], index [m]. The draws are a key and the numbers of the member
    and of the round. Members that differ in their restarts alone share a program:
    num_restarts is None there, and what the call says counts. It returns the
    best inputs under the prediction rule and with the class kept, and the number of
    steps whose gradient vanished.
    """
    steps = {"num_steps": num_steps, "track_every": track_every}

    def nothing(x):
        none = Best(x, jnp.ones((), x.dtype), jnp.zeros((), jnp.int32))
        return none, none, jnp.zeros((), x.dtype)

    def keep(carry, new_best, new_same, new_vanished):
        best, best_same, vanished = carry
        vanished += new_vanished.astype(vanished.dtype)
        return _lower(new_best, best), _lower(new_same, best_same), vanished

    parts = batched_phases(lambda *settings: phases(build(*settings), **steps), apply)
    scanned = scan_phases(parts, **steps)

    def examples(shared, batched):
        *shared, restarts = shared
        x, start, keys, context = batched

        def restart(carry, keys):
            # Of what a run ends with, no more than this is asked for.
            _, end, _ = scanned(shared, (x, keys, start, context))
            state, best, best_same, _ = end
            kept = jax.vmap(keep)(carry, best, best_same, state.num_vanished)
            return kept, None

        none = jax.vmap(nothing)(x)
        if num_restarts is None:
            return jax.lax.fori_loop(
                0, restarts, lambda i, carry: restart(carry, keys[:, i])[0], none
            )
        keys = jnp.swapaxes(keys[:, :num_restarts], 0, 1)
        return jax.lax.scan(restart, none, keys)[0]

    examples = jit(examples, work=work)
    # By itself: compiling draws takes long, and this one is the same for all members.
    draw = _compile_keys(most_restarts)

    def chunk(shared, batched):
        params, threat, draws, settings, restarts = shared
        x, start, index, context = batched
        given = x, start, draw(draws, index), context
        return examples((params, threat, settings, restarts), given)

    by_steps = compile_phases(
        lambda *settings: phases(build(*settings), **steps), apply, **steps
    )
    begin = jit(jax.vmap(nothing))
    update = jit(jax.vmap(keep))

    def stepwise(shared, batched):
        params, threat, draws, settings, restarts = shared
        x, start, index, context = batched
        carry, keys = begin(x), draw(draws, index)
        for restart in range(int(restarts)):
            inputs = x, keys[:, restart], start, context
            result = by_steps((params, threat, settings), inputs)
            improved = result.best, result.best_same_class, num_steps * result.vanished
            carry = update(carry, *improved)
        return carry

    return drive_chunks(
        choose_form(chunk, stepwise, apply, host_driven=host_driven),
        batch_size=batch_size,
        in_cache=_IN_CACHE,
        by_host=bool(host_driven),
    )


@kept
def _compile_keys(num_restarts: int):
    """`run((key, member, stage), index [m]) -> keys [m, num_restarts]`.

    An input's keys depend on its index alone, and the first ones not on how many.
    """

    def run(draws, index):
        key, member, stage = draws
        key = jax.random.fold_in(jax.random.fold_in(key, member), stage)

        def of_example(index):
            return jax.random.split(jax.random.fold_in(key, index), num_restarts)

        return jax.vmap(of_example)(index)

    return jit(run, work="little")


def _lower(new: Best, old: Best) -> Best:
    replace = new.precision < old.precision
    return jax.tree.map(lambda a, b: jnp.where(replace, a, b), new, old)
