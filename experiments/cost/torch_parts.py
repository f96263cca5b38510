"""The part of the experiment `cost` that compares with PyTorch."""

from __future__ import annotations

import itertools
import os

import jax
import numpy as np

from experiments.cost import costs
from experiments.cost.workload import Workload
from r2et_jax import attacks
from r2et_jax.threat import threat_model

TRIAL_STEPS = 20
# Inputs that an experiment attacks at a time, about.
FEW_INPUTS = 1024


def measure_torch(workload: Workload) -> list[dict]:
    """Throughput of ERAttack over PyTorch's, on as many inputs as experiments attack
    and on many; both sides at their best batch size.
    """
    few = _compare_with_torch(workload, FEW_INPUTS, "", True)
    many = _compare_with_torch(workload, workload.sizes.compare_inputs, "_many", False)
    return [*few, *many]


def _compare_with_torch(
    workload: Workload, count: int, suffix: str, loop: bool
) -> list[dict]:
    import torch

    from experiments.cost import torch_reference

    sizes, steps = workload.sizes, workload.sizes.compare_steps
    victim = workload.victim(count)
    attack = costs.protocol(victim, "er", k=workload.k).attack
    threat, key = threat_model("l2", workload.epsilon), jax.random.key(workload.seed)
    layers = torch_reference.layers_of(victim.params)
    x = torch.tensor(np.asarray(victim.x))
    options = {"k": workload.k, "epsilon": workload.epsilon}

    def jax_run(build, size, num_steps):
        run = build(attack, num_steps=num_steps, batch_size=size)
        return lambda: run(victim.params, victim.x, threat, key=key)

    def torch_run(attack, size, threads, num_steps):
        def run():
            torch.set_num_threads(threads)
            for chunk in x.split(size):
                attack(layers, chunk, num_steps=num_steps, **options)

        return run

    def one_by_one():
        torch.set_num_threads(1)  # the fastest for single inputs
        torch_reference.attack_one_by_one(
            layers, x[: sizes.loop_inputs], num_steps=steps, **options
        )

    # Each side at its best: threads that wait for each other lose on a busy machine.
    batches = tuple(b for b in sizes.compare_batches if b <= count) or (count,)
    sides = batches, sorted({1, len(os.sched_getaffinity(0))})
    size = costs.fastest(
        {s: jax_run(attacks.compile_attack, s, TRIAL_STEPS) for s in sides[0]},
        rounds=3,
    )
    forms = {
        "torch_batched": torch_reference.attack_batched,
        "torch_tuned": torch_reference.attack_tuned,
    }
    best = {
        name: costs.fastest(
            {
                pair: torch_run(form, *pair, TRIAL_STEPS)
                for pair in itertools.product(*sides)
            },
            rounds=3,
            pause=0.05,
        )
        for name, form in forms.items()
    }
    runs = {
        "jax": jax_run(attacks.compile_attack, size, steps),
        **{name: torch_run(forms[name], *best[name], steps) for name in forms},
        "bare": jax_run(costs.bare_attack, size, steps),
    }
    if loop:
        runs["torch_one_by_one"] = one_by_one
    seconds = costs.interleaved(runs, rounds=sizes.rounds, pause=0.05)
    inputs = dict.fromkeys(runs, count) | {"torch_one_by_one": sizes.loop_inputs}
    rate = {name: inputs[name] * steps / seconds[name] for name in runs}
    notes = {
        "jax": f"batch size {size}",
        **{
            name: f"batch size {batch}, {threads} threads"
            for name, (batch, threads) in best.items()
        },
        "torch_one_by_one": f"{sizes.loop_inputs} inputs, 1 thread",
    }
    fields = {"attack": "er", "epsilon": workload.epsilon}
    records = []
    for other in (name for name in runs if name.startswith("torch")):
        fields |= {
            "against": other + suffix,
            "inputs": count,
            "note": f"jax {notes['jax']}; {notes[other]}",
        }
        records += [
            *workload.spread("torch_throughput", rate[other], **fields),
            *workload.spread("jax_throughput", rate["jax"], **fields),
            *workload.spread("throughput_ratio", rate["jax"] / rate[other], **fields),
            *workload.spread(
                "throughput_ratio_bare", rate["bare"] / rate[other], **fields
            ),
        ]
    return records
