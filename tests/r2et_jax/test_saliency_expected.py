"""Expected gradients, baselines and completeness, against NumPy over dense grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saliency

N, HIDDEN, B = 5, 6, 3
KEY = jax.random.key(4)
RNG = np.random.default_rng(2)
W, V = RNG.normal(size=(HIDDEN, N)), RNG.normal(size=HIDDEN)
X, STARTS = RNG.normal(size=N), RNG.normal(size=(B, N))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def score(params, x, target, /):
    w, v = params
    return v @ jnp.tanh(w @ x)


def value(x):
    return V @ np.tanh(W @ x)


def slope(x):
    return W.T @ (V * (1 - np.tanh(W @ x) ** 2))


def integrated(x, start, num_points=4000):
    times = (np.arange(num_points) + 0.5) / num_points
    mean = np.mean([slope(start + t * (x - start)) for t in times], axis=0)
    return (x - start) * mean


def explained(explain, x=X, **keywords):
    return np.asarray(jax.jit(explain)((W, V), x, 0, **keywords))


def test_is_the_mean_of_integrated_gradients_over_the_baselines(float64):
    explain = saliency.expected_gradients(
        score, baselines=STARTS, num_samples=9000, signed=True
    )
    expected = np.mean([integrated(X, start) for start in STARTS], axis=0)
    maps = explained(explain, key=KEY)
    np.testing.assert_allclose(maps, expected, atol=0.01)
    assert np.abs(expected).min() > 0.05  # so that the tolerance tells
    delta = saliency.convergence_delta(score, baseline=STARTS)
    by_hand = maps.sum() - (value(X) - np.mean([value(start) for start in STARTS]))
    np.testing.assert_allclose(delta((W, V), X, 0, maps), by_hand, atol=1e-12)
    assert abs(by_hand) < 0.02


@pytest.mark.parametrize("num_samples", [4, 12])
def test_every_baseline_is_taken_equally_often(num_samples, float64):
    def linear(params, x, target, /):
        return params @ x

    starts = np.diag([1.0, 10.0, 100.0])
    explain = saliency.expected_gradients(
        linear, baselines=starts, num_samples=num_samples, signed=True
    )
    maps = explained_linear(explain, np.zeros(3))
    # −I_i·M/start_i counts how often baseline i was drawn.
    times = -maps * num_samples / np.diag(starts)
    assert np.isin(np.round(times, 9), [num_samples // 3, -(-num_samples // 3)]).all()


def explained_linear(explain, x):
    return np.asarray(explain(jnp.ones(3), jnp.asarray(x), 0, key=KEY))


def test_of_one_baseline_is_integrated_gradients(float64):
    expected = saliency.expected_gradients(score, baselines=STARTS[:1], num_samples=400)
    along = saliency.integrated_gradients(score, baseline=STARTS[0], num_points=400)
    maps = explained(expected, key=KEY)
    np.testing.assert_allclose(maps, explained(along), atol=2e-3)
    by_hand = np.abs(integrated(X, STARTS[0]))
    np.testing.assert_allclose(explained(along), by_hand / by_hand.sum(), atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 5, 30])
def test_chunks_change_no_map(chunk_size, float64):
    maps = [
        explained(
            saliency.expected_gradients(
                score, baselines=STARTS, num_samples=30, chunk_size=size
            ),
            key=KEY,
        )
        for size in (chunk_size, None)
    ]
    np.testing.assert_allclose(*maps, rtol=1e-12)


def test_the_delta_falls_with_the_points(float64):
    deltas = []
    for num_points in (2, 20):
        explain = saliency.integrated_gradients(
            score, signed=True, num_points=num_points, baseline=STARTS[1]
        )
        delta = saliency.convergence_delta(score, baseline=STARTS[1])
        deltas.append(abs(float(delta((W, V), X, 0, explained(explain)))))
    assert deltas[0] > 1e-3 and deltas[1] < deltas[0] / 30  # second order: a hundredth


def test_baselines_of_another_shape_are_refused():
    x = jnp.asarray(X, jnp.float32)
    for bad in (np.zeros(N), np.zeros((2, N + 1)), np.zeros((0, N))):
        explain = saliency.expected_gradients(score, baselines=bad)
        with pytest.raises(ValueError, match=r"baselines must be inputs .* got shape"):
            explain((W, V), x, 0, key=KEY)
    with pytest.raises(ValueError, match=r"number or have the shape of x, \(5,\)"):
        saliency.integrated_gradients(score, baseline=np.zeros(2))((W, V), x, 0)
    for bad in (np.zeros(2), np.zeros((2, 4))):
        with pytest.raises(ValueError, match=r"baseline must .*the shape of x"):
            saliency.convergence_delta(score, baseline=bad)((W, V), x, 0, x)
