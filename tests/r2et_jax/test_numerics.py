"""Elementary functions against closed forms in float64, and at the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import numerics

U = np.concatenate([np.linspace(-80, 80, 65), [-17.3, -0.5, 0.5, 17.3]])


def logistic(u):
    """σ, σ′ and σ″ in float64, each to full relative precision."""
    small = np.exp(-np.abs(u))
    value = np.where(u < 0, small, 1) / (1 + small)
    slope = small / (1 + small) ** 2
    return value, slope, -slope * np.tanh(u / 2)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_sigmoid_and_its_derivatives_keep_relative_precision(order):
    fn = numerics.sigmoid
    for _ in range(order):
        fn = jax.grad(fn)
    value = jax.jit(jax.vmap(fn))(jnp.asarray(U, jnp.float32))
    assert value.dtype == jnp.float32
    expected = logistic(U.astype(np.float32).astype(np.float64))[order]
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_softplus_and_its_derivatives_keep_relative_precision(order):
    fn = numerics.softplus
    for _ in range(order):
        fn = jax.grad(fn)
    value = jax.jit(jax.vmap(fn))(jnp.asarray(U, jnp.float32))
    u = U.astype(np.float32).astype(np.float64)
    expected = (np.logaddexp(0, u), *logistic(u))[order]
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=0)


def test_third_derivative_in_float64():
    with jax.enable_x64(True):
        third_derivative = jax.grad(jax.grad(jax.grad(numerics.sigmoid)))
        u = jnp.linspace(-30.0, 30.0, 13)
        third = jax.jit(jax.vmap(third_derivative))(u)
    _, slope, _ = logistic(np.asarray(u))
    expected = slope * (1 - 6 * slope)
    np.testing.assert_allclose(third, expected, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("name", ["sigmoid", "softplus"])
def test_infinite_and_nan_arguments(name):
    fn = getattr(numerics, name)
    value = fn(jnp.array([-jnp.inf, jnp.inf, jnp.nan]))
    expected = [0, 1 if name == "sigmoid" else np.inf, np.nan]
    np.testing.assert_array_equal(value, np.float32(expected))


norm_and_gradient = jax.jit(jax.value_and_grad(numerics.safe_norm))
unit_l2_and_jacobian = jax.jit(
    lambda v: (numerics.unit_l2(v), jax.jacrev(numerics.unit_l2)(v))
)
unit_sum_and_jacobian = jax.jit(
    lambda v: (numerics.unit_sum(v), jax.jacrev(numerics.unit_sum)(v))
)


def vectors(scale, size=4):
    """Vectors whose largest entry is near the scale."""
    entry = st.one_of(st.just(0.0), st.floats(0.1, 1.0), st.floats(-1.0, -0.1))
    rest = st.lists(entry, min_size=size - 1, max_size=size - 1)
    return rest.map(lambda values: np.float32(scale) * np.float32([*values, 1.0]))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@given(data=st.data())
def test_norms_and_shares_and_their_derivatives_at_any_scale(scale, data):
    v = data.draw(vectors(scale))
    wide = v.astype(np.float64)
    expected, total = np.linalg.norm(wide), np.sum(np.abs(wide))
    norm, gradient = norm_and_gradient(v)
    np.testing.assert_allclose(norm, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, wide / expected, rtol=1e-5, atol=1e-6)
    # Jacobians in units of the scale: entries of order one whatever it is.
    unit, shares, eye = wide / expected, np.abs(wide) / total, np.eye(v.size)
    value, slope = unit_l2_and_jacobian(v)
    np.testing.assert_allclose(value, unit, rtol=2e-6)
    projector = eye - np.outer(unit, unit)
    np.testing.assert_allclose(np.float64(slope) * expected, projector, atol=1e-5)
    value, slope = unit_sum_and_jacobian(np.abs(v))
    np.testing.assert_allclose(value, shares, rtol=2e-6)
    np.testing.assert_allclose(
        np.float64(slope) * total, eye - shares[:, None], atol=1e-5
    )


@pytest.mark.parametrize("name", ["safe_norm", "unit_sum", "unit_l2"])
def test_zero_stays_zero_with_a_finite_derivative(name):
    fn = getattr(numerics, name)

    @jax.jit
    def value_and_slopes(v):
        def of_magnitude(v):
            return jnp.sum(fn(numerics.magnitude(v)))

        return fn(v), jax.jacrev(fn)(v), jax.jacfwd(fn)(v), jax.grad(of_magnitude)(v)

    for tiny in (0.0, 1e-45):  # the second is a subnormal number
        value, reverse, forward, through_magnitude = value_and_slopes(
            jnp.full((2, 3), tiny)
        )
        np.testing.assert_allclose(value, 0, atol=1e-30)
        assert np.all(np.isfinite(reverse)) and np.all(np.isfinite(forward))
        if tiny == 0:
            np.testing.assert_array_equal(through_magnitude, 0)


def test_magnitude_has_the_sign_as_its_derivative():
    v = jnp.array([-2.0, 0.0, -0.0, 3.0, jnp.nan, -jnp.inf])
    np.testing.assert_array_equal(numerics.magnitude(v), np.abs(v))
    slopes = jax.vmap(jax.grad(numerics.magnitude))(v)
    np.testing.assert_array_equal(slopes, np.sign(v))


def test_norm_has_the_second_derivative_of_the_euclidean_norm():
    with jax.enable_x64(True):
        v = jnp.array([0.3, -1.2, 0.7])
        hessian = jax.jit(jax.hessian(numerics.safe_norm))(v)
    norm = np.linalg.norm(v)
    unit = np.asarray(v) / norm
    expected = (np.eye(3) - np.outer(unit, unit)) / norm
    np.testing.assert_allclose(hessian, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["safe_norm", "unit_sum", "unit_l2"])
@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_what_is_not_finite_shows(name, broken):
    values = getattr(numerics, name)(jnp.array([1.0, broken, 2.0]))
    assert np.any(np.isnan(values))
