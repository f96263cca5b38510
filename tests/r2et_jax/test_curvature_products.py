"""Hessian-vector products against dense Hessians, float64."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import score as scores
from r2et_jax.curvature import hvp
from r2et_jax.curvature.products import (
    directional_norm,
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
    return np.random.default_rng(seed).normal(size=shape)


SIZES = {
    "binary two layers": (SIZE, 5, 4, 1),
    "two classes": (SIZE, 5, 2),
    "three classes": (SIZE, 5, 4, 3),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_products_and_norms_match_the_dense_hessian(sizes):
    make_score = scores.log_odds if len(sizes) == 3 else scores.probability
    score, params, x, v = make_score(mlp), init(sizes), vector(1), vector(2)
    taus = (1e-6, 1e-3, 1e-1)

    @jax.jit
    def compute(params, x, v):
        def gradient(x):
            return jax.grad(score, 1)(params, x, 1)

        g = gradient(x)
        signs = jnp.sign(g) / jnp.sqrt(SIZE * 1.0)
        return (
            jax.hessian(score, 1)(params, x, 1).reshape(SIZE, SIZE),
            signs.reshape(-1),
            hvp(score)(params, x, 1, v),
            directional_norm(score)(params, x, 1),
            [directional_norm(score, tau=tau)(params, x, 1) for tau in taus],
            [jnp.linalg.norm(gradient(x + tau * signs) - g) / tau for tau in taus],
        )

    dense, signs, exact, norm, approximate, formula = compute(params, x, v)
    assert exact.shape == SHAPE
    np.testing.assert_allclose(exact.reshape(-1), dense @ v.reshape(-1), rtol=1e-10)
    np.testing.assert_allclose(norm, np.linalg.norm(dense @ signs), rtol=1e-10)
    assert norm <= np.linalg.norm(dense, 2) * (1 + 1e-12)
    np.testing.assert_allclose(approximate, formula, rtol=1e-7)
    for tau, value in zip(taus, approximate, strict=True):
        np.testing.assert_allclose(value, norm, rtol=2 * tau + 1e-6)


def test_batches_by_vmap_and_agrees_in_float32():
    norm = jax.jit(directional_norm(scores.probability(mlp)))
    params, xs = init(SIZES["two classes"]), vector(3, (4, *SHAPE))
    targets = np.array([0, 1, 1, 0])
    batched = jax.jit(jax.vmap(norm, (None, 0, 0)))
    batch = batched(params, xs, targets)
    for x, target, value in zip(xs, targets, batch, strict=True):
        np.testing.assert_allclose(norm(params, x, target), value, rtol=1e-12)
    low_params, low_xs = jax.tree.map(np.float32, (params, xs))
    low = batched(low_params, low_xs, targets)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, batch, rtol=1e-4)


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
    value, slope = jax.jit(jax.value_and_grad(norm, (0, 1)))(
        jnp.zeros(3), jnp.ones(3), 0
    )
    assert value == 0
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_array_equal(leaf, np.zeros(3))


def test_a_saturated_float32_model_keeps_its_curvature_and_finite_gradients():
    def apply(w, x):
        return jnp.sum(w * x)[None]

    score = scores.probability(apply)
    w, x = jnp.full(4, 15.0, jnp.float32), jnp.ones(4, jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(directional_norm(score)))(w, x, 1)
    # p = σ(60) = 1 − e⁻⁶⁰: H = −e⁻⁶⁰ w wᵀ, of which the square is 0 in float32.
    np.testing.assert_allclose(value, np.exp(-60.0) * 30 * 30, rtol=1e-4)
    assert np.all(np.isfinite(slope)) and np.all(slope != 0)


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
            directional_norm(score, tau=tau)
    with pytest.raises(ValueError, match=r"\(6,\).*\(2, 3\)"):
        hvp(score)(init(SIZES["two classes"]), vector(0), 0, vector(0, (6,)))


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
