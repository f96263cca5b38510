"""Bounds on thickness: sound over many draws, tight, and where the published one fails.

Everything in float64: the bounds meet what they bound.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from r2et_jax import models, ranking, score
from r2et_jax.certificates.row_curvature import row_curvature
from r2et_jax.models import activations
from r2et_jax.models.bends import bend_range
from r2et_jax.ranking.thickness_bounds import RowNorms, row_norms

N, K, HIDDEN = 6, 2, 5
MODEL = models.SkipMLP(hidden=(HIDDEN,), activation="softplus", rho=3.0)
SCORE = score.logit(MODEL.apply)
BENDS = bend_range("softplus", rho=3.0)
ROWS = row_curvature(MODEL.apply, MODEL.layers, BENDS, k=K)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def network(seed, scale=1.5):
    """Parameters with biases and a linear part, and an input."""
    rng = np.random.default_rng(seed)
    start = jnp.zeros(N, jnp.float32)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), start)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape)), shapes)
    return jax.tree.map(lambda w: scale * w / np.sqrt(len(w)), params), rng


@functools.cache
def programs():
    gradient = jax.grad(SCORE, argnums=1)
    return {
        "bounds": jax.jit(ROWS),
        "gradients": jax.jit(jax.vmap(gradient, (None, 0, None))),
        "hessians": jax.jit(jax.vmap(jax.hessian(SCORE, argnums=1), (None, 0, None))),
    }


def gaps_along(params, x, ends, *, num_points):
    """Mean over each segment [D, K, N − K] of the gaps, and of their being ≥ 0."""
    times = (np.arange(num_points) + 0.5) / num_points
    points = x + times[None, :, None] * (ends - x)[:, None, :]
    maps = programs()["gradients"](params, points.reshape(-1, N), 1)
    order = np.argsort(-np.abs(programs()["gradients"](params, x[None], 1)[0]))
    maps = np.abs(maps)[:, order].reshape(len(ends), num_points, N)
    gaps = maps[..., :K, None] - maps[..., None, K:]
    return gaps.mean(1), (gaps >= 0).mean(1)


def ball(rng, x, epsilon, count):
    """Ends in the ball, half of them on its boundary."""
    d = rng.normal(size=(count, N))
    radius = np.where(np.arange(count) % 2, 1, rng.uniform(size=count) ** (1 / N))
    return x + epsilon * radius[:, None] * d / np.linalg.norm(d, axis=1, keepdims=True)


@pytest.mark.parametrize("epsilon", [0.02, 0.3, 1.5])
def test_what_is_bounded_stays_inside(epsilon):
    close = 0
    for seed in range(4):
        params, rng = network(seed)
        x = rng.normal(size=N)
        g, norms = programs()["bounds"](params, x, epsilon)
        at_input = programs()["bounds"](params, x, 0.0)[1]
        ends = ball(rng, x, epsilon, 500)
        # Of every single draw, and so of every distribution in the ball.
        gaps, shares = gaps_along(params, x, ends, num_points=40)
        bounds = ranking.gap_bounds(g, norms, k=K, epsilon=epsilon)
        assert np.all(bounds.lower <= gaps.min(0) + 1e-9)
        assert np.all(bounds.upper >= gaps.max(0) - 1e-9)
        published = ranking.published_gap_bounds(
            g, norms, at_input, k=K, epsilon=epsilon
        )
        assert np.all(published.upper >= bounds.upper)
        thick = ranking.thickness_bound(g, norms, k=K, epsilon=epsilon)
        # A share of 40 points is that of the segment up to half a point.
        assert np.all(thick <= shares.min(0) + 0.5 / 40)
        close += np.mean(thick > 0.9 * shares.min(0))
    assert close > 4 * {0.02: 0.9, 0.3: 0.2, 1.5: 0.0}[epsilon] - 1e-9


def test_bounds_of_rows_hold_over_the_ball_and_are_exact_at_its_centre():
    for seed in range(3):
        params, rng = network(seed)
        x = rng.normal(size=N)
        g, at_input = programs()["bounds"](params, x, 0.0)
        np.testing.assert_allclose(
            g, programs()["gradients"](params, x[None], 1)[0], rtol=1e-12
        )
        dense = programs()["hessians"](params, x[None], 1)[0]
        expected = row_norms(dense, g, k=K)
        for bounds, value in zip(at_input, expected, strict=True):
            np.testing.assert_allclose(bounds, value, rtol=1e-9)
        for epsilon in (0.1, 1.0):
            norms = programs()["bounds"](params, x, epsilon)[1]
            points = ball(rng, x, epsilon, 40)
            inside = [
                row_norms(h, g, k=K) for h in programs()["hessians"](params, points, 1)
            ]
            for i, bounds in enumerate(norms):
                most = np.max([sampled[i] for sampled in inside], axis=0)
                assert np.all(bounds >= most * (1 - 1e-12))
                # Not vacuous: the small ball's bound is close to what is attained.
                if epsilon == 0.1:
                    assert np.median(bounds / most) < 1.5


def test_bounds_are_tight_as_the_ball_shrinks():
    """Toward the worst direction the gap falls as the lower bound does."""
    params, rng = network(1)
    x = rng.normal(size=N)
    g = np.asarray(programs()["gradients"](params, x[None], 1)[0])
    h = np.asarray(programs()["hessians"](params, x[None], 1)[0])
    order = np.argsort(-np.abs(g))
    sign = np.sign(g)
    tight = []
    for epsilon in (1e-1, 1e-2, 1e-3):
        _, norms = programs()["bounds"](params, x, epsilon)
        bounds = ranking.gap_bounds(g, norms, k=K, epsilon=epsilon)
        ratios = []
        for a, i in enumerate(order[:K]):
            for b, j in enumerate(order[K:]):
                down = sign[j] * h[j] - sign[i] * h[i]
                up = sign[i] * h[i] - sign[j] * h[j]
                here = np.abs(g[i]) - np.abs(g[j])
                end = x + epsilon * down / np.linalg.norm(down)
                gap = gaps_along(params, x, end[None], num_points=40)[0][0, a, b]
                if norms.differences[a, b] > norms.sums[a, b] and sign[i] == sign[j]:
                    ratios.append((here - gap) / (here - bounds.lower[a, b]))
                if sign[i] != sign[j] and norms.sums[a, b] > norms.differences[a, b]:
                    ratios.append((here - gap) / (here - bounds.lower[a, b]))
                end = x + epsilon * up / np.linalg.norm(up)
                gap = gaps_along(params, x, end[None], num_points=40)[0][0, a, b]
                assert gap <= bounds.upper[a, b]
        assert ratios and max(ratios) <= 1 + 1e-9
        tight.append(min(ratios))
    assert tight[-1] > 0.99 and tight == sorted(tight)


def quadratic(smaller):
    """A score with g = (2 + u, smaller + u), u = x₀ + x₁: both rows of H are (1, 1)."""

    def of(params, x, target):
        del params, target
        return 0.5 * (x[0] + x[1]) ** 2 + 2 * x[0] + smaller * x[1]

    return of


def worst_mean(score, epsilon):
    """The mean gap h₀₁ from 0 to the end of the ball at which u is smallest."""
    worst = -epsilon * jnp.ones(2) / jnp.sqrt(2.0)

    @jax.jit
    def gap(t):
        values = jnp.abs(jax.grad(score, 1)(None, t * worst, 0))
        return values[0] - values[1]

    return integrate.quad(gap, 0, 1)[0]


def test_the_published_lower_bound_carries_the_signs():
    """g = (2 + u, −1 + u): the rows of H are equal, yet the gap falls by 2u."""
    score, x, epsilon = quadratic(-1.0), jnp.zeros(2), 0.5
    g, h = jax.grad(score, 1)(None, x, 0), jax.hessian(score, 1)(None, x, 0)
    norms = row_norms(h, g, k=1)  # the same at every input
    published = ranking.published_gap_bounds(g, norms, norms, k=1, epsilon=epsilon)
    corrected = ranking.gap_bounds(g, norms, k=1, epsilon=epsilon)
    np.testing.assert_allclose(worst_mean(score, epsilon), published.lower, rtol=1e-9)
    np.testing.assert_allclose(corrected.lower, published.lower, rtol=1e-12)
    # Far enough, the order turns where the bound on the thickness says.
    share = ranking.thickness_bound(g, norms, k=1, epsilon=4.0)[0, 0]
    worst = -share * 4 * jnp.ones(2) / jnp.sqrt(2.0)
    values = jnp.abs(jax.grad(score, 1)(None, worst, 0))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_published_slope_is_that_of_the_gap(seed):
    """‖∇h_ij‖ of the saliency itself, signs of all kinds and one of zero."""
    rng = np.random.default_rng(seed)
    h, g = rng.normal(size=(6, 6)), rng.normal(size=6)
    h, g[4] = h + h.T, 0.0
    if seed == 2:
        g[1] = 0.0
    order = np.argsort(-np.abs(g), kind="stable")
    # JAX's derivative of |·| at 0 is 1; a saliency of zero has no slope.
    saliency = jax.jacobian(lambda x: jnp.abs(jnp.asarray(g) + jnp.asarray(h) @ x))
    slopes = np.where(g[:, None] == 0, 0.0, saliency(jnp.zeros(6)))
    norms = row_norms(jnp.asarray(h), jnp.asarray(g), k=2)
    bounds = ranking.published_gap_bounds(
        jnp.asarray(g), norms, norms, k=2, epsilon=0.5
    )
    for a, i in enumerate(order[:2]):
        for b, j in enumerate(order[2:]):
            gap = np.abs(g[i]) - np.abs(g[j])
            expected = gap - 0.25 * np.linalg.norm(slopes[i] - slopes[j])
            np.testing.assert_allclose(bounds.lower[a, b], expected, rtol=1e-12)


def test_the_published_lower_bound_fails_where_a_sign_changes():
    """g = (2 + u, .1 + u): while g₁ > 0 the gap stays, then it falls by 2u."""
    score, x, epsilon = quadratic(0.1), jnp.zeros(2), 0.5
    g, h = jax.grad(score, 1)(None, x, 0), jax.hessian(score, 1)(None, x, 0)
    norms = row_norms(h, g, k=1)
    published = ranking.published_gap_bounds(g, norms, norms, k=1, epsilon=epsilon)
    corrected = ranking.gap_bounds(g, norms, k=1, epsilon=epsilon)
    mean = worst_mean(score, epsilon)
    np.testing.assert_allclose(published.lower, 1.9)
    assert corrected.lower[0, 0] <= mean < published.lower[0, 0] - 0.4


def test_the_published_lower_bound_fails_where_the_curvature_grows():
    """s = x₀³/3 + 3x₀ + 2x₁ is flat at 0; the gap 1 + x₀² of x₁ grows away from it."""

    def cubic(params, x, target):
        del params, target
        return -(x[0] ** 3) / 3 + 3 * x[0] + 2 * x[1]

    x, epsilon = jnp.zeros(2), 0.9
    g, at_input = jax.grad(cubic, 1)(None, x, 0), jax.hessian(cubic, 1)(None, x, 0)
    end = jnp.array([epsilon, 0.0])
    mean = 1 - epsilon**2 / 3
    at_input = row_norms(at_input, g, k=1)
    over_ball = row_norms(jax.hessian(cubic, 1)(None, end, 0), g, k=1)
    published = ranking.published_gap_bounds(
        g, over_ball, at_input, k=1, epsilon=epsilon
    )
    corrected = ranking.gap_bounds(g, over_ball, k=1, epsilon=epsilon)
    assert corrected.lower[0, 0] <= mean < published.lower[0, 0] - 0.2


def test_a_linear_score_is_as_thick_as_may_be():
    g, norms = (
        jnp.array([3.0, -1.0, 2.0]),
        row_norms(jnp.zeros((3, 3)), jnp.array([3.0, -1.0, 2.0]), k=1),
    )
    bounds = ranking.gap_bounds(g, norms, k=1, epsilon=9.0)
    np.testing.assert_array_equal(bounds.lower, bounds.upper)
    assert np.all(ranking.thickness_bound(g, norms, k=1, epsilon=9.0) == 1)


@given(st.floats(0, 2), st.floats(0.01, 2), st.integers(0, 5))
def test_more_curvature_or_a_larger_ball_never_tighten(epsilon, more, seed):
    rng = np.random.default_rng(seed)
    g, h = rng.normal(size=4), rng.normal(size=(4, 4))
    norms = row_norms(jnp.asarray(h + h.T), jnp.asarray(g), k=2)
    wider = RowNorms(*((1 + more) * v for v in norms))
    tight = ranking.gap_bounds(g, norms, k=2, epsilon=epsilon)
    loose = ranking.gap_bounds(g, wider, k=2, epsilon=epsilon)
    assert np.all(loose.lower <= tight.lower) and np.all(loose.upper >= tight.upper)
    share = functools.partial(ranking.thickness_bound, g, norms, k=2)
    assert np.all(share(epsilon=epsilon + more) <= share(epsilon=epsilon))
    assert np.all((share(epsilon=epsilon) >= 0) & (share(epsilon=epsilon) <= 1))


@pytest.mark.parametrize("name", ["softplus", "leaky_softplus"])
def test_the_range_of_the_bend_is_that_of_the_activation(name):
    rng = np.random.default_rng(0)
    low = rng.normal(size=40)
    high = low + rng.exponential(size=40)
    bends = bend_range(name, rho=3.0)
    smallest, largest = bends(low, high)
    phi = activations.activation(name, rho=3.0)
    second = jax.vmap(jax.vmap(jax.grad(jax.grad(phi))))
    values = second(jnp.asarray(np.linspace(low, high, 2001, axis=1)))
    np.testing.assert_allclose(smallest, values.min(1), rtol=1e-9)
    np.testing.assert_allclose(largest, values.max(1), rtol=1e-4)
    assert np.all(largest >= values.max(1) * (1 - 1e-12))


def test_mistakes_are_named():
    g = jnp.ones(3)
    norms = row_norms(jnp.eye(3), g, k=1)
    with pytest.raises(ValueError, match=r"differences must have the shape \(2, 1\)"):
        ranking.gap_bounds(g, norms, k=2, epsilon=1.0)
    with pytest.raises(ValueError, match="k must"):
        ranking.thickness_bound(g, norms, k=3, epsilon=1.0)
    with pytest.raises(ValueError, match="bounded bend 'relu'"):
        bend_range("relu")


@pytest.mark.standard_promotion
def test_bounds_of_another_model_are_refused_when_traced():
    square = models.MLP(hidden=(N,), activation="softplus", rho=3.0)
    params = square.init(jax.random.key(0), jnp.zeros(N))
    x = jnp.ones(N)

    def rows(layers=square.layers, rho=3.0):
        bends = bend_range("softplus", rho=rho)
        run = row_curvature(square.apply, layers, bends, k=K)
        return jax.jit(run)(params, x, 0.1)

    assert np.all(np.isfinite(rows()[0]))
    wrong = square.clone(rho=5.0).layers
    for layers in (wrong, lambda p: square.layers(p)._replace(
        weight=square.layers(p).weight.T
    )):  # fmt: skip
        with pytest.raises(ValueError, match="layers must give"):
            rows(layers)
    for rho in (1.0, 5.0):
        with pytest.raises(ValueError, match="bends must give the range"):
            rows(rho=rho)
