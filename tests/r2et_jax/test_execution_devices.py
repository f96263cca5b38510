"""Batches over several devices: the same numbers, no more programs, chunks that fit."""

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import devices, execution
from r2et_jax.attacks import stepwise
from r2et_jax.models import MLP
from r2et_jax.subject import explain

HERE = Path(__file__).resolve().parent
# Another program adds in another order.
ROUNDING = 2e-6


def on_devices(*names):
    command = sys.executable, "-m", "tests.r2et_jax.on_devices", *names
    done = subprocess.run(
        command, cwd=HERE.parents[1], stdout=-1, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def check_equal(told, *, rounded=()):
    for cell, values in told.items():
        name, _ = cell.split()
        assert values["same_shape"] <= (ROUNDING if name in rounded else 0), cell
        assert values["to_one"] <= ROUNDING, cell
        assert 0 < values["programs"] <= told[f"{name} 1"]["programs"], cell


def test_devices_find_what_one_finds_by_one_program():
    told = on_devices("plain", "descent=1,8")
    assert len(told) == 6
    # A device runs the very program that a single one runs on chunks of that shape.
    check_equal(told)
    shares = [told[f"plain {count}"]["shares"] for count in (1, 2, 4, 8)]
    assert shares == [[29], [15, 14], [8, 8, 8, 5], [4] * 7 + [1]]


@pytest.mark.slow
def test_everything_that_takes_a_batch_is_spread_over_the_devices():
    names = "descent", "convolved", "thickness", "maps", "certificate"
    # These are made of several programs by themselves, or have other shapes.
    rounded = "grid", "strongest"
    told = on_devices(*names, *rounded)
    assert len(told) == 4 * 7
    check_equal(told, rounded=rounded)


def port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
def test_two_processes_explain_their_halves_on_their_own_devices(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "in_processes", HERE / "in_processes.py"
    )
    child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    command = "-m", "tests.r2et_jax.in_processes", f"localhost:{port()}"
    written = tmp_path / "found.json"
    started = [
        subprocess.Popen(
            [sys.executable, *command, str(index), str(written)], cwd=HERE.parents[1]
        )
        for index in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    model, x = child.examined()
    maps = json.loads(written.read_text())
    np.testing.assert_allclose(maps, explain(model, x), rtol=1e-5, atol=1e-6)


class Accelerator:
    """What of a device the choice of a chunk asks for."""

    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def looped(a, x):
    """A loop with a state of 5 rows and a product of 20 inside."""

    def step(state, _):
        wide = jnp.tile(state, (1, 4))
        return state + a * wide.sum(axis=1, keepdims=True), None

    return jax.lax.scan(step, x, None, length=9)[0]


def trained(params, batched):
    """The gradient of a network in its parameters, for each example."""
    x, y = batched

    def loss(params, x, y):
        return (MLP(hidden=(16, 16)).apply(params, x)[0] - y) ** 2

    return jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)


def memory_cases():
    params = MLP(hidden=(16, 16)).init(jax.random.key(0), jnp.zeros(5))
    rows = np.ones((64, 5), np.float32)
    return (looped, jnp.float32(1.0), rows), (trained, params, (rows, rows[:, 0]))


@pytest.mark.parametrize("case", [0, 1])
def test_the_memory_of_an_example_is_bounded_and_not_by_far(case):
    """Against what the compiler sets aside for 64 of them."""
    fn, shared, batched = memory_cases()[case]
    analysis = jax.jit(fn).lower(shared, batched).compile().memory_analysis()
    taken = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    taken += sum(leaf.nbytes for leaf in jax.tree.leaves(batched))
    planned = 64 * devices.example_bytes(fn, shared, batched)
    assert taken <= planned <= 20 * taken


def test_chunks_of_an_accelerator_are_as_large_as_its_memory(monkeypatch):
    shapes = []

    def fn(a, x):
        shapes.append(x.shape[0])
        return a * x

    x = np.ones((100, 3), np.float32)
    # An example takes its 12 bytes, and as many for the result.
    gpu = Accelerator({"bytes_limit": 2 * 24 * 40, "bytes_in_use": 24})
    monkeypatch.setattr(
        execution, "_spread", lambda compiled, _: (compiled,) + 2 * (None,)
    )
    # A process beside an accelerator has no cores to share chunks among.
    monkeypatch.setattr(execution, "num_cores", lambda: 1)
    fits = execution.drive_chunks(fn, devices=[gpu])
    np.testing.assert_array_equal(fits(2.0, x), 2 * x)
    # Traced with one example; then three equal chunks of at most 40.
    assert shapes == [1, 34, 34, 34]
    told = {"batch_size": 50}, {"in_cache": 60, "by_host": True}
    for options in told:
        execution.drive_chunks(fn, devices=[gpu], **options)(2.0, x)
    silent = execution.drive_chunks(fn, devices=[Accelerator(None)], in_cache=25)
    np.testing.assert_array_equal(silent(2.0, x), 2 * x)
    assert shapes[4:] == [50, 50, 50, 50, 25, 25, 25, 25]
    with pytest.raises(ValueError, match=r"devices must name at least one, got \(\)"):
        execution.drive_chunks(fn, devices=())(2.0, x)


@pytest.mark.parametrize(("backend", "count"), [("cpu", 2), ("gpu", 1), ("cpu", 1)])
def test_threads_and_loops_of_the_host_are_for_a_sole_cpu(backend, count, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda **_: ["device"] * count)
    sole = (backend, count) == ("cpu", 1)
    assert devices.host_drives() is sole
    assert execution.num_cores() == 1 or sole
    monkeypatch.setattr(stepwise, "_has_convolution", lambda _: True)
    run = stepwise.choose_form(
        lambda *_: "scan", lambda *_: "host", lambda params, x: x
    )
    assert run((1.0,), (np.ones((2, 3)), None)) == ("host" if sole else "scan")
