"""The parts of the experiment `cost` on networks of images."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cost import costs
from experiments.cost import images as cost_images
from experiments.cost.explaining import measure_captum
from experiments.cost.parts import LOOP_NOTE, TRAIN_BATCH
from experiments.cost.workload import Workload
from experiments.problems import presets, protocols
from r2et_jax import attacks, models, objectives, training
from r2et_jax.attacks.runner import attack_batch
from r2et_jax.objectives.loss import with_context
from r2et_jax.threat import threat_model
from r2et_jax.training.epochs import train_step

# What is measured of the methods and attacks that are asked for.
METHODS = ("vanilla", "r2et_nh", "r2et")
ATTACK = "er"
TRACK_EVERY = 10
_GROUPS = re.compile(r"(feature|batch)_group_count=(?!1\b)")


class Work(NamedTuple):
    """How much is timed.

    Attributes:
      batch: inputs in a chunk, on both sides.
      steps: of the attack, a multiple of `TRACK_EVERY`.
      rounds: of alternation.
      train_steps: training steps in a round.
      memory_batches: chunks of the smaller of the two runs whose memory is watched.
    """

    batch: int
    steps: int
    rounds: int
    train_steps: int = 5
    memory_batches: int = 2


WORK = {
    preset: {name: Work(*values) for name, values in work.items()}
    for preset, work in presets.WORK.items()
}
MORE_INPUTS = 8


def _work(workload: Workload) -> Work:
    return WORK[workload.preset][workload.dataset]


def _attack(workload: Workload, num_inputs: int):
    victim = workload.victim(num_inputs)
    return victim, costs.protocol(victim, ATTACK, k=workload.k).attack


def training_flops_and_step(
    name: str, model: models.Siamese, params: Any, batch: Any, *, k: int
) -> tuple[costs.Flops, Callable[[], Any]]:
    """XLA's count of one training step of a model of pairs, and the step, compiled.

    Args:
      name: method.
      model, params: the network.
      batch: `((x [B, n], partner [B, n]), y [B])`.
      k: size of the top set.
    """
    x, y = batch
    smooth = model.surrogate(rho=presets.SURROGATE_RHO)
    objective = objectives.objective(
        name,
        models.pair_apply(model),
        k=k,
        k_prime=protocols.default_k_prime(k, x[0].shape[1]),
        surrogate=models.pair_apply(smooth),
    )
    optimizer = training.adam(1e-3)
    train_once = train_step(with_context(objective), optimizer)
    weights = jnp.full(len(objective.terms), 1e-2)

    def step(state, x, y, key):
        return train_once(state, x, y, weights, key=key, progress=0.25)

    key = costs.counted_key(0)
    state = training.init_state(params, optimizer, key=key)
    flops = costs.count_flops(step, state, x, y, key)
    return flops, functools.partial(jax.jit(step), state, x, y, key)


def measure_training(workload: Workload) -> list[dict]:
    """FLOPs and time of one training step on pairs over vanilla's."""
    work = _work(workload)
    images = cost_images.load(workload.dataset, data_dir=workload.data_dir)
    images = images.repeated(TRAIN_BATCH)
    model = cost_images.network(workload.dataset)
    pair = jnp.stack([images.x[0], images.partner[0]])
    params = jax.jit(model.init)(jax.random.key(workload.seed), pair)
    batch = jax.tree.map(jnp.asarray, ((images.x, images.partner), images.y))
    names = [n for n in METHODS if n in ("vanilla", *workload.methods)]
    flops, runs = {}, {}
    for name in names:
        flops[name], step = training_flops_and_step(
            name, model, params, batch, k=workload.k
        )
        runs[name] = functools.partial(_repeat, step, work.train_steps)
    seconds = costs.interleaved(runs, rounds=work.rounds)
    records = []
    for name in names:
        note = {"note": LOOP_NOTE} if flops[name].has_loop else {}
        ratio = flops[name].flops / flops["vanilla"].flops
        each = seconds[name] / work.train_steps
        over = seconds[name] / seconds["vanilla"]
        records += [
            workload.record("flops", flops[name].flops, 1, method=name, **note),
            workload.record("flops_ratio", ratio, 1, method=name, **note),
            *workload.spread("step_seconds", each, method=name),
            *workload.spread("time_ratio", over, method=name),
        ]
    return records


def _repeat(step, times):
    for _ in range(times):
        result = step()
    return result


def measure_step(workload: Workload) -> list[dict]:
    """FLOP units of a step, its convolutions and memory, and what drives it fastest."""
    work, fields = _work(workload), {"attack": ATTACK, "epsilon": workload.epsilon}
    count = work.batch * _num_cores()
    victim, attack = _attack(workload, count)
    steps = costs.batched_steps(attack)
    args = costs.step_arguments(
        victim, steps, epsilon=workload.epsilon, batch=work.batch
    )
    compiled = jax.jit(steps.advance).lower(*args).compile()
    flops, memory = compiled.cost_analysis()["flops"], compiled.memory_analysis()
    unit = costs.forward_flops(victim, batch=work.batch)
    convolutions, grouped = count_convolutions(compiled.as_text())
    notes = [
        f"a batch of {work.batch}, {convolutions} convolutions in a step, {grouped} of "
        "them grouped"
    ]
    if cost_images.load(workload.dataset, data_dir=workload.data_dir).random:
        notes.append(cost_images.RANDOM_NOTE)
    records = [
        workload.record("flop_units", flops / unit, 1, note="; ".join(notes), **fields),
        workload.record("grouped_convolutions", grouped, 1, **fields),
    ]
    if memory is not None:
        size = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
        )
        records.append(workload.record("peak_memory_bytes", size, work.batch, **fields))
    args = victim.params, victim.x, threat_model("l2", workload.epsilon)
    keywords = {"key": jax.random.key(workload.seed), "context": victim.context}
    runs = {}
    for driven in (True, False):
        run = attacks.compile_attack(
            attack, num_steps=TRACK_EVERY, batch_size=work.batch, host_driven=driven
        )
        runs[driven] = functools.partial(run, *args, **keywords)
    seconds = costs.interleaved(runs, rounds=min(work.rounds, 3))
    return [
        *records,
        *workload.spread("host_driven_ratio", seconds[False] / seconds[True], **fields),
    ]


def count_convolutions(program: str) -> tuple[int, int]:
    """How many convolutions a compiled program has, and how many of them are grouped.

    Args:
      program: XLA's text.
    """
    lines = [line for line in program.splitlines() if " convolution(" in line]
    return len(lines), sum(bool(_GROUPS.search(line)) for line in lines)


def torch_forms(victim: costs.Victim, layout: str) -> Callable[..., Any]:
    """The network in PyTorch: `of_rows(rows) -> logits` for a slice of the inputs."""
    import torch

    from experiments.cost import torch_images as cost_torch_images

    if victim.context is None:
        shared = cost_torch_images.resnet9(
            victim.params,
            shape=victim.model.shape,
            num_groups=victim.model.num_groups,
            layout=layout,
        )
        return lambda rows: shared
    of_pairs = cost_torch_images.siamese_cnn(victim.params, layout=layout)
    partner = torch.tensor(np.asarray(victim.context))
    return lambda rows: of_pairs(partner[rows])


def measure_torch(workload: Workload) -> list[dict]:
    """Throughput of ERAttack over PyTorch's on batches of the same size.

    Both on all cores, PyTorch in its best order of memory.
    """
    import torch

    from experiments.cost import torch_images as cost_torch_images

    work, cores = _work(workload), _num_cores()
    count = work.batch * cores
    victim, attack = _attack(workload, count)
    threat, key = threat_model("l2", workload.epsilon), jax.random.key(workload.seed)
    x = torch.tensor(np.asarray(victim.x))
    networks = {name: torch_forms(victim, name) for name in cost_torch_images.LAYOUTS}

    def torch_run(layout, num_steps, track_every):
        def run():
            torch.set_num_threads(cores)
            for rows in _rows(count, work.batch):
                cost_torch_images.attack(
                    networks[layout](rows),
                    x[rows],
                    k=workload.k,
                    epsilon=workload.epsilon,
                    num_steps=num_steps,
                    track_every=track_every,
                )

        return run

    def jax_run(build):
        run = build(attack, num_steps=work.steps, batch_size=work.batch)
        keywords = {"key": key, "context": victim.context}
        return lambda: run(victim.params, victim.x, threat, **keywords)

    best = costs.fastest(
        {layout: torch_run(layout, 2, None) for layout in networks},
        rounds=2,
        pause=0.05,
    )
    runs = {
        "jax": jax_run(attacks.compile_attack),
        "torch": torch_run(best, work.steps, TRACK_EVERY),
        "jax_bare": jax_run(costs.driven_attack),
        "torch_bare": torch_run(best, work.steps, None),
    }
    seconds = costs.interleaved(runs, rounds=work.rounds, pause=0.05)
    rate = {name: count * work.steps / seconds[name] for name in runs}
    fields = {
        "attack": ATTACK,
        "epsilon": workload.epsilon,
        "against": "torch_batched",
        "inputs": count,
        "note": f"batch size {work.batch} on both sides, {cores} cores; PyTorch with "
        f"as many threads, {best}; bare steps against its bare steps",
    }
    bare = rate["jax_bare"] / rate["torch_bare"]
    return [
        *workload.spread("torch_throughput", rate["torch"], **fields),
        *workload.spread("jax_throughput", rate["jax"], **fields),
        *workload.spread("throughput_ratio", rate["jax"] / rate["torch"], **fields),
        *workload.spread("throughput_ratio_bare", bare, **fields),
    ]


def measure_memory(workload: Workload) -> list[dict]:
    """Resident memory of an attack on some inputs and on eight times as many."""
    if jax.default_backend() != "cpu":
        return []  # a device's memory is not the process's
    work, records = _work(workload), []
    few = work.batch * work.memory_batches
    victim, attack = _attack(workload, 1)
    for suffix, count in (("_few", few), ("", MORE_INPUTS * few)):
        growth, peak = costs.resident_growth(
            attack=ATTACK,
            dataset=workload.dataset,
            data_dir=workload.data_dir,
            num_inputs=count,
            num_steps=TRACK_EVERY,
            track_every=TRACK_EVERY,
            k=workload.k,
            epsilon=workload.epsilon,
            seed=workload.seed,
            batch_size=work.batch,
        )
        fields = {
            "attack": ATTACK,
            "epsilon": workload.epsilon,
            "note": f"{count} inputs, {work.batch} at a time",
        }
        records += [
            workload.record("resident_growth_bytes" + suffix, growth, count, **fields),
            workload.record("resident_peak_bytes" + suffix, peak, count, **fields),
        ]
    size = MORE_INPUTS * few * result_bytes(victim, attack)
    return [
        *records,
        workload.record("result_bytes", size, MORE_INPUTS * few, **fields),
    ]


def result_bytes(victim: costs.Victim, attack: attacks.Attack) -> int:
    """Bytes of what an attack returns of each input, with a trace of one number."""
    run = attack_batch(
        attack, num_steps=TRACK_EVERY, track_every=TRACK_EVERY, batch_size=1
    )
    run = functools.partial(run, key=jax.random.key(0), context=victim.context)
    args = victim.params, victim.x, threat_model()
    leaves = jax.tree.leaves(jax.eval_shape(run, *args))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // len(victim.x)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _rows(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


# Metric that tells whether a part was measured -> how to measure it.
PARTS: dict[str, Callable[[Workload], list[dict]]] = {
    "flop_units": measure_step,
    "throughput_ratio": measure_torch,
    "resident_growth_bytes": measure_memory,
}
# The network of pairs has an encoder that is explained by itself.
PAIR_PARTS = {
    "flops_ratio": measure_training,
    **PARTS,
    "explain_ratio": measure_captum,
}
