"""Chunks that the host drives: the result, the traces, the threads."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax import execution as chunked
from r2et_jax.attacks import goals, optimizers
from r2et_jax.execution import compile_chunked
from r2et_jax.models import MLP
from r2et_jax.threat import threat_model
from r2et_jax.threat.definition import with_epsilon


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(chunked, "num_cores", lambda: 2)


@pytest.mark.parametrize("m", [1, 2, 7, 63, 64, 65, 200])
def test_every_example_comes_back_in_its_place(two_cores, m):
    run = compile_chunked(lambda a, x: {"y": a * x[0], "i": x[1]}, batch_size=30)
    x = np.arange(3.0 * m, dtype=np.float32).reshape(m, 3)
    out = run(jnp.float32(2.0), (x, np.arange(m, dtype=np.int32)))
    np.testing.assert_array_equal(out["y"], 2 * x)
    np.testing.assert_array_equal(out["i"], np.arange(m))


def test_it_compiles_once_for_each_shape_of_a_chunk(two_cores):
    shapes = []

    def fn(a, x):
        shapes.append(x.shape)
        return a * x

    run = compile_chunked(fn, batch_size=50)
    x = np.ones((200, 3), np.float32)
    for scale in (1.0, 2.0):
        run(scale, x)
    assert shapes == [(50, 3)]
    run(1.0, x[:100])  # two cores, two chunks of the same shape
    assert shapes == [(50, 3)]
    run(1.0, x[:40])
    assert shapes == [(50, 3), (40, 3)]
    out = run(1.0, x[:17], like=100)
    assert out.shape == (17, 3)
    assert shapes == [(50, 3), (40, 3)]


def test_threads_keep_double_precision(two_cores):
    run = compile_chunked(lambda a, x: a + x, batch_size=50)
    x = 1 + 1e-12 * np.arange(200.0)
    with jax.enable_x64(True):
        out = run(jnp.float64(0.0), x)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize(
    ("batched", "message"),
    [
        (np.ones((0, 3)), "leading axis of at least 1"),
        ((np.ones((2, 3)), np.ones(3)), "leading axis of at least 1"),
    ],
)
def test_a_batch_without_one_length_is_refused(batched, message):
    run = compile_chunked(lambda a, x: x, batch_size=4)
    with pytest.raises(ValueError, match=message):
        run(1.0, batched)


@pytest.mark.parametrize(
    "explainer",
    [
        saliency.gradient,
        saliency.gradient_times_input,
        lambda scored, **options: saliency.integrated_gradients(
            scored, num_points=8, **options
        ),
        lambda scored, **options: (
            lambda *args: saliency.smooth_grad(
                scored, num_samples=4, sigma=0.3, **options
            )(*args, key=jax.random.key(7))
        ),
    ],
    ids=["gradient", "gradient_times_input", "integrated_gradients", "smooth_grad"],
)
def test_the_attack_sees_the_explainer(two_cores, explainer):
    """Descent on the explanation itself does better than random directions."""
    model = MLP(hidden=(8,), activation="tanh")
    params = model.init(jax.random.key(0), jnp.zeros(6))
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    x = np.asarray(jax.random.normal(jax.random.key(1), (64, 6)))
    explain = explainer(score.log_odds(model.apply))
    attack = attacks.gradient_attack(
        model.apply,
        explain,
        goals.mean_gap(),
        k=2,
        optimizer=optimizers.steepest(0.1),
    )
    search = attacks.random_search(model.apply, explain, k=2)
    threat = with_epsilon(threat_model(), 0.3)
    key = jax.random.key(2)
    attacked = attacks.compile_attack(attack, num_steps=20)(params, x, threat, key=key)
    drawn = attacks.compile_attack(search, num_steps=2, track_every=1)(
        params, x, threat, key=key
    )
    assert attacked.best.precision.mean() < drawn.best.precision.mean()
    assert attacked.vanished.max() == 0


def test_the_garbage_collector_rests_while_a_new_shape_is_traced():
    seen = []

    def fn(shared, x):
        seen.append(gc.isenabled())
        if shared.shape:
            raise ValueError("traced")
        return shared * x

    run = compile_chunked(fn)
    for on in (True, False):
        (gc.enable if on else gc.disable)()
        try:
            run(np.float32(2), np.ones(3 + on, np.float32))
            with pytest.raises(ValueError, match="traced"):
                run(np.ones(3 + on, np.float32), np.ones(3 + on, np.float32))
            assert gc.isenabled() == on
        finally:
            gc.enable()
    assert seen == [False] * 4
