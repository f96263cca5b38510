"""The one loop that runs every attack."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.attacks.descent import Attack
from r2et_jax.attacks.results import AttackResult, Best, Steps, manipulation_epoch
from r2et_jax.attacks.stepwise import (
    Phases,
    batched_phases,
    choose_form,
    compile_phases,
    scan_phases,
)
from r2et_jax.checks import check_count
from r2et_jax.context import in_context
from r2et_jax.execution import (
    IN_CACHE,
    drive_chunks,
    example_keys,
    jit,
    map_batched,
)
from r2et_jax.ranking import top_k_overlap
from r2et_jax.ranking.topk import border_tie
from r2et_jax.score import class_probabilities, predicted_class
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.types import Array, Params

DEFAULT_BATCH_SIZE = IN_CACHE


def attack_example(
    attack: Attack,
    params: Params,
    x: Array,
    target: Array,
    threat: ThreatModel,
    *,
    key: Array,
    num_steps: int,
    track_every: int = 10,
    start: Array | None = None,
) -> AttackResult:
    """Run an attack on one input by a scanned loop.

    Args:
      attack: see `attacks.descent`.
      params: parameters of the model, with the example's context where it has one:
        the first argument of `attack.apply`.
      x: clean input [n].
      target: the class that the model predicts there, an index.
      threat: the threat model.
      key: random key.
      num_steps: steps, a multiple of `track_every`.
      track_every: every so many steps the input is explained and judged by the model
        under attack. It is the resolution of the best input, of the traces and of
        the manipulation epoch; the steps themselves don't depend on it.
      start: an admissible input [n] to begin from instead of x.

    Returns:
      `AttackResult`.

    Raises:
      ValueError: if num_steps is no positive multiple of track_every.
    """
    _check_counts(num_steps, track_every)
    parts = phases(attack, num_steps=num_steps, track_every=track_every)
    context, carry = parts.begin(params, x, target, threat, key=key, start=start)

    def tracked(carry, index):
        carry = jax.lax.fori_loop(
            0, track_every, lambda _, c: parts.advance(params, context, c), carry
        )
        return parts.judge(params, context, carry, index)

    index = jnp.arange(num_steps // track_every, dtype=jnp.int32)
    carry, traces = jax.lax.scan(tracked, carry, index)
    return parts.finish(params, context, carry, traces)


def phases(attack: Attack, *, num_steps: int, track_every: int) -> Phases:
    """The attack on one input in pieces, as `attack_example` joins them."""

    def begin(params, x, target, threat, *, key, start=None):
        context, state = attack.init(params, x, target, threat, key=key, start=start)
        whole = top_k_overlap(context.top_mask, context.clean_map.ravel(), k=attack.k)
        best = Best(x, whole, jnp.zeros((), jnp.int32))
        return context, (state, best, best, jnp.zeros((), jnp.int32))

    def advance(params, context, carry):
        return attack.step(params, context, carry[0]), *carry[1:]

    def judge(params, context, carry, index):
        state, best, best_same, num_nonfinite = carry
        values = attack.saliency(params, state.perturbed, context.target).ravel()
        logits = attack.apply(params, state.perturbed)
        finite = jnp.all(jnp.isfinite(values)) & jnp.all(jnp.isfinite(logits))
        precision = top_k_overlap(context.top_mask, values, k=attack.k)
        clean_class = predicted_class(context.clean_logits)
        same = predicted_class(logits) == clean_class
        now = Best(state.perturbed, precision, (index + 1) * track_every)
        best_same = _better(now, best_same, finite & same)
        valid = same | (context.threat.prediction != "same_class")
        best = _better(now, best, finite & valid)
        num_nonfinite += (~finite).astype(jnp.int32)
        carry = state, best, best_same, num_nonfinite
        return carry, (state.objective, precision)

    def finish(params, context, carry, traces):
        (state, best, best_same, num_nonfinite), (objective, precision) = carry, traces
        clean_class = predicted_class(context.clean_logits)
        best_logits = attack.apply(params, best.perturbed)
        shift = class_probabilities(best_logits)
        shift -= class_probabilities(context.clean_logits)
        last_logits = attack.apply(params, state.perturbed)
        details = Steps(
            last=state.perturbed,
            last_precision=precision[-1],
            last_logits=last_logits,
            last_class_changed=predicted_class(last_logits) != clean_class,
            objective=objective,
            precision=precision,
            tied=border_tie(context.clean_map.ravel(), k=attack.k),
            num_nonfinite=num_nonfinite,
        )
        return AttackResult(
            best=best,
            best_same_class=best_same,
            clean_map=context.clean_map,
            best_map=attack.saliency(params, best.perturbed, context.target),
            clean_logits=context.clean_logits,
            best_logits=best_logits,
            class_changed=predicted_class(best_logits) != clean_class,
            prediction_change=0.5 * jnp.sum(jnp.abs(shift)),
            vanished=state.num_vanished / num_steps,
            manipulated_at=manipulation_epoch(precision, track_every=track_every),
            details=details,
        )

    return Phases(begin, advance, judge, finish)


def _check_counts(num_steps, track_every):
    check_count("num_steps", num_steps)
    check_count("track_every", track_every)
    if num_steps % track_every:
        raise ValueError(
            f"num_steps must be a multiple of track_every = {track_every}, got "
            f"{num_steps}"
        )


def _better(now: Best, best: Best, valid: Array) -> Best:
    replace = valid & (now.precision < best.precision)
    return jax.tree.map(lambda a, b: jnp.where(replace, a, b), now, best)


def attack_batch(
    attack: Attack,
    *,
    num_steps: int,
    track_every: int = 10,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Callable[..., AttackResult]:
    """The attack on a batch of inputs, in chunks of one shape; not compiled.

    Args:
      attack, num_steps, track_every: as in `attack_example`.
      batch_size: inputs that are attacked at a time; bounds the memory.

    Returns:
      `run(params, x [m, n], threat, *, key, context=None) -> AttackResult` with
      leading axis m. Each input's target is the class that the model predicts for it,
      and its key depends on its index alone. With a context, a pytree of arrays
      [m, ...], the model of example i is called with (params, context_i).
    """

    run_one = _one_input(attack, num_steps=num_steps, track_every=track_every)

    def run(params, x, threat, /, *, key, context=None):
        keys = example_keys(key, x.shape[0])
        each = functools.partial(run_one, params, threat)
        return map_batched(each, (x, keys, context), batch_size=batch_size)

    return run


def compile_attack(
    attack: Attack,
    *,
    num_steps: int,
    track_every: int = 10,
    batch_size: int | None = None,
    host_driven: bool | None = None,
) -> Callable[..., AttackResult]:
    """The attack on a batch, compiled, in chunks that the host drives.

    Args:
      attack, num_steps, track_every: as in `attack_example`.
      batch_size: inputs that are attacked at a time on each device, at most; bounds
        the memory. By default as in `execution.compile_chunked`.
      host_driven: whether the host also drives the steps, each of which is compiled,
        instead of one program that scans them; the numbers are the same up to rounding.
        By default it does where an attack on a sole CPU device has convolutions, which
        XLA runs several times slower inside a loop. True keeps to the first device.

    Returns:
      `run(params, x [m, n], threat, *, key, context=None) -> AttackResult` of NumPy
      arrays with leading axis m. It compiles once for each shape of a chunk, so that
      other parameters, budgets, keys and contexts of the same shapes cost no
      compilation. The context is that of `attack_batch`, such as the partners [m, n]
      of a model of pairs.

    Raises:
      ValueError: for counts below 1; when called, for inputs that the threat model does
        not fit, or k out of range.

    Example:
      >>> import jax
      >>> from r2et_jax import attacks, saliency, score
      >>> from r2et_jax.threat import threat_model
      >>> apply = lambda params, x: jnp.sum(params * x**2)[None]
      >>> explain = saliency.gradient(score.log_odds(apply))
      >>> params, x = jnp.arange(1.0, 5.0), jnp.ones((2, 4))
      >>> attack = attacks.random_search(apply, explain, k=2)
      >>> run = compile_attack(attack, num_steps=20)
      >>> result = run(params, x, threat_model("l2", 0.5), key=jax.random.key(0))
      >>> print(result.best.precision)
      [1. 1.]
    """
    _check_counts(num_steps, track_every)
    steps = {"num_steps": num_steps, "track_every": track_every}
    draw = jax.vmap(jax.random.fold_in, (None, 0))
    batched_parts = batched_phases(lambda: phases(attack, **steps), attack.apply)
    scanned = scan_phases(batched_parts, **steps)

    def chunk(shared, batched):
        params, threat, key = shared
        x, index, context = batched
        shared = params, threat, ()
        done = scanned(shared, (x, draw(key, index), None, context))
        fixed, carry, traces = done
        traces = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), traces)
        return batched_parts.finish(shared, context, fixed, carry, traces)

    by_steps = compile_phases(lambda: phases(attack, **steps), attack.apply, **steps)
    compiled_draw = jit(draw)

    def stepwise(shared, batched):
        params, threat, key = shared
        x, index, context = batched
        keys = compiled_draw(key, index)
        return by_steps((params, threat, ()), (x, keys, None, context))

    run_chunks = drive_chunks(
        choose_form(jit(chunk), stepwise, attack.apply, host_driven=host_driven),
        batch_size=batch_size,
        by_host=bool(host_driven),
    )

    def run(params, x, threat, /, *, key, context=None):
        check_inputs(threat, x)
        index = np.arange(x.shape[0])
        return run_chunks((params, threat, key), (x, index, context))

    return run


def _one_input(attack, *, num_steps, track_every):
    def run(params, threat, x, key, context):
        params = in_context(params, context)
        target = predicted_class(attack.apply(params, x))
        return attack_example(
            attack,
            params,
            x,
            target,
            threat,
            key=key,
            num_steps=num_steps,
            track_every=track_every,
        )

    return run
