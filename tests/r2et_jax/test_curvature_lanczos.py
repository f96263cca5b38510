"""Lanczos against dense eigenvalues, float64."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import score as scores
from r2et_jax.curvature import hvp, largest_eigenvalue, spectral_norm

SIZE = 6
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def mlp(params, x, /):
    hidden = x.reshape(-1)
    for weight, bias in params[:-1]:
        hidden = jnp.tanh(weight @ hidden + bias)
    return params[-1][0] @ hidden + params[-1][1]


def init(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(b, a)) * 1.5 / np.sqrt(a), rng.normal(size=b) * 0.3)
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def vector(seed, shape=(2, 3)):
    return np.random.default_rng(seed).normal(size=shape)


def symmetric(spectrum, seed=0):
    """A dense symmetric matrix of the given eigenvalues."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return (rotation * np.asarray(spectrum)) @ rotation.T


@functools.partial(jax.jit, static_argnames=("num_steps", "tolerance"))
def run(matrix, *, key=KEY, **options):
    return largest_eigenvalue(lambda v: matrix @ v, matrix[0], key=key, **options)


SPECTRA = {
    "positive": [5.0, 3.0, 1.0, 0.5, 0.2, 0.1],
    "negative": [-5.0, 3.0, 1.0, 0.5, 0.2, 0.1],
    "plus-minus pair": [5.0, -5.0, 1.0, 0.5, 0.2, 0.1],
    "all in pairs": [5.0, -5.0, 2.0, -2.0, 1.0, -1.0],
    "multiple": [5.0, 5.0, 5.0, -1.0, -1.0, -1.0],
    "identity": [5.0, 5.0, 5.0, 5.0, 5.0, 5.0],
    "rank one": [-5.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "rank two": [5.0, -5.0, 0.0, 0.0, 0.0, 0.0],
    "tiny": [5e-200, -4e-200, 1e-200, 0.0, 0.0, 0.0],
    "huge": [5e120, -4e120, 1e120, 0.0, 0.0, 0.0],
    "dimension 1": [-5.0],
    "dimension 2": [5.0, -5.0],
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_within_the_dimension(spectrum, seed):
    eigen = run(symmetric(spectrum, seed), key=jax.random.key(seed))
    expected = max(abs(value) for value in spectrum)
    np.testing.assert_allclose(eigen.value, expected, rtol=1e-10)
    assert eigen.converged and eigen.residual <= 1e-6 * expected
    distinct = len({round(value / expected, 6) for value in spectrum})
    assert eigen.num_steps == distinct  # the Krylov space ends there


def test_plus_minus_pairs_where_power_iteration_fails():
    spectrum = np.concatenate([[1.0, -1.0], np.linspace(-0.6, 0.6, 48)])
    matrix = symmetric(spectrum)
    v = np.random.default_rng(0).normal(size=50)
    for _ in range(8):
        v = matrix @ v
        v = np.asarray(v) / np.linalg.norm(v)
    power = abs(v @ matrix @ v)
    assert abs(power - 1) > 0.1
    np.testing.assert_allclose(run(matrix).value, 1.0, rtol=0.01)


def test_zero_operator_is_exact_without_nan():
    def norm(w):
        eigen = largest_eigenvalue(lambda v: w * v, jnp.ones(5), key=KEY)
        return eigen.value, eigen

    (value, eigen), slope = jax.jit(jax.value_and_grad(norm, has_aux=True))(0.0)
    assert value == 0 and slope == 0
    assert eigen.residual == 0 and eigen.converged and eigen.num_steps == 1


def test_too_few_steps_are_reported_and_never_overestimate():
    matrix = symmetric(np.linspace(-1.0, 1.0, 60))
    eigen = run(matrix, num_steps=2)
    assert not eigen.converged and eigen.num_steps == 2
    assert 0 < eigen.value < 1
    # Some eigenvalue lies within the residual of ±value.
    distance = np.min(np.abs(np.abs(np.linspace(-1.0, 1.0, 60)) - eigen.value))
    assert distance <= eigen.residual
    assert run(matrix, num_steps=2, tolerance=10.0).converged


def test_keeps_its_digits_in_float32_over_many_steps():
    spectrum = np.concatenate([[1.0, -0.999, 0.998], np.geomspace(0.5, 1e-6, 97)])
    matrix = symmetric(spectrum).astype(np.float32)
    eigen = run(matrix, num_steps=60)
    assert eigen.value.dtype == jnp.float32
    np.testing.assert_allclose(eigen.value, 1.0, rtol=1e-5)


def test_nan_is_shown():
    eigen = run(jnp.full((6, 6), jnp.nan))
    assert np.isnan(eigen.value) and not eigen.converged


def test_eigenvalue_gradient_is_that_of_the_eigenvalue():
    start, slope = (
        symmetric([5.0, -4.0, 1.0, 0.0], 1),
        symmetric([1.0, 2.0, 3.0, 4.0], 2),
    )

    def value(t, sign):
        return run(sign * (start + t * slope), num_steps=4).value

    top, vectors = np.linalg.eigh(start)
    u = vectors[:, np.argmax(np.abs(top))]
    slope_of_value = jax.jit(jax.grad(value))
    for sign in (1.0, -1.0):
        eigen = slope_of_value(0.0, sign)
        np.testing.assert_allclose(eigen, u @ slope @ u, rtol=1e-8)


@pytest.mark.parametrize("sizes", [(SIZE, 5, 1), (SIZE, 5, 4, 3)])
def test_spectral_norm_matches_dense(sizes):
    score, params, x = scores.probability(mlp), init(sizes), vector(1)

    @jax.jit
    def compute(params, x):
        product = functools.partial(hvp(score), params, x, 1)
        return (
            jax.hessian(score, 1)(params, x, 1).reshape(SIZE, SIZE),
            spectral_norm(score)(params, x, 1, key=KEY),
            largest_eigenvalue(product, x, key=KEY),
        )

    dense, norm, eigen = compute(params, x)
    np.testing.assert_allclose(norm, np.linalg.norm(dense, 2), rtol=1e-10)
    np.testing.assert_allclose(eigen.value, norm, rtol=1e-12)
    assert eigen.converged


def test_parameter_gradient_matches_central_differences():
    params, x, step = init((SIZE, 5, 2)), vector(1), init((SIZE, 5, 2), seed=7)

    def along(t):
        moved = jax.tree.map(lambda p, s: p + t * s, params, step)
        return spectral_norm(scores.probability(mlp))(moved, x, 1, key=KEY)

    along = jax.jit(along)
    numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-7)


def test_backward_pass_does_not_store_the_loop():
    def apply(w, x, /):
        return jnp.tanh(w @ x)

    def temporary(num_steps):
        norm = spectral_norm(scores.probability(apply), num_steps=num_steps)
        slope = jax.grad(lambda w, x: norm(w, x, 1, key=KEY))
        struct = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(300, 200), (200,)]]
        memory = jax.jit(slope).lower(*struct).compile().memory_analysis()
        return memory.temp_size_in_bytes

    # Each step may add its row of the basis and some vectors, no weight matrix.
    assert temporary(24) - temporary(8) < 16 * 10 * 300 * 4


def test_batches_by_vmap():
    params, xs = init((SIZE, 5, 2)), vector(3, (4, 2, 3))
    keys = jax.random.split(KEY, 4)

    def norm(x, key):
        return spectral_norm(scores.probability(mlp), num_steps=3)(
            params, x, 0, key=key
        )

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(norm)))(xs, keys)
    single = jax.jit(norm)
    for x, key, value in zip(xs, keys, values, strict=True):
        np.testing.assert_allclose(single(x, key), value, rtol=1e-9)
    assert slopes.shape == xs.shape and np.all(np.isfinite(slopes))


def test_bad_arguments_name_the_value_received():
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"num_steps .*{bad}"):
            run(jnp.eye(2), num_steps=bad)
        with pytest.raises(ValueError, match=f"num_steps .*{bad}"):
            spectral_norm(scores.probability(mlp), num_steps=bad)
    with pytest.raises(ValueError, match="tolerance .*-1"):
        run(jnp.eye(2), tolerance=-1.0)


@hypothesis.given(
    st.lists(st.integers(-4, 4), min_size=6, max_size=6),
    st.integers(0, 10**6),
    st.sampled_from([1e-8, 1.0, -3.0, 1e8]),
)
def test_never_above_the_largest_and_scales(spectrum, seed, factor):
    with jax.enable_x64(True):
        matrix, key = symmetric(spectrum, seed), jax.random.key(seed)
        eigen = run(matrix, num_steps=4, key=key)
        top = max(abs(value) for value in spectrum)
        assert eigen.value <= top * (1 + 1e-12) + 1e-300
        nonzero_known = len(set(spectrum)) <= 4
        if nonzero_known:
            np.testing.assert_allclose(eigen.value, top, rtol=1e-7)
        scaled = run(factor * matrix, num_steps=4, key=key)
        np.testing.assert_allclose(scaled.value, abs(factor) * eigen.value, rtol=1e-6)
