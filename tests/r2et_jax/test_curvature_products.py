"""Hessian-vector products against dense Hessians, float64."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import score as scores
from r2et_jax.curvature import (
    directional_norm,
    finite_difference_hvp,
    hvp,
    sign_direction,
)

SHAPE = (2, 3)  # inputs need not be flat
SIZE = 6


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


def vector(seed, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def dense_hessian(score, params, x, target):
    def of_x(x):
        return score(params, x, target)

    return jax.jit(jax.hessian(of_x))(x).reshape(x.size, x.size)


SIZES = {
    "binary one layer": (SIZE, 5, 1),
    "binary two layers": (SIZE, 5, 4, 1),
    "two classes": (SIZE, 5, 2),
    "three classes": (SIZE, 5, 4, 3),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("make_score", [scores.probability, scores.log_odds])
def test_products_and_norm_match_the_dense_hessian(sizes, make_score):
    score, params, x, v = make_score(mlp), init(sizes), vector(1), vector(2)
    dense = dense_hessian(score, params, x, 1)

    exact = jax.jit(hvp(score))(params, x, 1, v)
    assert exact.shape == SHAPE
    np.testing.assert_allclose(exact.reshape(-1), dense @ v.reshape(-1), rtol=1e-10)

    difference = jax.jit(finite_difference_hvp(score, tau=1e-6))(params, x, 1, v)
    np.testing.assert_allclose(difference, exact, rtol=1e-3, atol=1e-5)

    signs = np.sign(jax.grad(score, 1)(params, x, 1)).reshape(-1)
    expected = np.linalg.norm(dense @ signs) / np.sqrt(SIZE)
    norm = jax.jit(directional_norm(score))(params, x, 1)
    np.testing.assert_allclose(norm, expected, rtol=1e-10)
    assert norm <= np.linalg.norm(dense, 2) * (1 + 1e-12)


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 1e-1])
def test_finite_difference_norm_is_its_formula_and_converges(tau):
    score, params, x = scores.probability(mlp), init(SIZES["two classes"]), vector(1)
    g = jax.grad(score, 1)
    v = np.sign(g(params, x, 0)) / np.sqrt(SIZE)
    formula = np.linalg.norm((g(params, x + tau * v, 0) - g(params, x, 0)) / tau)
    value = directional_norm(score, tau=tau)(params, x, 0)
    np.testing.assert_allclose(value, formula, rtol=1e-7)
    np.testing.assert_allclose(
        value, directional_norm(score)(params, x, 0), rtol=2 * tau + 1e-6
    )


def test_float32_agrees_with_float64():
    score, params, x = scores.probability(mlp), init(SIZES["two classes"]), vector(1)
    low_params, low_x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x))
    low = directional_norm(score)(low_params, low_x, 1)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, directional_norm(score)(params, x, 1), rtol=1e-5)


@pytest.mark.parametrize("tau", [None, 1e-2])
def test_parameter_gradient_matches_central_differences(tau):
    norm = directional_norm(scores.probability(mlp), tau=tau)
    params, x = init(SIZES["two classes"]), vector(1)
    step = init(SIZES["two classes"], seed=7)

    def along(t):
        moved = jax.tree.map(lambda p, s: p + t * s, params, step)
        return norm(moved, x, 1)

    along = jax.jit(along)
    numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-7)


def test_signs_are_constants_for_differentiation():
    jacobian = jax.jacobian(sign_direction)(jnp.array([0.5, -2.0]))
    np.testing.assert_array_equal(jacobian, np.zeros((2, 2)))
    np.testing.assert_array_equal(sign_direction(jnp.zeros(SHAPE)), np.zeros(SHAPE))


@pytest.mark.parametrize("tau", [None, 1e-3])
def test_a_linear_score_has_norm_and_gradients_zero(tau):
    norm = directional_norm(lambda w, x, c: jnp.sum(w * x) + 0.0 * w[0] ** 3, tau=tau)
    # An integer-valued step keeps the finite difference free of rounding.
    value, slope = jax.value_and_grad(norm, (0, 1))(jnp.zeros(3), jnp.ones(3), 0)
    assert value == 0
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_array_equal(leaf, np.zeros(3))


def test_a_saturated_float32_model_keeps_its_curvature_and_finite_gradients():
    def apply(w, x):
        return jnp.sum(w * x)[None]

    score = scores.probability(apply)
    w, x = jnp.full(4, 15.0, jnp.float32), jnp.ones(4, jnp.float32)
    value, slope = jax.value_and_grad(directional_norm(score))(w, x, 1)
    # p = σ(60) = 1 − e⁻⁶⁰: H = −e⁻⁶⁰ w wᵀ, of which the square is 0 in float32.
    np.testing.assert_allclose(value, np.exp(-60.0) * 30 * 30, rtol=1e-4)
    assert np.all(np.isfinite(slope)) and np.all(slope != 0)


def test_batches_by_vmap():
    norm = directional_norm(scores.probability(mlp))
    params, xs = init(SIZES["two classes"]), vector(3, (4, *SHAPE))
    targets = jnp.array([0, 1, 1, 0])
    batch = jax.vmap(norm, (None, 0, 0))(params, xs, targets)
    single = [norm(params, x, c) for x, c in zip(xs, targets, strict=True)]
    np.testing.assert_allclose(batch, jnp.stack(single), rtol=1e-12)


def test_costs_four_forward_passes():
    params, x = init((64, 128, 128, 1)), vector(0, (64,))
    score = scores.probability(mlp)

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]

    forward = flops(mlp, params, x)
    assert flops(directional_norm(score), params, x, 1) <= 4.2 * forward
    assert flops(directional_norm(score, tau=0.1), params, x, 1) <= 4.2 * forward


def test_bad_arguments_name_the_value_received():
    score = scores.probability(mlp)
    for tau in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"tau must be positive.*{tau}"):
            finite_difference_hvp(score, tau=tau)
        with pytest.raises(ValueError, match="tau"):
            directional_norm(score, tau=tau)
    for product in (hvp(score), finite_difference_hvp(score, tau=0.1)):
        with pytest.raises(ValueError, match=r"\(6,\).*\(2, 3\)"):
            product(init(SIZES["two classes"]), vector(0), 0, vector(0, (6,)))


_score = scores.probability(mlp)
_product = jax.jit(hvp(_score))


@hypothesis.given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(-3, 3))
def test_products_are_symmetric_and_linear(seed, a, b):
    with jax.enable_x64(True):
        params = init(SIZES["three classes"])
        x, u, v = vector(seed), vector(seed + 1), vector(seed + 2)
        hu, hv = _product(params, x, 2, u), _product(params, x, 2, v)
        np.testing.assert_allclose(jnp.vdot(u, hv), jnp.vdot(v, hu), atol=1e-12)
        combined = _product(params, x, 2, a * u + b * v)
        np.testing.assert_allclose(combined, a * hu + b * hv, atol=1e-12)


_scaled = jax.jit(directional_norm(lambda p, x, c: p[0] * _score(p[1], x, c)))


@hypothesis.given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.booleans())
def test_norm_scales_with_the_score(seed, factor, negative):
    with jax.enable_x64(True):
        params, x = init(SIZES["three classes"]), vector(seed)
        plain = _scaled((1.0, params), x, 0)
        scaled = _scaled((-factor if negative else factor, params), x, 0)
        np.testing.assert_allclose(scaled, factor * plain, rtol=1e-12)
