"""Chunks of a batch give what vmap gives."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2et_jax import execution
from r2et_jax.execution import example_keys, map_batched

CHECKOUT = Path(__file__).resolve().parents[2]


def test_docstring_examples_run():
    result = doctest.testmod(execution, extraglobs={"jnp": jnp})
    assert result.attempted > 0 and result.failed == 0


def fn(x, extra):
    values, label = extra["values"], extra["label"]
    return {"dot": x @ values, "same": (jnp.cumsum(x), label + 1, x[0] > 0)}


@settings(max_examples=8)  # each one compiles
@given(m=st.integers(1, 6), batch_size=st.integers(1, 8))
def test_equals_vmap_for_any_batch_size(m, batch_size):
    rng = np.random.default_rng(0)
    x, values = rng.normal(size=(2, m, 3)).astype(np.float32)
    args = x, {"values": values, "label": np.arange(m, dtype=np.int32)}
    result = map_batched(fn, args, batch_size=batch_size)
    expected = jax.vmap(fn)(*args)
    assert jax.tree.structure(result) == jax.tree.structure(expected)

    def check(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)

    jax.tree.map(check, result, expected)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 100])
def test_traces_the_function_once(batch_size):
    count = 0

    def counted(x):
        nonlocal count
        count += 1
        return jnp.sum(x)

    map_batched(counted, (jnp.ones((8, 2)),), batch_size=batch_size)
    assert count == 1


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_random_numbers_do_not_depend_on_the_chunks(batch_size):
    keys = example_keys(jax.random.key(3), 5)
    draws = map_batched(jax.random.normal, (keys,), batch_size=batch_size)
    one_by_one = [
        jax.random.normal(jax.random.fold_in(jax.random.key(3), i)) for i in range(5)
    ]
    np.testing.assert_array_equal(draws, np.array(one_by_one))
    assert len(set(np.asarray(draws).tolist())) == 5
    fewer = example_keys(jax.random.key(3), 2)
    np.testing.assert_array_equal(
        jax.random.key_data(fewer), jax.random.key_data(keys)[:2]
    )


def test_works_under_jit_and_in_float64():
    with jax.enable_x64(True):
        x = jnp.linspace(0.0, 1.0, 7)
        compiled = jax.jit(lambda x: map_batched(jnp.sin, (x,), batch_size=3))
        assert compiled(x).dtype == jnp.float64
        np.testing.assert_allclose(compiled(x), np.sin(x), rtol=1e-14)


def test_padding_never_reaches_the_result_nor_its_gradient():
    x = jnp.arange(1.0, 6.0)

    def total(x):
        return jnp.sum(map_batched(jnp.log, (x,), batch_size=4))

    np.testing.assert_allclose(jax.grad(total)(x), 1 / x, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "batch_size", "message"),
    [
        ((jnp.ones((0, 2)),), 2, r"at least 1, got \[0\]"),
        ((jnp.ones((3, 2)), jnp.ones(2)), 2, r"share one leading axis.*\[2, 3\]"),
        (({"a": jnp.ones(3), "b": jnp.ones(4)},), 2, r"got \[3, 4\]"),
        ((), 2, r"got \[\]"),
        ((jnp.float32(1.0),), 2, "leading axis"),
        ((jnp.ones(3),), 0, "batch_size must be an integer of at least 1, got 0"),
        ((jnp.ones(3),), 1.5, "batch_size must be an integer of at least 1, got 1.5"),
    ],
)
def test_static_mistakes_raise(args, batch_size, message):
    with pytest.raises(ValueError, match=message):
        map_batched(lambda *args: args, args, batch_size=batch_size)


CHILD = """
import sys, jax, r2et_jax as r2
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
r2.cache(sys.argv[1])
assert jax.jit(lambda x: x + 1)(1) == 2
print(sum(name.endswith("cache_hits") for name in hits))
"""


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = tmp_path / "programs"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    told = [
        subprocess.run(
            [sys.executable, "-c", CHILD, str(folder)],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert told[0] == "0" and int(told[1]) > 0
    (tmp_path / "file").touch()
    for name in ("", tmp_path / "file"):
        with pytest.raises(ValueError, match="the cache must be a folder, got") as told:
            execution.cache(name)
        assert repr(name) in str(told.value)


MANY = {"xla_backend_optimization_level": 1}
FEW = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_llvm_disable_expensive_passes": True,
}
LEVEL = "--xla_backend_optimization_level=3"


@pytest.mark.parametrize(
    ("backend", "flags", "work", "of_few", "of_many"),
    [
        ("cpu", "", "some", MANY | FEW, MANY),
        ("cpu", "", "little", {"xla_backend_optimization_level": 0} | FEW, MANY),
        ("cpu", "", "much", MANY, MANY),
        ("cpu", LEVEL, "little", FEW, {}),
        ("gpu", "", "little", {}, {}),
    ],
)
def test_programs_are_compiled_with_the_effort_that_pays(
    backend, flags, work, of_few, of_many, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "jit", lambda fn, compiler_options=None: (
        lambda *args: (compiler_options or {}, fn(*args))
    ))  # fmt: skip
    monkeypatch.setenv("XLA_FLAGS", flags)
    program = execution.jit(lambda shared, batched: len(batched[0]), work=work)
    # The examples decide, and not what is shared by them.
    shared = np.zeros(5000)
    assert program(shared, (np.zeros((32, 32)), None)) == (of_few, 32)
    assert program(shared, (np.zeros((33, 32)), None)) == (of_many, 33)
    assert program(np.zeros(3), (np.zeros((33, 32)), np.zeros(33))) == (of_many, 33)


def test_an_unknown_work_raises():
    with pytest.raises(ValueError, match="unknown work 'hard'"):
        execution.jit(abs, work="hard")


def test_two_examples_do_not_end_the_process():
    """LLVM has no code for pairs of floats at the level that others are compiled at."""
    code = """
import jax, jax.numpy as jnp, numpy as np, r2et_jax as r2
rng = np.random.default_rng(0)
inner, outer = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 8), (8, 1)))
x = rng.normal(size=(2, 6)).astype(np.float32)
subject = r2.subject(lambda p, x: jax.nn.relu(x @ inner) @ outer, None)
run, threat = r2.attack("random", k=2), r2.threat_model("l2", 0.5)
print(run(subject, x, threat, key=jax.random.key(0)).precision.shape)
"""
    environment = {name: v for name, v in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "(2,)", done.stderr[-300:]
