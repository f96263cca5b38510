"""The guards of one input against models whose maps are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.audit import guards
from r2et_jax.ranking.gaps import weighted_sum
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

KEYS = jax.random.split(jax.random.key(0), 30)


def linear(w, x, /):
    return jnp.dot(w, x)[None]


def looked(form, params, x, k):
    look = guards.look(form, k=k)
    each = jax.jit(jax.vmap(lambda key: look(params, x, key=key)))
    return each(KEYS)


@pytest.mark.parametrize(
    ("weights", "tied", "positive"),
    [
        ([3.0, -2.0, 2.0, 1.0], True, 4),
        ([3.0, 3.0, -1.0, 0.0], False, 3),
        ([5.0, 0.0, 0.0, 0.0], True, 1),
        ([4.0, 3.0, 2.0, 1.0], False, 4),
    ],
)
def test_of_a_linear_model_all_is_known(weights, tied, positive):
    weights, x = np.float32(weights), np.float32([0.5, -1.0, 2.0, 1.0])
    seen = jax.tree.map(lambda leaf: leaf[0], looked(Form(linear), weights, x, k=2))
    logit = float(weights @ x)
    assert seen.predicted == (logit > 0)
    np.testing.assert_allclose(seen.score, abs(logit), rtol=1e-6)
    np.testing.assert_allclose(seen.map, abs(weights) / abs(weights).sum())
    np.testing.assert_allclose(seen.gradient, np.sign(logit) * weights)
    order = np.argsort(-abs(weights), kind="stable")[:2]
    np.testing.assert_array_equal(seen.top_k, order)
    assert bool(seen.tied) is tied and int(seen.num_positive) == positive
    assert seen.noise_precision == 1  # a linear model has one ranking


def test_noise_of_the_guard_crosses_a_kink_and_nothing_else():
    """z = 3·relu(x₀) + relu(−x₀) + x₁: beside 0 feature 0 is above feature 1 or not."""

    def kinked(w, x, /):
        slope = jnp.where(x[0] > 0, 3.0, 0.5)
        return (w * (slope * x[0] + x[1] + 0.1 * x[2]))[None]

    at = looked(Form(kinked), jnp.ones(()), np.float32([0.0, 1.0, 1.0]), k=1)
    assert {0.0, 1.0} == set(np.asarray(at.noise_precision).tolist())
    beside = looked(Form(kinked), jnp.ones(()), np.float32([1e-4, 1.0, 1.0]), k=1)
    assert (beside.noise_precision == 1).all()
    assert guards.NOISE == 1e-6


def test_a_gradient_has_vanished_where_all_that_may_move_is_flat():
    def curved(w, x, /):
        return (w @ x + 0.5 * x[0] ** 2)[None]

    weights, x = jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])
    run = jax.jit(guards.has_vanished(Form(curved), k=1))
    free = threat_model()
    frozen = threat_model("l2", 1.0, frozen=[0], num_features=2)
    assert not run(weights, x, free)
    assert run(weights, x, frozen)
    assert jax.jit(guards.has_vanished(Form(linear), k=1))(weights, x, free)
    # By hand: the mean gap's slope along x₀ is that of |g₀|/(|g₀| + |g₁|).
    gap = lambda x: weighted_sum(  # noqa: E731
        Form(curved).saliency()(weights, x, 1), jnp.array([1.0, -1.0])
    )
    assert float(jax.grad(gap)(x)[0]) > 0 == float(jax.grad(gap)(x)[1])
