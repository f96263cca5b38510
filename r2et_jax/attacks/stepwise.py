"""An attack on a batch: scanned in one program, or each step a program of its own.

XLA runs convolutions on CPU several times slower inside a loop than outside of one.
Where that costs more than calling a program for every step, the host drives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.context import in_context
from r2et_jax.devices import host_drives, programs_in
from r2et_jax.execution import jit
from r2et_jax.score import predicted_class
from r2et_jax.types import ApplyFn

_CONVOLUTION = "conv_general_dilated"


class Phases(NamedTuple):
    """An attack on one input in pieces, of which a loop is made.

    Attributes:
      begin: `begin(params, x, target, threat, *, key, start=None) -> (context, carry)`.
      advance: `advance(params, context, carry) -> carry`, one step.
      judge: `judge(params, context, carry, index) -> (carry, traced)`, after each block
        of steps, of which `index` counts the ones before.
      finish: `finish(params, context, carry, traces) -> result`; traces are stacked.
    """

    begin: Callable[..., tuple[Any, Any]]
    advance: Callable[..., Any]
    judge: Callable[..., tuple[Any, Any]]
    finish: Callable[..., Any]


def batched_phases(build: Callable[..., Phases], apply: ApplyFn) -> Phases:
    """The phases of a chunk of inputs, not compiled.

    Loops around them are traced once; a loop of one input that is mapped is traced, and
    then read again for the batch.

    Args:
      build: `build(*settings) -> Phases`; the settings are traced.
      apply: the model under attack, which predicts each input's target.

    Returns:
      Phases with leading axes m: `begin(shared, batched) -> (fixed, carry)` with
      shared = (params, threat, settings) and batched = (x [m, n], keys [m], start
      [m, n] or None, context); `advance(shared, context, fixed, carry)`; `judge(shared,
      context, fixed, carry, block)`; `finish(shared, context, fixed, carry, traces)` of
      traces [m, …].
    """

    def begin(shared, batched):
        params, threat, settings = shared

        def of_example(x, key, start, context):
            model = in_context(params, context)
            target = predicted_class(apply(model, x))
            phases = build(*settings)
            fixed, carry = phases.begin(model, x, target, threat, key=key, start=start)
            # The threat model is shared: only the rest has a copy for each example.
            return fixed._replace(threat=None), carry

        return jax.vmap(of_example)(*batched)

    def mapped(name):
        def each(shared, context, fixed, *state):
            params, threat, settings = shared

            def of_example(context, fixed, *state):
                phase = getattr(build(*settings), name)
                fixed = fixed._replace(threat=threat)
                return phase(in_context(params, context), fixed, *state)

            return jax.vmap(of_example)(context, fixed, *state)

        return each

    def judge(shared, context, fixed, carry, block):
        blocks = jnp.broadcast_to(block, fixed.target.shape)
        return mapped("judge")(shared, context, fixed, carry, blocks)

    return Phases(begin, mapped("advance"), judge, mapped("finish"))


def scan_phases(
    batched_phases: Phases, *, num_steps: int, track_every: int
) -> Callable[..., Any]:
    """The attack on a chunk of inputs up to its end, not compiled.

    Args:
      batched_phases: see `batched_phases`.
      num_steps: steps, a multiple of `track_every`.
      track_every: steps between two judgements.

    Returns:
      `run(shared, batched) -> (fixed, carry, traces [blocks, m])`.
    """
    begin, advance, judge, _ = batched_phases

    def run(shared, batched):
        context = batched[-1]
        fixed, carry = begin(shared, batched)

        def tracked(carry, block):
            carry = jax.lax.fori_loop(
                0, track_every, lambda _, c: advance(shared, context, fixed, c), carry
            )
            return judge(shared, context, fixed, carry, block)

        blocks = jnp.arange(num_steps // track_every, dtype=jnp.int32)
        return fixed, *jax.lax.scan(tracked, carry, blocks)

    return run


def compile_phases(
    build: Callable[..., Phases], apply: ApplyFn, *, num_steps: int, track_every: int
) -> Callable[..., Any]:
    """The attack on a chunk of inputs, each phase compiled, the loop on the host.

    Args:
      build, apply: as in `batched_phases`.
      num_steps: steps, a multiple of `track_every`.
      track_every: steps between two judgements.

    Returns:
      `run((params, threat, settings), (x [m, n], keys [m], start, context)) -> result`,
      with a leading axis m; start [m, n] or None.
    """
    batched = batched_phases(build, apply)

    def finish(shared, context, fixed, carry, traces):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *traces)
        return batched.finish(shared, context, fixed, carry, stacked)

    begin, advance, judge = map(jit, batched[:3])
    finish = jit(finish)

    def run(shared, batched):
        context = batched[-1]
        fixed, carry = begin(shared, batched)
        traces = []
        for block in range(num_steps // track_every):
            for _ in range(track_every):
                carry = advance(shared, context, fixed, carry)
            carry, traced = judge(shared, context, fixed, carry, jnp.int32(block))
            traces.append(traced)
        return finish(shared, context, fixed, carry, tuple(traces))

    return run


def choose_form(
    scanned: Callable[..., Any],
    stepwise: Callable[..., Any],
    apply: ApplyFn,
    *,
    host_driven: bool | None = None,
) -> Callable[..., Any]:
    """The faster form of an attack for its model and this backend.

    Args:
      scanned: the attack as one program: `scanned(shared, batched)`, of which the first
        are the parameters, and the inputs [m, n]; the last of the batch is its context.
      stepwise: the same driven from the host.
      apply: the model under attack.
      host_driven: whether to take the second one; None to choose it for convolutions
        on a sole CPU device alone.

    Returns:
      `run(shared, batched)`, which calls one of the two.
    """
    if host_driven is not None:
        return stepwise if host_driven else scanned

    slow = None

    def run(shared, batched):
        nonlocal slow
        if not host_drives():
            return scanned(shared, batched)
        if slow is None:
            # Asked once: the answer is the model's.
            x, context = jax.tree.map(lambda leaf: leaf[0], (batched[0], batched[-1]))
            model = in_context(shared[0], context)
            slow = _has_convolution(jax.make_jaxpr(apply)(model, x).jaxpr)
        return (stepwise if slow else scanned)(shared, batched)

    return run


def _has_convolution(program) -> bool:
    """Whether a program, or one inside of it, has a convolution."""
    return any(
        equation.primitive.name == _CONVOLUTION
        or any(map(_has_convolution, programs_in(equation.params)))
        for equation in program.eqns
    )
