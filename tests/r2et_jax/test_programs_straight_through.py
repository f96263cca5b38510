"""The model itself, of whose gradient alone the derivative is smooth; in 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.models import CNN
from r2et_jax.programs.transform import straight_through

RHO = 4.0


@pytest.fixture(autouse=True)
def in_64_bits():
    with jax.enable_x64(True):
        yield


def pooled(_, x):
    """A maximum over windows, of which some hold equal values."""
    image = x.reshape(1, 6, 6, 1)
    windows = jax.lax.reduce_window(
        image, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    return jnp.sum(jnp.sin(3 * windows) * (1 + jnp.arange(36.0).reshape(1, 6, 6, 1)))[
        None
    ]


def layered(_, x):
    hidden = jax.nn.relu(WEIGHT @ x)
    clipped = jnp.clip(hidden[:4], 0.2, 1.0) - jnp.abs(hidden[4:])
    return (jnp.max(hidden) + jax.nn.leaky_relu(clipped) @ jnp.arange(1.0, 5))[None]


rng = np.random.default_rng(0)
WEIGHT = rng.normal(size=(8, 6))
X = rng.normal(size=6)
# Pixels that are equal to their neighbours, as a background is.
IMAGE = np.where(rng.uniform(size=36) < 0.5, 0.0, rng.normal(size=36))
MODELS = {"layers": (layered, X), "windows": (pooled, IMAGE)}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradient_are_the_models(name):
    apply, x = MODELS[name]
    bent = straight_through(apply, rho=RHO)
    for f in (lambda g: g, jax.jacobian):
        mine, theirs = (f(lambda x, a=a: a(None, x))(x) for a in (bent, apply))
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)


def test_the_gradient_of_a_model_of_images_is_its_own():
    model = CNN(shape=(16, 16, 1), hidden=(8,), pooling="max")
    with jax.enable_x64(False):
        x = jnp.asarray(np.random.default_rng(1).normal(size=256), jnp.float32)
        params = model.init(jax.random.key(0), x)
        maps = [
            jax.grad(lambda x, f=f: f(params, x)[0])(x)
            for f in (model.apply, straight_through(model.apply, rho=RHO))
        ]
    size = np.abs(maps[0]).max()
    assert size > 0
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-4, atol=1e-6 * size)


def test_the_second_derivative_is_that_of_a_smooth_switch():
    """Σ_h v_h·relu(w_h·x): the curvature is Wᵀ diag(v·ρσ(1 − σ)) W, by hand."""
    v = rng.normal(size=8)

    def apply(_, x):
        return (v @ jax.nn.relu(WEIGHT @ x))[None]

    def hessian(f):
        return jax.hessian(lambda x: f(None, x)[0])(X)

    share = 1 / (1 + np.exp(-RHO * (WEIGHT @ X)))
    bend = v * RHO * share * (1 - share)
    expected = WEIGHT.T @ (bend[:, None] * WEIGHT)
    bent = straight_through(apply, rho=RHO)
    np.testing.assert_allclose(hessian(bent), expected, rtol=1e-10, atol=1e-12)
    assert not np.any(hessian(apply))
    # Of two layers the slope of the second is the model's own, not that of a stand-in.
    for rho in (0.5, 50.0):
        deep = straight_through(layered, rho=rho)
        np.testing.assert_allclose(
            jax.jacobian(lambda x, f=deep: f(None, x))(X),
            jax.jacobian(lambda x: layered(None, x))(X),
            rtol=1e-12,
        )


def test_the_slope_of_a_maximum_moves_by_softmax():
    bent = straight_through(lambda _, x: jnp.max(x)[None], rho=RHO)
    share = np.exp(RHO * X) / np.exp(RHO * X).sum()
    expected = RHO * (np.diag(share) - np.outer(share, share))
    mine = jax.hessian(lambda x: bent(None, x)[0])(X)
    np.testing.assert_allclose(mine, expected, rtol=1e-10, atol=1e-14)


def test_a_model_without_kinks_stays_as_it_is():
    def apply(_, x):
        return jnp.tanh(WEIGHT @ x)

    bent = straight_through(apply, rho=RHO)
    assert jnp.array_equal(bent(None, X), apply(None, X))
    with pytest.raises(ValueError, match="rho must be positive and finite, got 0"):
        straight_through(apply, rho=0)
