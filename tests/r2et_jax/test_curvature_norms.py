"""Frobenius norms against dense Hessians, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import score as scores
from r2et_jax.curvature import frobenius_norm, frobenius_norm_squared_hutchinson
from r2et_jax.curvature.norms import safe_sqrt

SIZE = 6


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def mlp(params, x, /):
    hidden = x.reshape(-1)
    for weight, bias in params[:-1]:
        hidden = jax.nn.softplus(weight @ hidden + bias)
    return params[-1][0] @ hidden + params[-1][1]


def init(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(b, a)) * 1.5 / np.sqrt(a), rng.normal(size=b) * 0.3)
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def vector(seed, shape=(2, 3)):
    return np.random.default_rng(seed).normal(size=shape)


def dense_norm(score, params, x, target):
    return jnp.linalg.norm(jax.hessian(score, 1)(params, x, target))


@pytest.mark.parametrize("sizes", [(SIZE, 5, 1), (SIZE, 5, 4, 3)])
def test_frobenius_norm_matches_dense(sizes):
    score, params, x = scores.probability(mlp), init(sizes), vector(1)

    @jax.jit
    def compute(params, x):
        norms = [
            frobenius_norm(score, chunk_size=chunk_size)(params, x, 1)
            for chunk_size in (1, 4, 6, 64)
        ]
        return dense_norm(score, params, x, 1), norms

    dense, norms = compute(params, x)
    np.testing.assert_allclose(norms, np.full(4, dense), rtol=1e-10)


def test_parameter_gradient_matches_central_differences():
    score = scores.probability(mlp)
    params, x, step = init((SIZE, 5, 2)), vector(1), init((SIZE, 5, 2), seed=7)

    def along(t):
        moved = jax.tree.map(lambda p, s: p + t * s, params, step)
        return frobenius_norm(score, chunk_size=4)(moved, x, 1)

    along = jax.jit(along)
    numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-7)


@pytest.mark.parametrize("chunk_size", [2, 64])
def test_a_linear_score_has_norm_and_gradients_zero(chunk_size):
    norm = frobenius_norm(lambda w, x, c: jnp.sum(w * x), chunk_size=chunk_size)
    value, slope = jax.jit(jax.value_and_grad(norm, (0, 1)))(
        jnp.ones(3), jnp.ones(3), 0
    )
    assert value == 0
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_array_equal(leaf, np.zeros(3))


def test_batches_by_vmap_and_agrees_in_float32():
    norm = jax.jit(frobenius_norm(scores.probability(mlp), chunk_size=4))
    params, xs, targets = init((SIZE, 5, 2)), vector(3, (4, 2, 3)), np.arange(4) % 2
    batched = jax.jit(jax.vmap(norm, (None, 0, 0)))
    batch = batched(params, xs, targets)
    for x, target, value in zip(xs, targets, batch, strict=True):
        np.testing.assert_allclose(norm(params, x, target), value, rtol=1e-12)
    low_params, low_xs = jax.tree.map(np.float32, (params, xs))
    low = batched(low_params, low_xs, targets)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, batch, rtol=1e-5)


def _one_layer(params, x, /):
    return params[1] @ jnp.tanh(params[0] @ x.reshape(-1))


def _convolution(params, x, /):
    maps = jax.lax.conv_general_dilated(
        x[None], params[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return params[1] @ jnp.tanh(maps).mean((0, 1, 2))


@pytest.mark.parametrize(
    ("apply", "shapes"),
    [(_one_layer, [(32, 3072), (10, 32)]), (_convolution, [(3, 3, 3, 16), (10, 16)])],
)
def test_memory_stays_below_the_dense_hessian_at_3072_features(apply, shapes):
    norm = frobenius_norm(scores.probability(apply), chunk_size=16)
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    x = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(norm)).lower(params, x, 1).compile()
    # Far below 2 GiB, and below H itself: 3072² floats are 36 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 3072**2 * 4 / 2


def test_hutchinson_is_unbiased():
    score, params, x = scores.probability(mlp), init((SIZE, 5, 2)), vector(1)
    sampled = frobenius_norm_squared_hutchinson(score, num_samples=1)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(jax.vmap(lambda key: sampled(params, x, 1, key=key)))(keys)
    expected = float(jax.jit(dense_norm, static_argnums=0)(score, params, x, 1)) ** 2
    assert np.var(draw) <= 2 * expected**2
    error = np.std(draw) / np.sqrt(keys.size)
    assert error < 0.01 * expected
    assert abs(np.mean(draw) - expected) < 4 * error


def test_hutchinson_averages_its_samples_whatever_the_chunks():
    score, params, x = scores.probability(mlp), init((SIZE, 5, 2)), vector(1)
    key = jax.random.key(3)

    @jax.jit
    def compute(params):
        def estimate(chunk_size):
            function = frobenius_norm_squared_hutchinson(
                score, num_samples=50, chunk_size=chunk_size
            )
            return jax.value_and_grad(function)(params, x, 1, key=key)

        return estimate(64), estimate(7), dense_norm(score, params, x, 1) ** 2

    whole, pieces, exact = compute(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), whole, pieces
    )
    # Fifty probes: relative standard deviation at most (2/50)^½ = .2.
    np.testing.assert_allclose(whole[0], exact, rtol=0.8)


def test_hutchinson_is_exact_for_a_diagonal_hessian():
    estimate = frobenius_norm_squared_hutchinson(
        lambda w, x, c: jnp.sum(w * x**3), num_samples=3
    )
    w, x = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, -1.0])
    value = jax.jit(estimate)(w, x, 0, key=jax.random.key(0))
    np.testing.assert_allclose(value, np.sum((6 * w * x) ** 2), rtol=1e-12)


def test_the_root_has_zero_gradient_at_zero():
    value, slope = jax.jit(jax.value_and_grad(safe_sqrt))(0.0)
    assert value == 0 and slope == 0
    assert np.isnan(safe_sqrt(jnp.nan))


def test_bad_arguments_name_the_value_received():
    score = scores.probability(mlp)
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"chunk_size .*{bad}"):
            frobenius_norm(score, chunk_size=bad)
        with pytest.raises(ValueError, match=f"num_samples .*{bad}"):
            frobenius_norm_squared_hutchinson(score, num_samples=bad)
        with pytest.raises(ValueError, match=f"chunk_size .*{bad}"):
            frobenius_norm_squared_hutchinson(score, num_samples=1, chunk_size=bad)
