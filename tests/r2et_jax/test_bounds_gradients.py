"""Bounds of gradients of dense models: sound, shared by pairs, and not vacuous."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.bounds import Policy, ball, bound
from r2et_jax.models import MLP
from r2et_jax.score import log_odds
from tests.bounds_sampling import violation


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def gradient_of(model, x, dtype=jnp.float64):
    params = model.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    score = log_odds(model.apply)
    return lambda point: jax.grad(score, argnums=1)(params, point, 1)


def an_input(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


# Mean width over the range of samples: a bound that holds but says nothing has more.
@pytest.mark.parametrize(
    ("activation", "hidden", "most"),
    [
        ("softplus", (8,), 2.2),
        ("tanh", (8,), 2.2),
        ("relu", (8,), 1.8),
        ("leaky_relu", (8,), 1.8),
        ("softplus", (6, 5), 2.7),
        ("relu", (6, 5), 4.0),
    ],
)
@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
def test_gradients_of_dense_models(activation, hidden, most, norm):
    x = an_input(6)
    gradient = gradient_of(MLP(hidden, 1, activation), x)
    epsilon = {"l2": 0.2, "linf": 0.1}[norm]
    excess, width, seen = violation(gradient, ball(x, epsilon, norm=norm))
    assert excess <= 0
    assert width <= most * seen


def test_a_pair_is_bounded_as_one_expression():
    x = an_input(6)
    gradient = gradient_of(MLP((8,), 1, "softplus"), x)
    pairs = np.array([[0, 1], [2, 3], [4, 5]])

    @jax.jit
    def both(center):
        made = bound(gradient, ball(center, 0.2))
        weights = jnp.array([[1.0, -1.0]] * 3)
        return made.interval(), made.combined(pairs, weights).interval()

    (least, most), (low, high) = jax.tree.map(np.asarray, both(x))
    apart = (most - least)[pairs].sum(axis=1)
    assert np.all(high - low < apart)
    assert np.mean((high - low) / apart) < 0.9


def test_float32_bounds_hold_what_float64_and_float32_compute():
    x = an_input(6).astype(np.float32)
    gradient = gradient_of(MLP((12,), 1, "softplus"), x, jnp.float32)
    made = jax.jit(lambda c: bound(gradient, ball(c, 0.0)).interval())(x)
    low, high = (np.asarray(end, np.float64) for end in made)
    single = np.asarray(gradient(jnp.asarray(x)), np.float64)
    double = np.asarray(gradient_of(MLP((12,), 1, "softplus"), x)(np.float64(x)))
    for value in (single, double):
        assert np.all((low <= value) & (value <= high))
    assert np.max(high - low) < 1e-3 * np.max(np.abs(double))


def test_bounds_under_vmap_and_grad_equal_those_of_each_input():
    x = np.stack([an_input(4, seed) for seed in range(3)])
    gradient = gradient_of(MLP((5,), 1, "softplus"), x[0])

    def width(center, epsilon):
        low, high = bound(gradient, ball(center, epsilon)).interval()
        return jnp.mean(high - low)

    epsilons = jnp.array([0.1, 0.2, 0.3])
    batch = jax.jit(jax.vmap(width))(x, epsilons)
    single = [jax.jit(width)(*pair) for pair in zip(x, epsilons, strict=True)]
    np.testing.assert_allclose(batch, single, rtol=1e-12)
    slope = jax.jit(jax.grad(width, argnums=1))(x[0], 0.2)
    step = 1e-5
    rise = jax.jit(width)(x[0], 0.2 + step) - jax.jit(width)(x[0], 0.2 - step)
    np.testing.assert_allclose(slope, rise / (2 * step), rtol=1e-5)


def test_fewer_symbols_are_wider_and_still_sound():
    x = an_input(6)
    gradient = gradient_of(MLP((6, 5), 1, "softplus"), x)
    domain = ball(x, 0.2)
    widths = []
    for limit in (None, 8, 0):
        policy = Policy(max_symbols=limit)
        excess, width, _ = violation(gradient, domain, policy=policy)
        assert excess <= 0
        widths.append(width)
        made = jax.eval_shape(lambda d, p=policy: bound(gradient, d, policy=p), domain)
        assert limit is None or made.noise.shape[0] <= limit
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("slope", ["chord", "flat"])
def test_slopes_are_sound(slope):
    x = an_input(6)
    gradient = gradient_of(MLP((8,), 1, "tanh"), x)
    excess, _, _ = violation(gradient, ball(x, 0.2), policy=Policy(slope=slope))
    assert excess <= 0


def test_what_has_no_rule_is_refused_with_its_line():
    def model(x):
        return jnp.sort(x)  # the line that is named

    with pytest.raises(ValueError, match=r"'sort'.*test_bounds_gradients\.py:\d+"):
        bound(model, ball(jnp.zeros(3), 0.1))


def test_zeros_of_a_matrix_round_nothing():
    """A banded matrix costs the rounding of its band, which still covers the errors."""
    rng = np.random.default_rng(0)
    band = np.abs(np.subtract.outer(np.arange(300) // 6, np.arange(50))) < 1
    weight = (rng.standard_normal((300, 50)) * band).astype(np.float32)
    x = rng.standard_normal(300).astype(np.float32)
    made = jax.jit(
        lambda x, w: bound(lambda v: v @ w, ball(x, jnp.float32(0))).interval()
    )
    low, high = (np.asarray(end, np.float64) for end in made(x, weight))
    for seen in (x.astype(np.float64) @ weight, np.asarray(jnp.asarray(x) @ weight)):
        assert (low <= seen).all() and (seen <= high).all()
    size = np.abs(x).astype(np.float64) @ np.abs(weight)
    eps = np.finfo(np.float32).eps
    assert (high - low <= 60 * eps * size).all()
    assert (high - low >= 2 * 6 * eps * size).all()


def test_factors_of_rows_are_computed_once():
    """Not once for each row, as a compiler that sees through the choice would do."""

    def lower(epsilon):
        return bound(lambda x: x * x[::-1], ball(jnp.ones(3), epsilon)).lower()

    assert "conditional(" in jax.jit(lower).lower(0.1).compile().as_text()
