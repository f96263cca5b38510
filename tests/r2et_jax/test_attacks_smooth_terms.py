"""The smoothed gradient map and the constraints on predictions, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.attacks.descent import Context
from r2et_jax.attacks.smooth_terms import prediction_constraint, smoothed_gradient


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def cubic(params, x, target, /):
    return params @ x**3


def test_smoothed_gradient_is_near_the_magnitude_and_ranks_alike():
    params = jnp.array([0.0, 1e-4, -0.02, 1.0, -3.0]) / 3
    x, mu = jnp.ones(5), 0.01
    smooth = smoothed_gradient(cubic, mu=mu, normalize=False)
    values = smooth(params, x, 1)
    g = 3 * np.asarray(params)
    exact = np.sqrt(g**2 + mu**2) - mu
    np.testing.assert_allclose(values, exact, rtol=1e-9, atol=1e-18)
    assert (np.abs(g) - values <= mu).all() and values[0] == 0
    np.testing.assert_array_equal(np.argsort(values), np.argsort(np.abs(g)))
    normal = smoothed_gradient(cubic, mu=mu)(params, x, 1)
    np.testing.assert_allclose(normal, exact / exact.sum(), rtol=1e-9)
    # The Jacobian is g/√(g² + μ²) times the Hessian, here 6·params·x.
    jacobian = jax.jacfwd(smooth, argnums=1)(params, x, 1)
    slope = g / np.sqrt(g**2 + mu**2) * 2 * g
    np.testing.assert_allclose(jacobian, np.diag(slope), rtol=1e-9, atol=1e-15)


def context(logits):
    fields = dict.fromkeys(Context._fields)
    return Context(**{**fields, "clean_logits": jnp.asarray(logits)})


def test_constraints_by_hand():
    rule = prediction_constraint(lambda params, x: x, eta=0.1)
    assert rule("free") is None
    kept = rule("same_class")
    moved = jnp.array([1.0, 4.0, 2.5])
    assert kept(None, moved, context([0.0, 1.0, 0.5])) == -1.5
    assert kept(None, moved, context([2.0, 1.0, 0.5])) == 3.0
    # One logit z stands for [0, z].
    assert kept(None, jnp.array([-0.7]), context([2.0])) == 0.7
    assert kept(None, jnp.array([-0.7]), context([-2.0])) == -0.7
    shift = rule("penalized")(None, jnp.log(jnp.array([3.0])), context([0.0]))
    np.testing.assert_allclose(shift, np.sqrt(2) * 0.25 - 0.1, rtol=1e-12)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="mu"):
        smoothed_gradient(cubic, mu=0.0)
    with pytest.raises(ValueError, match="eta"):
        prediction_constraint(cubic, eta=-1.0)
    with pytest.raises(ValueError, match="softly"):
        prediction_constraint(cubic, eta=0.1)("softly")
