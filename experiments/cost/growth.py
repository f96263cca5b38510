"""How attack, training step, thickness and certificate grow, beside the ideal.

Each is one program on random inputs, of which one size is varied at a time. XLA counts
its FLOPs and bytes, the process its CPU seconds; what is told is the slope of their
logarithms. The ideal is the slope of the network's own work: each of its weights once
for each input, on each device its share; the certificate's is k·n pairs over the units.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from experiments.cost import costs, processes
from experiments.cost.workload import Workload
from experiments.problems import presets
from r2et_jax import attacks, certificates, models, objectives, ranking, training
from r2et_jax.threat import threat_model
from r2et_jax.training.epochs import train_step

_UNITS = 32
_POINTS = _DRAWS = 4
# A program that holds more is counted and not run.
_MOST_BYTES = 2**30
# Inputs from which on times are long enough to tell a line from a curve.
_TELLING = 100_000


class Size(NamedTuple):
    """Sizes of a program.

    Attributes:
      n: features.
      inputs: in a batch.
      depth: hidden layers, of 32 units each.
      k: size of the top set.
      devices: over which the inputs are split.
    """

    n: int = 128
    inputs: int = 64
    depth: int = 1
    k: int = 8
    devices: int = 1

    @property
    def weights(self) -> int:
        """Numbers in the network's matrices."""
        return _UNITS * (self.n + (self.depth - 1) * _UNITS + 1)


class Program(NamedTuple):
    """`fn(shared, batched)`, the leaves of the second with a leading axis of inputs."""

    fn: Callable[[Any, Any], Any]
    shared: Any
    batched: Any


def _network(size: Size):
    model = models.MLP(hidden=(_UNITS,) * size.depth, activation="softplus")
    x = np.random.default_rng(0).normal(size=(size.inputs, size.n)).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(0), x[0]), jnp.asarray(x)


def _attack(size: Size) -> Program:
    """One step of er_surrogate."""
    model, params, x = _network(size)
    victim = costs.Victim(model, params, x)
    steps = costs.batched_steps(costs.protocol(victim, "er_surrogate", k=size.k).attack)
    threat = threat_model("l2", 1.0)
    keys = jax.random.split(costs.counted_key(0), size.inputs)
    fixed, state = jax.jit(steps.begin)(params, x, None, threat, keys)

    def step(shared, batched):
        (params, threat), (fixed, state) = shared, batched
        return steps.advance(params, None, fixed._replace(threat=threat), state)

    return Program(step, (params, threat), (fixed._replace(threat=None), state))


def _training(size: Size) -> Program:
    """One step of Adam on r2et."""
    model, params, x = _network(size)
    objective = objectives.objective("r2et", model.apply, k=size.k)
    optimizer, key = training.adam(1e-3), costs.counted_key(0)
    train_once = train_step(objective, optimizer)
    weights = jnp.full(len(objective.terms), 1e-2)

    def step(shared, batched):
        return train_once(shared, *batched, weights, key=key, progress=0.25)

    state = training.init_state(params, optimizer, key=key)
    return Program(step, state, (x, jnp.arange(size.inputs) % 2))


def _thickness(size: Size) -> Program:
    """The thickness by 4 draws and 4 points on the way to each."""
    model, params, x = _network(size)
    form = costs.Victim(model, params, x).attacked
    thickness = ranking.mean_thickness(form.saliency(), k=size.k, num_points=_POINTS)
    noise = np.random.default_rng(1).normal(size=(size.inputs, _DRAWS, size.n))
    draws = x[:, None] + jnp.asarray(noise, x.dtype)

    def run(params, batched):
        return jax.vmap(lambda x, draws: thickness(params, x, 0, draws).mean)(*batched)

    return Program(run, params, (x, draws))


def _certificate(size: Size) -> Program:
    """The certificate of one hidden layer, each ball in one piece."""
    model, params, x = _network(size)
    certificate = certificates.ranking_certificate(
        model.apply, model.layers, k=size.k, num_slabs=1
    )

    def run(shared, x):
        return jax.vmap(lambda x: certificate(shared[0], x, shared[1]).precision)(x)

    return Program(run, (params, threat_model("l2", 0.01)), x)


PROGRAMS: dict[str, Callable[[Size], Program]] = {
    "attack step": _attack,
    "training step": _training,
    "thickness": _thickness,
    "certificate": _certificate,
}


def ideal(name: str, size: Size) -> float:
    """What the work of a program should be proportional to."""
    each = size.k * size.n * _UNITS if name == "certificate" else size.weights
    return each * size.inputs / size.devices


class Cost(NamedTuple):
    """Of one call; on several devices of one of them, and without time.

    Attributes:
      flops, bytes: by XLA, loops of known length in full.
      seconds: CPU seconds of the process, the least of some rounds; NaN if not run.
    """

    flops: float
    bytes: float
    seconds: float


def cost(name: str, size: Size, *, rounds: int) -> Cost:
    """Compile a program at a size, and run it if it holds at most 1 GiB."""
    fn, shared, batched = PROGRAMS[name](size)
    if size.devices > 1:
        mesh = Mesh(np.array(jax.devices()[: size.devices]), ("inputs",))
        fn = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=(Spec(), Spec("inputs")),
            out_specs=Spec("inputs"),
            check_vma=False,
        )
    compiled = costs.compile_unrolled(fn, shared, batched)
    memory = compiled.program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes
    seconds = np.nan
    if size.devices == 1 and held <= _MOST_BYTES:
        leaves = jax.tree.leaves((shared, batched))
        seconds = min(_cpu_seconds(compiled.program, leaves) for _ in range(rounds))
    return Cost(compiled.flops.flops, float(held), seconds)


def _cpu_seconds(program, leaves) -> float:
    """Of one call, of as many as take a tenth of a second."""
    jax.block_until_ready(program(*leaves))
    calls, start = 0, time.process_time()
    while time.process_time() - start < 0.1:
        jax.block_until_ready(program(*leaves))
        calls += 1
    return (time.process_time() - start) / calls


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of a power law through the known values; NaN of fewer than two."""
    sizes, values = np.asarray(sizes, float), np.asarray(values, float)
    known = np.isfinite(values)
    if known.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes[known]), np.log(values[known]), 1)[0])


def _on_devices(name: str, counts: tuple[int, ...]) -> list[Cost]:
    return [cost(name, Size(devices=count), rounds=1) for count in counts]


def measure_growth_by_size(workload: Workload) -> list[dict]:
    """The exponents of FLOPs, CPU seconds and bytes in each size, beside the ideal."""
    records = []
    for axis, values in presets.GROWTH[workload.preset].items():
        for name in PROGRAMS:
            if (name, axis) in (("certificate", "depth"), ("training step", "devices")):
                continue  # of one hidden layer; of a batch whose gradients are summed
            sizes = [Size()._replace(**{axis: value}) for value in values]
            if axis == "devices":
                # Simulated ones must be asked for before JAX starts.
                flags = os.environ.get("XLA_FLAGS", "")
                flags += f" --xla_force_host_platform_device_count={max(values)}"
                with mock.patch.dict(os.environ, XLA_FLAGS=flags):
                    made = processes.alone(_on_devices, name, values)
            else:
                rounds = workload.sizes.rounds
                made = [cost(name, size, rounds=rounds) for size in sizes]
            run = [v for v, c in zip(values, made, strict=True) if c.seconds > 0]
            note = f"{axis} = {', '.join(map(str, values))}"
            if axis != "devices" and len(run) < len(values):
                note += f", timed up to {max(run, default=0)}, where 1 GiB holds it"
            fields = {"method": f"{name}, {axis}", "note": note}
            records.append(
                workload.record(
                    "growth_ideal",
                    slope(values, [ideal(name, size) for size in sizes]),
                    len(values),
                    **fields,
                )
            )
            for part in Cost._fields:
                value = slope(values, [getattr(program, part) for program in made])
                if np.isfinite(value):
                    records.append(
                        workload.record(f"growth_{part}", value, len(values), **fields)
                    )
    return records


def measure_many(workload: Workload) -> list[dict]:
    """er_surrogate, 50 steps, on up to a million inputs: CPU seconds and memory."""
    counts = presets.MANY_INPUTS[workload.preset]
    seconds, peak = processes.alone(
        _attack_many, workload.dataset, workload.data_dir, counts,
        workload.k, workload.epsilon, workload.seed,
    )  # fmt: skip
    each = np.array(seconds) / counts
    note = "CPU seconds " + ", ".join(
        f"{s:.3g} of {m:,}" for s, m in zip(seconds, counts, strict=True)
    )
    fields = {"attack": "er_surrogate", "epsilon": workload.epsilon, "note": note}
    records = [
        workload.record("many_seconds", seconds[-1], counts[-1], **fields),
        workload.record("many_peak_bytes", peak, counts[-1], **fields),
    ]
    if counts[0] >= _TELLING:
        worst = float(np.abs(each / each[-1] - 1).max())
        records.append(
            workload.record("many_nonlinearity", worst, len(counts), **fields)
        )
    return records


def _attack_many(dataset, data_dir, counts, k, epsilon, seed):
    victim = costs.victim(dataset, data_dir=data_dir, num_inputs=max(counts), seed=seed)
    named = costs.protocol(victim, "er_surrogate", k=k)
    run = attacks.compile_attack(named.attack, num_steps=50)
    x, threat = np.asarray(victim.x), threat_model("l2", epsilon)
    # The least of three rounds, of which the first compiles: chunks have a shape of
    # their own for each number of inputs.
    seconds = np.full((3, len(counts)), np.inf)
    for in_turn in seconds:
        for place, count in enumerate(counts):
            start = time.process_time()
            run(victim.params, x[:count], threat, key=jax.random.key(seed))
            in_turn[place] = time.process_time() - start
    return seconds.min(axis=0).tolist(), processes.peak_resident()
