"""What a compiled function costs: FLOPs, memory, and time beside others."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from r2et_jax import attacks, datasets, models
from r2et_jax.attacks.chunked import compile_chunked
from r2et_jax.batching import example_keys
from r2et_jax.score import predicted_class
from r2et_jax.threat import threat_model

# Surrogate's sharpness; the cost does not depend on it.
SURROGATE_RHO = 2.0


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
    program = jax.make_jaxpr(fn)(*args)
    flat = core.jaxpr_as_fun(_unrolled(program))
    compiled = jax.jit(flat).lower(*jax.tree.leaves(args)).compile()
    analysis = compiled.cost_analysis()
    if isinstance(analysis, list):  # one entry for each partition in older releases
        analysis = analysis[0]
    return Flops(float(analysis["flops"]), " while(" in compiled.as_text())


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
    runs: Mapping[str, Callable[[], Any]], *, rounds: int, pause: float = 0.0
) -> dict[str, np.ndarray]:
    """Time functions in alternation, so that a busy machine slows all of them alike.

    Every function runs once before, to compile and to warm up. The order is reversed
    from round to round.

    Args:
      runs: name -> function of no arguments; what it returns is waited for.
      rounds: timings of each.
      pause: seconds of rest before every timing, for the threads of the one before.

    Returns:
      name -> seconds [rounds].
    """
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        names = list(runs) if index % 2 == 0 else list(runs)[::-1]
        for name in names:
            if pause:
                time.sleep(pause)
            start = time.perf_counter()
            jax.block_until_ready(runs[name]())
            seconds[name].append(time.perf_counter() - start)
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


class Subject(NamedTuple):
    """An attack's model with weights of its initialisation, and a number of inputs."""

    model: models.MLP
    params: Any
    x: jax.Array


def subject(dataset: str, *, data_dir: Path, num_inputs: int, seed: int) -> Subject:
    """The published MLP for a data set, and inputs from it, repeated to fill up.

    What a step costs does not depend on the weights, so that none are trained.
    """
    data = datasets.load(dataset, data_dir=data_dir)
    model = models.MLP()
    params = model.init(jax.random.key(seed), jnp.zeros(len(data.columns)))
    index = np.arange(num_inputs) % data.train.x.shape[0]
    return Subject(model, params, jnp.asarray(data.train.x[index]))


def protocol(subject: Subject, name: str, *, k: int) -> attacks.Protocol:
    """A named attack on the subject's model."""
    surrogate = subject.model.surrogate(rho=SURROGATE_RHO)
    return attacks.named_attack(
        name, attacks.Model(subject.model.apply, surrogate.apply), k=k
    )


def attack_step_flops(
    subject: Subject, attack: attacks.Attack, *, epsilon: float, batch: int
) -> Flops:
    """XLA's count of one step of an attack on a batch, compiled alone."""
    threat = threat_model("l2", epsilon)
    x = jax.ShapeDtypeStruct((batch, *subject.x.shape[1:]), subject.x.dtype)
    # The threat model is shared by the batch; all else of the context is not.
    axes = attacks.Context(*[0] * len(attacks.Context._fields))._replace(threat=None)

    def start(params, x, threat):
        def one(x, key):
            target = predicted_class(attack.apply(params, x))
            return attack.init(params, x, target, threat, key=key)

        keys = example_keys(counted_key(0), batch)
        return jax.vmap(one, out_axes=(axes, 0))(x, keys)

    context, state = jax.eval_shape(start, subject.params, x, threat)
    step = jax.vmap(attack.step, (None, axes, 0))
    return count_flops(step, subject.params, context, state)


def forward_flops(subject: Subject, *, batch: int) -> float:
    """XLA's count of one forward pass of a batch, the unit of an attack's FLOPs."""
    x = jax.ShapeDtypeStruct((batch, *subject.x.shape[1:]), subject.x.dtype)
    forward = jax.vmap(subject.model.apply, (None, 0))
    return count_flops(forward, subject.params, x).flops


def bare_attack(
    attack: attacks.Attack, *, num_steps: int, batch_size: int
) -> Callable[..., jax.Array]:
    """The attack's steps alone, without explaining and judging on the way; compiled."""

    def chunk(shared, x):
        params, threat, key = shared

        def one(x):
            target = predicted_class(attack.apply(params, x))
            context, state = attack.init(params, x, target, threat, key=key)
            return jax.lax.fori_loop(
                0, num_steps, lambda _, s: attack.step(params, context, s), state
            ).perturbed

        return jax.vmap(one)(x)

    run = compile_chunked(chunk, batch_size=batch_size)
    return lambda params, x, threat, /, *, key: run((params, threat, key), x)


def resident_growth(**settings: Any) -> tuple[int, int]:
    """Run one attack in a process of its own and watch its resident memory.

    Args:
      settings: of `_run_watched`.

    Returns:
      Growth of the resident set over the run, at most, and its peak since the
      process began, in bytes.
    """
    return alone(_run_watched, **settings)


def alone(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function of a module in a fresh process, and return its result."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(fn, *args, **kwargs).result()


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
) -> tuple[int, int]:
    target = subject(dataset, data_dir=data_dir, num_inputs=num_inputs, seed=seed)
    run = attacks.compile_attack(
        protocol(target, attack, k=k).attack,
        num_steps=num_steps,
        track_every=track_every,
    )
    threat, key = threat_model("l2", epsilon), jax.random.key(seed)
    # Two whole chunks compile what all of them run.
    warm = target.x[: 2 * attacks.runner.DEFAULT_BATCH_SIZE]
    run(target.params, warm, threat, key=key)
    before = _resident()
    run(target.params, target.x, threat, key=key)
    peak = peak_resident()
    return peak - before, peak


def peak_resident() -> int:
    """Bytes of this process's resident set at its largest."""
    status = Path("/proc/self/status")
    if status.exists():  # the count of getrusage begins with the parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _resident() -> int:
    status = Path("/proc/self/statm")
    if not status.exists():
        return peak_resident()
    return int(status.read_text().split()[1]) * resource.getpagesize()
