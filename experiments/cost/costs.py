"""What a compiled function costs: FLOPs, memory, and time beside others."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from experiments.cost import images as cost_images
from experiments.cost import processes
from experiments.problems import presets
from r2et_jax import attacks, datasets, models
from r2et_jax.attacks.descent import Context
from r2et_jax.attacks.protocols import Protocol
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, drive_chunks, example_keys
from r2et_jax.score import predicted_class
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

# Surrogate's sharpness; the cost does not depend on it.
_ANY_RHO = 2.0


class Flops(NamedTuple):
    """XLA's count for one call; a loop whose length it decides itself counts once."""

    flops: float
    has_loop: bool


def count_flops(fn: Callable[..., Any], *args: Any) -> Flops:
    """Compile `fn` alone and return XLA's count of its floating-point operations.

    XLA counts a loop's body once: loops of known length are unrolled first. Integer
    operations count too, those of the random generator among them.

    Args:
      fn: function to compile.
      args: arrays or `jax.ShapeDtypeStruct`.
    """
    return compile_unrolled(fn, *args).flops


class Unrolled(NamedTuple):
    """A compiled program, of the leaves of its arguments, and XLA's count of it."""

    program: Any
    flops: Flops


def compile_unrolled(fn: Callable[..., Any], *args: Any) -> Unrolled:
    """The program that `count_flops` counts."""
    program = jax.make_jaxpr(fn)(*args)
    flat = core.jaxpr_as_fun(_unrolled(program))
    compiled = jax.jit(flat).lower(*jax.tree.leaves(args)).compile()
    analysis = compiled.cost_analysis()
    if isinstance(analysis, list):  # one entry for each partition in older releases
        analysis = analysis[0]
    flops = Flops(float(analysis["flops"]), _has_loop(compiled.as_text()))
    return Unrolled(compiled, flops)


def _has_loop(program: str) -> bool:
    """Whether XLA's text has a loop, other than those that copy what is scattered."""
    loops = [line for line in program.splitlines() if " while(" in line]
    return any(not re.search(r'op_name="[^"]*/scatter[^"/]*"', loop) for loop in loops)


def _unrolled(program: Any) -> Any:
    """The program with every scan in it unrolled, those in nested programs too."""
    if isinstance(program, core.ClosedJaxpr):
        return core.ClosedJaxpr(_unrolled(program.jaxpr), program.consts)
    if type(program) is tuple:  # the branches of a condition
        return tuple(map(_unrolled, program))
    if not isinstance(program, core.Jaxpr):
        return program

    def equation(old):
        params = {name: _unrolled(value) for name, value in old.params.items()}
        if old.primitive.name == "scan":
            params["unroll"] = max(params["length"], 1)
        return old.replace(params=params)

    return program.replace(eqns=[equation(old) for old in program.eqns])


def flops_per_random_number(num_features: int, *, batch: int) -> float:
    """XLA's count for one number of the generator that `counted_key` selects."""
    keys = jax.random.split(counted_key(0), batch)
    draw = jax.vmap(lambda key: jax.random.bits(key, (num_features,)))
    return count_flops(draw, keys).flops / (batch * num_features)


def counted_key(seed: int) -> jax.Array:
    """A random key whose generator compiles without a loop, so that it is counted."""
    return jax.random.key(seed, impl="unsafe_rbg")


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    pause: float = 0.0,
    clock: Callable[[], Any] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Time functions in alternation, so that a busy machine slows all of them alike.

    Every function runs once before, to compile and to warm up. The order is reversed
    from round to round.

    Args:
      runs: name -> function of no arguments; what it returns is waited for.
      rounds: timings of each.
      pause: seconds of rest before every timing, for the threads of the one before.
      clock: seconds, or an array of several clocks' [c].

    Returns:
      name -> seconds [rounds], or of several clocks [rounds, c].
    """
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        names = list(runs) if index % 2 == 0 else list(runs)[::-1]
        for name in names:
            if pause:
                time.sleep(pause)
            start = clock()
            jax.block_until_ready(runs[name]())
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def fastest(
    runs: Mapping[Any, Callable[[], Any]], *, rounds: int, pause: float = 0.0
) -> Any:
    """The name of the fastest function, by its best time.

    After one timing of each, only those within three times the best go on.

    Args:
      runs, rounds, pause: as in `interleaved`.
    """
    first = interleaved(runs, rounds=1, pause=pause)
    limit = 3 * min(times.min() for times in first.values())
    close = {name: run for name, run in runs.items() if first[name].min() <= limit}
    seconds = interleaved(close, rounds=rounds, pause=pause)
    return min(close, key=lambda name: min(seconds[name].min(), first[name].min()))


def compiled_bytes(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int | None:
    """Bytes of arguments, results and temporaries of a jitted function, by XLA.

    Args:
      fn: a function under `jax.jit`, which is compiled and not run.
      args, kwargs: arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The bytes, or None on a backend that does not tell.
    """
    memory = fn.lower(*args, **kwargs).compile().memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )


class Victim(NamedTuple):
    """An attack's model with weights of its initialisation, and a number of inputs.

    Attributes:
      model: the module.
      params: its parameters.
      x: inputs [m, n].
      context: embeddings [m, d] of the partners, of a model of pairs.
    """

    model: Any
    params: Any
    x: jax.Array
    context: Any = None

    @property
    def attacked(self) -> Form:
        """The model of one input, and its smooth surrogate."""
        smooth = self.model.surrogate(rho=_ANY_RHO)
        if self.context is None:
            return Form(self.model.apply, lambda rho: smooth.apply)
        paired = models.pair_apply(smooth, embedded=True)
        return Form(models.pair_apply(self.model, embedded=True), lambda rho: paired)


def victim(dataset: str, *, data_dir: Path, num_inputs: int, seed: int) -> Victim:
    """The published network for a data set, and inputs from it, repeated to fill up.

    What a step costs does not depend on the weights, so that none are trained.
    """
    if dataset in presets.COST_IMAGES:
        return image_victim(dataset, data_dir=data_dir, num=num_inputs, seed=seed)
    data = datasets.load(dataset, data_dir=data_dir)
    model = models.MLP()
    params = model.init(jax.random.key(seed), jnp.zeros(len(data.columns)))
    index = np.arange(num_inputs) % data.train.x.shape[0]
    return Victim(model, params, jnp.asarray(data.train.x[index]))


def image_victim(
    dataset: str, *, data_dir: Path, num: int, seed: int, **options: Any
) -> Victim:
    """The network of images, `options` its attributes; partners are embedded once."""
    images = cost_images.load(dataset, data_dir=data_dir).repeated(num)
    model = cost_images.network(dataset, **options)
    x = jnp.asarray(images.x)
    if images.partner is None:
        return Victim(model, jax.jit(model.init)(jax.random.key(seed), x[0]), x)
    params = jax.jit(model.init)(jax.random.key(seed), jnp.stack([x[0], x[0]]))

    def embed(partner):
        return model.apply(params, partner, method="embed")

    return Victim(model, params, x, jax.jit(jax.vmap(embed))(images.partner))


def protocol(victim: Victim, name: str, *, k: int) -> Protocol:
    """A named attack on the victim's model."""
    return attacks.protocol(name, victim.attacked, k=k)


class Steps(NamedTuple):
    """An attack on a batch in two functions, not compiled.

    Attributes:
      begin: `begin(params, x [m, n], context, threat, keys [m]) -> (fixed, state)`.
      advance: `advance(params, context, fixed, state) -> state`, one step.
    """

    begin: Callable[..., Any]
    advance: Callable[..., Any]


def batched_steps(attack: attacks.Attack) -> Steps:
    """The steps of an attack on a batch."""
    # The threat model is shared by the batch; all else of what is fixed is not.
    axes = Context(*[0] * len(Context._fields))._replace(threat=None)

    def begin(params, x, context, threat, keys):
        def per_example(x, context, key):
            model = in_context(params, context)
            target = predicted_class(attack.apply(model, x))
            return attack.init(model, x, target, threat, key=key)

        return jax.vmap(per_example, out_axes=(axes, 0))(x, context, keys)

    def advance(params, context, fixed, state):
        def per_example(context, fixed, state):
            return attack.step(in_context(params, context), fixed, state)

        return jax.vmap(per_example, (0, axes, 0))(context, fixed, state)

    return Steps(begin, advance)


def step_arguments(
    victim: Victim, steps: Steps, *, epsilon: float, batch: int
) -> tuple[Any, ...]:
    """The shapes of what one step of an attack on a batch is called with."""
    x, context = _batch_shapes(victim, batch)
    threat, keys = threat_model("l2", epsilon), example_keys(counted_key(0), batch)
    fixed, state = jax.eval_shape(steps.begin, victim.params, x, context, threat, keys)
    return victim.params, context, fixed, state


def attack_step_flops(
    victim: Victim, attack: attacks.Attack, *, epsilon: float, batch: int
) -> Flops:
    """XLA's count of one step of an attack on a batch, compiled alone."""
    steps = batched_steps(attack)
    args = step_arguments(victim, steps, epsilon=epsilon, batch=batch)
    return count_flops(steps.advance, *args)


def forward_flops(victim: Victim, *, batch: int) -> float:
    """XLA's count of one forward pass of a batch, the unit of an attack's FLOPs."""
    apply = victim.attacked.apply

    def forward(params, x, context):
        each = jax.vmap(lambda x, context: apply(in_context(params, context), x))
        return each(x, context)

    return count_flops(forward, victim.params, *_batch_shapes(victim, batch)).flops


def _batch_shapes(victim, batch):
    def shape(leaf):
        return jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(shape, (victim.x, victim.context))


def bare_attack(
    attack: attacks.Attack, *, num_steps: int, batch_size: int
) -> Callable[..., jax.Array]:
    """The attack's steps alone, without explaining and judging on the way; compiled."""

    def chunk(shared, x):
        params, threat, key = shared

        def per_example(x):
            target = predicted_class(attack.apply(params, x))
            context, state = attack.init(params, x, target, threat, key=key)
            return jax.lax.fori_loop(
                0, num_steps, lambda _, s: attack.step(params, context, s), state
            ).perturbed

        return jax.vmap(per_example)(x)

    run = compile_chunked(chunk, batch_size=batch_size)
    return lambda params, x, threat, /, *, key: run((params, threat, key), x)


def driven_attack(
    attack: attacks.Attack, *, num_steps: int, batch_size: int
) -> Callable[..., np.ndarray]:
    """The bare steps as `bare_attack` has them, each of them called from the host.

    Returns:
      `run(params, x, threat, *, key, context=None) -> perturbed inputs`.
    """
    steps = batched_steps(attack)
    begin, advance = jax.jit(steps.begin), jax.jit(steps.advance)

    def chunk(shared, batched):
        params, threat, key = shared
        x, context = batched
        keys = example_keys(key, x.shape[0])
        fixed, state = begin(params, x, context, threat, keys)
        for _ in range(num_steps):
            state = advance(params, context, fixed, state)
        return state.perturbed

    run = drive_chunks(chunk, batch_size=batch_size, by_host=True)

    def attacked(params, x, threat, /, *, key, context=None):
        return run((params, threat, key), (x, context))

    return attacked


def resident_growth(**settings: Any) -> tuple[int, int]:
    """Run one attack in a process of its own and watch its resident memory.

    Args:
      settings: of `_run_watched`.

    Returns:
      Growth of the resident set over the run, at most, and its peak since the
      process began, in bytes.
    """
    return processes.alone(_run_watched, **settings)


def _run_watched(
    *,
    attack: str,
    dataset: str,
    data_dir: Path,
    num_inputs: int,
    num_steps: int,
    track_every: int,
    k: int,
    epsilon: float,
    seed: int,
    batch_size: int = attacks.runner.DEFAULT_BATCH_SIZE,
) -> tuple[int, int]:
    target = victim(dataset, data_dir=data_dir, num_inputs=num_inputs, seed=seed)
    run = attacks.compile_attack(
        protocol(target, attack, k=k).attack,
        num_steps=num_steps,
        track_every=track_every,
        batch_size=batch_size,
    )
    threat, key = threat_model("l2", epsilon), jax.random.key(seed)
    # Two whole chunks compile what all of them run.
    warm = jax.tree.map(lambda a: a[: 2 * batch_size], (target.x, target.context))
    run(target.params, warm[0], threat, key=key, context=warm[1])
    before = processes.resident()
    run(target.params, target.x, threat, key=key, context=target.context)
    peak = processes.peak_resident()
    return peak - before, peak
