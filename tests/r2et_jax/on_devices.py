"""Run as a program: the same work on 1, 2, 4 and 8 simulated devices, and compared.

`python -m tests.r2et_jax.on_devices NAME…` prints for each piece of work and number of
devices (NAME=1,8: those) the largest difference to one device, and the programs that
were compiled.
"""

import json
import os
import sys

from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.attacks.strongest import compile_strongest

# The optimisation level is left to `execution.jit`, as it is where a user sets none.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import (
    attacks,
    certificates,
    devices,
    metrics,
    objectives,
    saliency,
    score,
    subject,
    training,
)
from r2et_jax.attacks import goals, optimizers
from r2et_jax.execution import compile_chunked
from r2et_jax.models import MLP
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

COUNTS = 1, 2, 4, 8
K, M, N = 2, 29, 6


def inputs(m=M):
    return np.random.default_rng(0).normal(size=(m, N)).astype(np.float32)


def network(**options):
    model = MLP(hidden=(8,), **options)
    params = model.init(jax.random.key(0), jnp.zeros(N))
    return subject(model, jax.tree.map(lambda leaf: 2 * leaf, params))


def plain(size):
    """Each row by itself, and which device it was on."""

    def fn(shared, batched):
        x, index = batched
        where = jax.lax.axis_index("examples") if len(devices.chosen()) > 1 else 0
        least = jax.lax.top_k(-x * shared["a"], 2)[0]
        draws = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))
        key = shared["key"]
        return {"least": least, "draw": draws(index), "device": where + 0 * index}

    run = compile_chunked(fn, batch_size=size)
    shared = {"a": 2.0, "key": jax.random.key(3)}
    values = run(shared, (inputs(), np.arange(M)))
    shares = np.bincount(values.pop("device"))
    return values, {"shares": shares.tolist()}


def descent(size):
    model = network()
    attack = attacks.gradient_attack(
        model.apply,
        model.saliency(),
        goals.mean_gap(),
        k=K,
        optimizer=optimizers.steepest(0.1),
        random_start=0.5,
    )
    run = attacks.compile_attack(attack, num_steps=4, track_every=2, batch_size=size)
    budget = threat_model("l2", 0.5)
    return run(model.params, inputs(), budget, key=jax.random.key(1)), {}


def convolved(size):
    """The host drives convolutions on a sole CPU alone."""

    def apply(params, x, /):
        image = jnp.tile(x, 2)[:9].reshape(1, 1, 3, 3)
        hidden = jnp.tanh(jax.lax.conv(image, params, (1, 1), "VALID"))
        return jnp.sum(hidden**2)[None]

    attack = attacks.random_search(apply, saliency.gradient(score.log_odds(apply)), k=K)
    params = jnp.asarray(np.random.default_rng(2).normal(size=(2, 1, 2, 2)), np.float32)
    run = attacks.compile_attack(attack, num_steps=4, track_every=2, batch_size=size)
    return run(params, inputs(), threat_model("l2", 0.5), key=jax.random.key(1)), {}


def strongest(size):
    model = network()
    members = [
        member._replace(num_steps=4, track_every=2, restarts=2, suited="all")
        for member in default_ensemble(Form(model.apply), k=K)
        if member.name in ("annealed", "evolution_best", "random")
    ]
    run = compile_strongest(members, evaluations=400, batch_size=size)
    budget = threat_model("l2", 0.5)
    return run(model.params, inputs(), budget, key=jax.random.key(1)), {}


def certificate(size):
    model = network(activation="softplus")
    return certificates.certify(
        model, inputs(), threat_model("l2", 0.01), k=K, num_slabs=2, batch_size=size
    ), {}


def thickness(size):
    thick = metrics.thickness(
        network(),
        inputs(),
        threat_model("l2", 0.5),
        k=K,
        key=jax.random.key(2),
        num_draws=4,
        num_points=3,
        batch_size=size,
    )
    return thick, {}


def maps(size):
    return subject.explain(network(), inputs(), batch_size=size), {}


def grid(size):
    """Three seeds and five weights; `size` has no part in it."""
    model = network()
    goal = objectives.objective("r2et", model.apply, k=K)
    optimizer = training.adam(0.01)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), model.params)
    states = training.grid_states(params, optimizer, keys=keys, num_weights=5)
    run = training.compile_grid(goal, optimizer, num_epochs=2, batch_size=4)
    weights = jnp.linspace(0, 0.1, 10).reshape(5, 2)
    x = inputs(16)
    done = run(states, weights, x, (x[:, 0] > 0).astype(np.int32))
    return done._replace(key=None), {}


def difference(computed, expected):
    """The largest one of all leaves, in shares of a leaf's largest value."""
    assert jax.tree.structure(computed) == jax.tree.structure(expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape)
        assert np.array_equal(np.isnan(a), np.isnan(b))
        if a.size and a.dtype.kind == "f":
            gap = np.nanmax(np.abs(np.nan_to_num(a) - np.nan_to_num(b)))
            worst = max(worst, float(gap / max(np.nanmax(np.abs(b)), 1e-30)))
        else:
            worst = max(worst, float(np.any(a != b)))
    return worst


def main(names):
    all_devices = tuple(jax.local_devices())
    assert devices.chosen() == all_devices and len(all_devices) == 8
    with jax.default_device(all_devices[3]):
        assert devices.chosen() == all_devices[3:4]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(
            event.endswith("backend_compile_duration")
        )
    )
    told = {}
    for asked in names:
        name, _, counts = asked.partition("=")
        for count in json.loads(f"[{counts}]") or COUNTS:
            devices.chosen = lambda count=count: all_devices[:count]
            # The shape of a device's chunk, and the usual one.
            same, _ = globals()[name](size=-(-M // count))
            before = sum(compiled)
            usual, more = globals()[name](size=None)
            again = sum(compiled) - before
            devices.chosen = lambda: all_devices[:1]
            alone, _ = globals()[name](size=-(-M // count))
            if count == 1:
                first = usual
            told[f"{name} {count}"] = {
                "same_shape": difference(same, alone),
                "to_one": difference(usual, first),
                "programs": again,
                **more,
            }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
