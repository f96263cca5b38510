"""Cells between kinks against SciPy's quadratic programs, and what an attack gains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks import cells
from r2et_jax.threat import threat_model

N, H = 5, 7
RNG = np.random.default_rng(3)
WEIGHT = RNG.normal(size=(N, H)).astype(np.float32)
BIAS = (0.3 * RNG.normal(size=H)).astype(np.float32)
X = RNG.normal(size=(6, N)).astype(np.float32) / 2


def switches(params, x):
    weight, bias = params
    return x @ weight + bias


def around(x, at=None, movable=None):
    at = x if at is None else at
    return cells.cells(switches, (WEIGHT, BIAS), x, at, movable)


def shortest(x, side):
    """By SLSQP; None where the cell is empty."""
    sign = np.where(side, 1.0, -1.0)
    level = x.astype(float) @ WEIGHT + BIAS
    margin = 1e-4 * np.linalg.norm(WEIGHT, axis=0)
    solved = optimize.minimize(
        lambda d: d @ d,
        np.zeros(N),
        jac=lambda d: 2 * d,
        constraints=[
            {
                "type": "ineq",
                "fun": lambda d: sign * (level + d @ WEIGHT) - margin,
                "jac": lambda d: (sign * WEIGHT).T,
            }
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return solved.x if solved.success else None


NEAREST = jax.jit(cells.nearest)


@pytest.mark.parametrize("i", range(len(X)))
def test_the_nearest_point_of_a_cell_is_that_of_a_quadratic_program(i):
    cell, count, quick = around(X[i]), 0, []
    for flipped in (*np.eye(H, dtype=bool), *np.roll(np.eye(H, dtype=bool), 1, 0)):
        side = (np.asarray(cell.level) >= 0) ^ flipped ^ np.eye(H, dtype=bool)[0]
        expected = shortest(X[i], side)
        if expected is None or np.linalg.norm(expected) > 1.5:
            continue
        count += 1
        delta, dual = NEAREST(cell, side, jnp.zeros(H), 1.0)
        quick.append(np.abs(delta - expected).max())
        # It goes on where it ended, and converges.
        for _ in range(40):
            delta, dual = NEAREST(cell, side, dual, 1.0)
        assert (np.asarray(dual) >= 0).all()
        np.testing.assert_allclose(delta, expected, atol=2e-3)
    assert np.median(quick) < 0.02
    assert count > 3


def test_the_own_cell_is_where_one_is():
    cell = around(X[0])
    side = cells.sides(cell, jnp.zeros(N))
    delta, dual = NEAREST(cell, side, jnp.zeros(H), 1e-3)
    np.testing.assert_array_equal(delta, 0)
    np.testing.assert_array_equal(dual, 0)


def test_what_may_not_move_has_no_part_in_a_normal():
    movable = np.arange(N) != 2
    whole, held = around(X[0]), around(X[0], movable=movable)
    np.testing.assert_array_equal(held.normals[:, 2], 0)
    np.testing.assert_array_equal(held.normals[:, movable], whole.normals[:, movable])
    np.testing.assert_allclose(held.gram, held.normals @ held.normals.T, rtol=1e-6)
    delta, _ = NEAREST(
        held, ~np.asarray(cells.sides(held, jnp.zeros(N))), 0.0 * BIAS, 1.0
    )
    assert delta[2] == 0


def test_levels_are_those_at_the_clean_input_wherever_gradients_are_taken():
    far = around(X[0], at=X[1])
    np.testing.assert_allclose(far.level, X[0] @ WEIGHT + BIAS, atol=1e-5)
    met = cells.reachable(far, 0.4)
    distance = np.abs(X[0] @ WEIGHT + BIAS) / np.linalg.norm(WEIGHT, axis=0)
    np.testing.assert_array_equal(met, distance <= 0.4)
    assert 0 < np.sum(met) < H


def test_combinations_of_kinks_are_found_that_single_crossings_miss():
    """A ReLU net of which the exact worst case is known, by all its cells."""
    weight = jnp.asarray(RNG.normal(size=(N, 10)), jnp.float32)
    params = weight, jnp.asarray(RNG.normal(size=10), jnp.float32)
    out = jnp.asarray(RNG.normal(size=10), jnp.float32)
    skip = jnp.asarray(RNG.normal(size=N), jnp.float32)

    def net(params, x, /):
        return (jax.nn.relu(switches(params, x)) @ out + skip @ x)[None]

    explain = saliency.gradient(score.log_odds(net))
    attack = attacks.evolution(net, explain, k=2)
    run = attacks.compile_attack(attack, num_steps=60, track_every=60)
    epsilon = 0.8
    attacked = run(params, X, threat_model("l2", epsilon), key=jax.random.key(0))
    worst = [exact(np.asarray(x), params, out, skip, epsilon) for x in X]
    assert np.mean(worst) < 0.8
    np.testing.assert_array_equal(attacked.best.precision, worst)


def exact(x, params, out, skip, epsilon):
    """The least P@2 over a dense sample and the cells beside each of its points."""
    weight, bias = (np.asarray(p, float) for p in params)
    out, skip = np.asarray(out, float), np.asarray(skip, float)

    def top(on):
        g = on * out @ weight.T + skip
        return {*np.argsort(-np.abs(g), kind="stable")[:2]}

    rng = np.random.default_rng(0)
    delta = rng.normal(size=(200_000, N))
    delta *= epsilon / np.linalg.norm(delta, axis=1, keepdims=True)
    delta *= rng.uniform(size=(len(delta), 1)) ** (1 / N)
    patterns = np.unique((x + delta) @ weight + bias >= 0, axis=0)
    clean = top(x @ weight + bias >= 0)
    return min(len(clean & top(on)) for on in patterns) / 2
