"""The audit: what it says of models with known answers, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import threat
from r2et_jax.audit import audit

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])


def linear(w, x):
    return jnp.dot(w, x)[None]


def switching(w, x):
    """|∂z/∂x₀| = |w₀ x₀| against |∂z/∂x₁| = w₁: the top one changes with x₀."""
    return (0.5 * w[0] * x[0] ** 2 + w[1] * x[1])[None]


def inputs(m, n):
    return np.asarray(jax.random.normal(jax.random.key(0), (m, n)))


def test_a_linear_model_cannot_be_attacked():
    report = audit(linear, WEIGHTS, inputs(6, 4), k=2, budget=2000)
    np.testing.assert_array_equal(report.precision, 1)
    np.testing.assert_array_equal(report.top_k, np.tile([0, 1], (6, 1)))
    assert report.kept.all()
    assert report.same == 1
    assert report.vanished == 1
    assert "P@2 1.000 under attack" in str(report)


def test_the_distance_to_the_border_decides():
    x = np.array([[1.1, 0.0], [1.9, 0.0], [0.5, 0.0], [-1.2, 3.0]], np.float32)
    # |x₀| passes 1 within .3 of all but the second and the third.
    expected = [0, 1, 1, 0]
    params = jnp.array([1.0, 1.0])
    budget = threat.threat_model("l2", 0.3)
    report = audit(switching, params, x, k=1, threat=budget, budget=2000)
    np.testing.assert_array_equal(report.precision, expected)
    np.testing.assert_array_equal(report.kept[:, 0], expected)
    assert np.linalg.norm(report.perturbed - x, axis=1).max() <= 0.3 + 1e-5


@pytest.mark.parametrize(
    ("apply", "x", "k", "message"),
    [
        (linear, inputs(3, 4)[0], 2, r"inputs \[m, n\] with m ≥ 2"),
        (linear, np.full((3, 4), np.nan), 2, r"x\[0, 0\] is nan"),
        (linear, inputs(3, 4), 4, "k must lie in 1…n−1"),
        (linear, inputs(3, 5), 2, r"does not take an input of shape \(5,\)"),
        (lambda w, x: jnp.dot(w, x), inputs(3, 4), 2, "logits of shape"),
    ],
    ids=["one input", "nan", "k", "shape", "scalar"],
)
def test_mistakes_are_named(apply, x, k, message):
    with pytest.raises(ValueError, match=message):
        audit(apply, WEIGHTS, x, k=k)
