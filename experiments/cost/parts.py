"""The parts of the experiment `cost`: each measures one data set into records."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cost import costs
from experiments.cost import floors as cost_floors
from experiments.cost.curvature import measure_penalty_memory
from experiments.cost.explaining import measure_captum, measure_quantus
from experiments.cost.graphs import measure_graphs
from experiments.cost.growth import measure_growth_by_size, measure_many
from experiments.cost.torch_parts import measure_torch
from experiments.cost.workload import Workload
from experiments.measures.evaluation import STRONGEST, strongest
from experiments.problems import presets, protocols
from r2et_jax import attacks, datasets, models, objectives, training
from r2et_jax.attacks.ensemble import DEFAULT_EVALUATIONS
from r2et_jax.attacks.runner import attack_batch
from r2et_jax.threat import threat_model
from r2et_jax.training.epochs import TrainState, train_step

TRAIN_BATCH = 256
FLOP_BATCH = 2048
LOOP_NOTE = "has a loop of unknown length, counted as one pass: a lower bound"
# Methods whose steps are counted on made-up inputs.
GROWING = ("vanilla", "r2et", "r2et_mm")


class TrainingStep(NamedTuple):
    """A method's step, and what it starts from.

    It does not depend on the data beyond their width.

    Attributes:
      step: `step(state, x, y, weights, key) -> state`.
      state: before the first step.
      weights: of the penalties.
      network: what the floor of the count depends on.
    """

    step: Callable[..., TrainState]
    state: TrainState
    weights: jax.Array
    network: cost_floors.Network


def training_step(name: str, num_features: int, *, k: int, seed: int) -> TrainingStep:
    """One step of Adam on a method's objective, for the published MLP."""
    method = objectives.method(name)
    module = models.SkipMLP if method.skip else models.MLP
    model = module(activation="softplus" if method.smooth else "leaky_relu")
    params = model.init(jax.random.key(seed), jnp.zeros(num_features))
    k_prime = protocols.default_k_prime(k, num_features)
    objective = objectives.objective(
        name,
        model.apply,
        k=k,
        k_prime=k_prime,
        surrogate=model.surrogate(rho=presets.SURROGATE_RHO).apply,
        layers=model.layers,
    )
    optimizer = training.adam(1e-3)
    train_once = train_step(objective, optimizer)

    def step(state, x, y, weights, key):
        # In the middle of a ramp: its ends could be simplified away.
        return train_once(state, x, y, weights, key=key, progress=0.25)

    return TrainingStep(
        step,
        training.init_state(params, optimizer, key=jax.random.key(seed)),
        jnp.full(len(objective.terms), 1e-2),
        cost_floors.Network(
            num_features, tuple(model.hidden), model.num_outputs, method.skip,
            k, k_prime,
        ),
    )  # fmt: skip


def training_flops(
    name: str, x: jax.Array, y: jax.Array, *, k: int, seed: int = 0
) -> costs.Flops:
    """XLA's count of one training step on a batch x [B, n], y [B], compiled alone."""
    step, state, weights, _ = training_step(name, x.shape[1], k=k, seed=seed)
    state = state._replace(key=costs.counted_key(seed))
    return costs.count_flops(step, state, x, y, weights, costs.counted_key(seed))


def training_floor(
    name: str, num_features: int, *, k: int, batch: int
) -> cost_floors.Count | None:
    """The floor of that count for one example, see `floors.floor`."""
    network = training_step(name, num_features, k=k, seed=0).network
    number = costs.flops_per_random_number(num_features, batch=batch)
    return cost_floors.floor(name, network._replace(number=number))


def measure_training(workload: Workload) -> list[dict]:
    """FLOPs of one training step of every method over vanilla's and over their floor,
    and its time over vanilla's.
    """
    data = datasets.load(workload.dataset, data_dir=workload.data_dir)
    sizes, options = workload.sizes, {"k": workload.k, "seed": workload.seed}
    index = np.arange(sizes.train_steps * TRAIN_BATCH) % data.train.x.shape[0]
    shape = (sizes.train_steps, TRAIN_BATCH)
    x = jnp.asarray(data.train.x[index]).reshape(*shape, -1)
    y = jnp.asarray(data.train.y[index]).reshape(shape)
    keys = jax.random.split(jax.random.key(workload.seed), sizes.train_steps)
    flops, floors, runs = {}, {}, {}
    for name in dict.fromkeys(("vanilla", *workload.methods)):
        step, state, weights, _ = training_step(name, x.shape[-1], **options)
        flops[name] = training_flops(name, x[0], y[0], **options)
        floors[name] = training_floor(
            name, x.shape[-1], k=workload.k, batch=TRAIN_BATCH
        )
        many = jax.jit(functools.partial(_scan_steps, step))
        runs[name] = functools.partial(many, state, x, y, weights, keys)
    seconds = costs.interleaved(runs, rounds=sizes.rounds)
    records = []
    for name in runs:
        counted, floor = flops[name].flops, floors[name]
        note = {"note": LOOP_NOTE} if flops[name].has_loop else {}
        each = seconds[name] / sizes.train_steps
        over = seconds[name] / seconds["vanilla"]
        ratio = counted / flops["vanilla"].flops
        records += [
            workload.record("flops", counted, 1, method=name, **note),
            workload.record("flops_ratio", ratio, 1, method=name, **note),
            *workload.spread("step_seconds", each, method=name),
            *workload.spread("time_ratio", over, method=name),
        ]
        if floor is not None:
            least = floor.flops / floors["vanilla"].flops
            above = counted / (TRAIN_BATCH * floor.flops)
            derived = {"note": floor.derivation, "method": name}
            records += [
                workload.record("flops_floor", least, 1, **derived),
                workload.record("floor_passes", floor.passes, 1, method=name),
                workload.record("flops_over_floor", above, 1, method=name, **note),
            ]
    return records


def measure_growth(workload: Workload) -> list[dict]:
    """How the FLOPs of one training step grow with the features: exponent of a power
    law in n, on inputs of random numbers.
    """
    widths = presets.STEP_WIDTHS[workload.preset]
    rng = np.random.default_rng(workload.seed)
    y = jnp.asarray(rng.integers(0, 2, TRAIN_BATCH))
    records = []
    for name in GROWING:
        counted = []
        for n in widths:
            x = jnp.asarray(rng.normal(size=(TRAIN_BATCH, n)), jnp.float32)
            flops = training_flops(name, x, y, k=workload.k, seed=workload.seed)
            counted.append(flops.flops)
        slope = np.polyfit(np.log(widths), np.log(counted), 1)[0]
        note = f"n = {', '.join(map(str, widths))}"
        records.append(
            workload.record("flops_exponent", float(slope), 1, method=name, note=note)
        )
    return records


def _scan_steps(step, state, x, y, weights, keys):
    def body(state, batch):
        x, y, key = batch
        return step(state, x, y, weights, key), None

    return jax.lax.scan(body, state, (x, y, keys))[0]


def measure_attacks(workload: Workload) -> list[dict]:
    """FLOP units of a step, throughput of the whole attack and of its bare steps."""
    sizes = workload.sizes
    victim = workload.victim(sizes.attack_inputs)
    unit = costs.forward_flops(victim, batch=FLOP_BATCH)
    threat, key = threat_model("l2", workload.epsilon), jax.random.key(workload.seed)
    flops, runs, work = {}, {}, {}
    for name in workload.attacks:
        attack, num_steps, track_every = costs.protocol(victim, name, k=workload.k)
        if sizes.attack_blocks is not None:
            num_steps = sizes.attack_blocks * track_every
        work[name] = sizes.attack_inputs * num_steps
        flops[name] = costs.attack_step_flops(
            victim, attack, epsilon=workload.epsilon, batch=FLOP_BATCH
        )
        size = attacks.runner.DEFAULT_BATCH_SIZE
        whole = attacks.compile_attack(
            attack, num_steps=num_steps, track_every=track_every, batch_size=size
        )
        bare = costs.bare_attack(attack, num_steps=num_steps, batch_size=size)
        args = victim.params, victim.x, threat
        runs[name, "whole"] = functools.partial(whole, *args, key=key)
        runs[name, "bare"] = functools.partial(bare, *args, key=key)
    seconds = costs.interleaved(runs, rounds=min(sizes.rounds, 5))
    records = []
    for name in workload.attacks:
        fields = {"attack": name, "epsilon": workload.epsilon}
        note = {"note": LOOP_NOTE} if flops[name].has_loop else {}
        rates = {part: work[name] / seconds[name, part] for part in ("whole", "bare")}
        records += [
            workload.record(
                "flop_units", flops[name].flops / unit, 1, **fields, **note
            ),
            *workload.spread("throughput", rates["whole"], **fields),
            *workload.spread("throughput_bare", rates["bare"], **fields),
        ]
    return records


def measure_memory(workload: Workload) -> list[dict]:
    """Bytes that attacks on many inputs need, by XLA and by the operating system."""
    count, records = workload.sizes.memory_inputs, []
    victim = workload.victim(1)
    x = jax.ShapeDtypeStruct((count, *victim.x.shape[1:]), victim.x.dtype)
    for name in workload.attacks:
        attack, num_steps, track_every = costs.protocol(victim, name, k=workload.k)
        if workload.sizes.attack_blocks is not None:
            num_steps = workload.sizes.attack_blocks * track_every
        fields = {"attack": name, "epsilon": workload.epsilon}
        # One program for the whole batch: the host-driven form compiles a chunk alone.
        run = jax.jit(
            attack_batch(attack, num_steps=num_steps, track_every=track_every)
        )
        threat = threat_model("l2", workload.epsilon)
        size = costs.compiled_bytes(
            run, victim.params, x, threat, key=jax.random.key(workload.seed)
        )
        note = {} if size is not None else {"note": "this backend does not tell"}
        records.append(
            workload.record("peak_memory_bytes", size, count, **fields, **note)
        )
        if name != "er" or jax.default_backend() != "cpu":
            continue  # one run suffices; a device's memory is not the process's
        growth, peak = costs.resident_growth(
            attack=name,
            dataset=workload.dataset,
            data_dir=workload.data_dir,
            num_inputs=count,
            num_steps=num_steps,
            track_every=track_every,
            k=workload.k,
            epsilon=workload.epsilon,
            seed=workload.seed,
        )
        records += [
            workload.record("resident_growth_bytes", growth, count, **fields),
            workload.record("resident_peak_bytes", peak, count, **fields),
        ]
    return records


def measure_strongest(workload: Workload) -> list[dict]:
    """Seconds of `strongest` at its default budget, the first call and another one."""
    count = presets.STRONGEST_INPUTS[workload.preset]
    victim = workload.victim(count)
    run = strongest(victim.model, workload.k, DEFAULT_EVALUATIONS)
    threat, key = threat_model("l2", workload.epsilon), jax.random.key(workload.seed)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(run(victim.params, victim.x, threat, key=key))
        seconds.append(time.perf_counter() - start)
    fields = {"attack": STRONGEST, "epsilon": workload.epsilon}
    fields["note"] = f"{count} inputs, {DEFAULT_EVALUATIONS} evaluations of each"
    return [
        workload.record("strongest_seconds", seconds[0], count, **fields),
        workload.record("strongest_seconds_compiled", seconds[1], count, **fields),
    ]


# Metric that tells whether a part was measured -> how to measure it.
PARTS: dict[str, Callable[[Workload], list[dict]]] = {
    "flops_ratio": measure_training,
    "flops_exponent": measure_growth,
    "flop_units": measure_attacks,
    "throughput_ratio": measure_torch,
    "explain_ratio": measure_captum,
    "evaluation_ratio": measure_quantus,
    "peak_memory_bytes": measure_memory,
    "strongest_seconds": measure_strongest,
    "graph_form_ratio": measure_graphs,
    "penalty_peak_bytes": measure_penalty_memory,
    "growth_flops": measure_growth_by_size,
    "many_seconds": measure_many,
}
