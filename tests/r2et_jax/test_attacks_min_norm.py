"""The point of least norm in a convex hull: against SciPy and brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from r2et_jax.attacks.min_norm import min_norm_weights


def shortest(vectors):
    """By SciPy, from every corner and the middle."""
    gram = vectors @ vectors.T
    m = len(vectors)
    solved = [
        minimize(
            lambda w: w @ gram @ w,
            first,
            jac=lambda w: 2 * gram @ w,
            bounds=[(0, 1)] * m,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 300},
        ).fun
        for first in (*np.eye(m), np.full(m, 1 / m))
    ]
    return np.sqrt(max(min(solved), 0))


def grid_shortest(vectors, resolution=40):
    """By brute force over the simplex: above the minimum, by at most a grid cell."""
    points = itertools.product(range(resolution + 1), repeat=len(vectors) - 1)
    inner = np.array([p for p in points if sum(p) <= resolution]) / resolution
    weights = np.concatenate([inner, 1 - inner.sum(axis=1, keepdims=True)], axis=1)
    return np.linalg.norm(weights @ vectors, axis=1).min()


def check_optimal(vectors, weights, tolerance):
    """λ on the simplex, and v_m·p ≥ ‖p‖² for all m, which only the minimum obeys."""
    assert weights.min() >= 0
    assert abs(weights.sum() - 1) < tolerance
    point = weights @ vectors
    size = max(1e-300, np.abs(vectors).max()) ** 2 * vectors.shape[1]
    assert (vectors @ point).min() >= point @ point - tolerance * size


_solve = jax.jit(min_norm_weights)
_ENTRIES = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]) | st.floats(
    -2, 2, width=32, allow_subnormal=False
)


@given(vectors=arrays(np.float64, (3, 4), elements=_ENTRIES))
def test_three_vectors_are_solved_exactly(vectors):
    with jax.enable_x64(True):
        weights = np.asarray(_solve(jnp.asarray(vectors)))
    check_optimal(vectors, weights, 1e-12)
    length = np.linalg.norm(weights @ vectors)
    assert length <= shortest(vectors) + 1e-6
    assert length <= grid_shortest(vectors) + 1e-12
    single = np.asarray(_solve(jnp.asarray(vectors, jnp.float32)), np.float64)
    check_optimal(vectors, single, 1e-6)


@given(
    vectors=arrays(np.float64, (4, 3), elements=_ENTRIES),
    twin=st.floats(-1, 2, width=32),
)
def test_four_dependent_vectors_are_solved_exactly(vectors, twin):
    # Four vectors of ℝ³, and one more on the line through two of them.
    vectors[3] = vectors[0] + twin * (vectors[1] - vectors[0])
    with jax.enable_x64(True):
        weights = np.asarray(_solve(jnp.asarray(vectors)))
    check_optimal(vectors, weights, 1e-12)
    assert np.linalg.norm(weights @ vectors) <= shortest(vectors) + 1e-6


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[3.0, 0.0]], [1.0]),
        ([[2.0, 0.0], [0.0, 1.0]], [0.2, 0.8]),
        ([[1.0, 0.0], [1.0, 1.0]], [1.0, 0.0]),
        ([[1.0, 0.0], [-3.0, 0.0]], [0.75, 0.25]),
        ([[1.0, 2.0], [0.0, 0.0]], [0.0, 1.0]),
        ([[1.0, 0.0], [2.0, 0.0], [5.0, 0.0]], [1.0, 0.0, 0.0]),
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_known_weights_at_any_scale(vectors, expected, scale):
    vectors = jnp.float32(scale) * jnp.float32(vectors)
    np.testing.assert_allclose(_solve(vectors), expected, atol=1e-6)


def test_duplicates_zeros_and_inactive_vectors():
    same = jnp.float32([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    weights = np.asarray(_solve(same))
    np.testing.assert_allclose(weights @ same, [1.0, 2.0], rtol=1e-6)
    zeros = np.asarray(_solve(jnp.zeros((3, 2))))
    assert zeros.sum() == 1 and zeros.min() >= 0
    vectors = jnp.float32([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    active = jnp.array([True, False, True])
    np.testing.assert_allclose(
        _solve(vectors, active=active), [0.2, 0.0, 0.8], atol=1e-6
    )


def test_float32_keeps_the_digits_of_nearly_parallel_vectors():
    rng = np.random.default_rng(5)
    first = rng.normal(size=20)
    vectors = np.stack([first, first + 1e-4 * rng.normal(size=20)])
    vectors = vectors.astype(np.float32)
    weights = np.asarray(_solve(jnp.asarray(vectors)), np.float64)
    exact = vectors.astype(np.float64)
    edge = exact[1] - exact[0]
    share = np.clip(-(exact[0] @ edge) / (edge @ edge), 0, 1)
    np.testing.assert_allclose(
        np.linalg.norm(weights @ exact),
        np.linalg.norm(exact[0] + share * edge),
        rtol=1e-6,
    )


@pytest.mark.parametrize("shape", [(3,), (0, 3), (7, 3)])
def test_too_many_or_no_vectors_are_refused(shape):
    with pytest.raises(ValueError, match="vectors must be"):
        min_norm_weights(jnp.zeros(shape))
