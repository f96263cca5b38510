"""The dual of multi-objective descent against general solvers, and its certificate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from r2et_jax.attacks.separated_dual import minimize_on_simplices

N = 6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def by_slsqp(gram, linear, groups):
    """min ½ αᵀQα + pᵀα by a general solver; groups are lists of indices."""
    start = np.zeros(len(linear))
    for group in groups:
        start[group] = 1 / len(group)
    solved = optimize.minimize(
        lambda a: 0.5 * a @ gram @ a + linear @ a,
        start,
        jac=lambda a: gram @ a + linear,
        bounds=[(0, 1)] * len(linear),
        constraints=[
            {"type": "eq", "fun": lambda a, g=g: a[g].sum() - 1} for g in groups
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return solved.fun


@functools.lru_cache
def solver(num_blocks, **keywords):
    return jax.jit(
        functools.partial(minimize_on_simplices, num_blocks=num_blocks, **keywords)
    )


def solve(gram, linear, blocks, **keywords):
    run = solver(int(max(blocks)) + 1, **keywords)
    dual = run(jnp.asarray(gram), jnp.asarray(linear), jnp.asarray(blocks))
    return jax.tree.map(np.asarray, dual)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keywords", [{}, {"max_newton_steps": 0, "max_steps": 50_000}])
def test_separated_dual_is_that_of_all_pairs(seed, keywords):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(N, N)) + 2 * (seed % 2)
    inside, outside = [1, 4], [0, 2, 3, 5]
    pairs = np.stack([gradients[i] - gradients[j] for i in inside for j in outside])
    expected = by_slsqp(pairs @ pairs.T, np.zeros(len(pairs)), [range(len(pairs))])
    blocks = np.array([1, 0, 1, 1, 0, 1])
    rows = np.where(blocks == 0, 1, -1)[:, None] * gradients
    dual = solve(rows @ rows.T, np.zeros(N), blocks, gap_share=1e-9, **keywords)
    assert dual.converged
    np.testing.assert_allclose(dual.value, expected, atol=1e-7)
    np.testing.assert_allclose(
        np.bincount(blocks, dual.weights), np.ones(2), rtol=1e-12
    )
    assert (dual.weights >= 0).all()
    vector = dual.weights @ rows
    np.testing.assert_allclose(0.5 * vector @ vector, dual.value, rtol=1e-9)


@pytest.mark.parametrize("newton, steps", [(0, 3), (2, 4)])
def test_gap_bounds_the_distance_to_the_minimum(newton, steps):
    blocks = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    groups = [[0, 1, 2], [3, 4, 5], [6, 7]]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(8, 1 + seed % 8))
        linear = rng.normal(size=8)
        best = by_slsqp(rows @ rows.T, linear, groups)
        for scale in (1e-3, 1.0, 1e4):
            dual = solve(
                scale * rows @ rows.T,
                scale * linear,
                blocks,
                max_newton_steps=newton,
                max_steps=steps,
            )
            value, gap = dual.value / scale, dual.gap / scale
            assert value - gap <= best + 1e-7
            assert value >= best - 1e-7
            assert dual.num_newton_steps <= newton and dual.num_steps <= steps


def test_dual_of_degenerate_gradients():
    blocks = np.array([0, 0, 1, 1])
    zero = solve(np.zeros((4, 4)), np.zeros(4), blocks)
    assert zero.converged and zero.value == zero.gap == 0
    # Two segments that cross: the hulls meet, at 0.
    rows = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    dual = solve(rows @ rows.T, np.zeros(4), blocks, tolerance=1e-7)
    assert dual.converged and np.linalg.norm(dual.weights @ rows) <= 1e-7
    # Duplicates: a singular matrix.
    rows = np.array([[1.0, 2], [1, 2], [3, 0], [3, 0]])
    dual = solve(rows @ rows.T, np.zeros(4), blocks)
    np.testing.assert_allclose(dual.weights @ rows, [4, 2], rtol=1e-9)


def test_dual_in_float32():
    rng = np.random.default_rng(0)
    rows = (1e-6 * rng.normal(size=(28, 32))).astype(np.float32)
    blocks = np.array([0] * 8 + [1] * 20)
    dual = solve(rows @ rows.T, np.zeros(28, np.float32), blocks)
    double = rows.astype(np.float64)
    exact = solve(double @ double.T, np.zeros(28), blocks, gap_share=1e-9)
    assert dual.value.dtype == np.float32 and dual.converged
    assert dual.num_newton_steps < 15 and dual.num_steps == 0
    np.testing.assert_allclose(dual.value, exact.value, rtol=2e-3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="gap_share"):
        solve(np.eye(2), np.zeros(2), np.array([0, 1]), gap_share=1.0)
    with pytest.raises(ValueError, match="gram"):
        solve(np.eye(3), np.zeros(2), np.array([0, 1]))
    with pytest.raises(ValueError, match="max_steps"):
        solve(np.eye(2), np.zeros(2), np.array([0, 1]), max_steps=-1)
