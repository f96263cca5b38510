"""Interval bounds against brute force over the ball, for every activation, float64."""

import doctest
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models
from r2et_jax.certificates import intervals
from r2et_jax.certificates.intervals import (
    feature_gap_bounds,
    gap_bounds,
    gradient_bounds,
    slope_bounds,
    unit_reach,
)
from r2et_jax.models import activations
from r2et_jax.models.slopes import OneHiddenLayer, slope_range

N, H, NUM_DRAWS = 6, 5, 4000
SMOOTH = sorted(set(activations.NAMES) - set(activations.PIECEWISE_LINEAR))
RNG = np.random.default_rng(3)
X = RNG.normal(size=N)
WEIGHT, BIAS = RNG.normal(size=(N, H)), RNG.normal(size=H)
OUT, SKIP = RNG.normal(size=H), RNG.normal(size=N)
INSIDE, OUTSIDE = (0, 4, 2), (1, 3, 5)


def network(name):
    return OneHiddenLayer(
        *(jnp.asarray(leaf) for leaf in (WEIGHT, BIAS, OUT, SKIP)),
        slope_range(name, rho=2.0),
    )


def ball(norm, radius, seed=0):
    """Points of the ball, most of them on its surface, and all of its corners' kind."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(NUM_DRAWS, N))
    # Along the weights pre-activations move the farthest; along a corner in l∞.
    directions[:H], directions[H : 2 * H] = WEIGHT.T, -WEIGHT.T
    if norm == "linf":
        directions[: NUM_DRAWS // 2] = np.sign(directions[: NUM_DRAWS // 2])
    order = 2 if norm == "l2" else np.inf
    lengths = np.linalg.norm(directions, ord=order, axis=1, keepdims=True)
    share = np.where(rng.uniform(size=(NUM_DRAWS, 1)) < 0.7, 1, rng.uniform())
    return X + radius * share * directions / lengths


@functools.cache
def _gradients(name):
    """∇z by automatic differentiation of the network written anew."""
    phi = activations.activation(name, rho=2.0)

    def z(x):
        return phi(x @ WEIGHT + BIAS) @ OUT + SKIP @ x

    return jax.jit(jax.vmap(jax.grad(z)))


@functools.cache
def _bounds(name, norm):
    def bounds(radius):
        net = network(name)
        reach = radius * unit_reach(net, norm=norm)
        slopes = slope_bounds(net, jnp.asarray(X), reach)
        g = _gradients(name)(jnp.asarray(X)[None])[0]
        inside = jnp.eye(N)[jnp.array(INSIDE)] * jnp.sign(g)
        outside = jnp.eye(N)[jnp.array(OUTSIDE)]
        return (
            *gradient_bounds(net, slopes),
            gap_bounds(net, slopes, inside, outside),
        )

    return jax.jit(bounds)


def sampled(name, norm, radius):
    """The extremes of gradients and of gaps over points of the ball."""
    g = np.asarray(_gradients(name)(jnp.asarray(ball(norm, radius))))
    sizes = np.abs(g)
    gaps = sizes[:, INSIDE, None] - sizes[:, None, OUTSIDE]
    return g.min(axis=0), g.max(axis=0), gaps.min(axis=0)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("norm", intervals.NORMS)
@pytest.mark.parametrize("name", activations.NAMES)
def test_no_point_of_the_ball_breaks_a_bound(name, norm):
    for radius in (0.05, 0.3, 2.0):
        low, high, gaps = _bounds(name, norm)(radius)
        least, most, smallest = sampled(name, norm, radius)
        assert np.all(low <= least + 1e-12) and np.all(high >= most - 1e-12)
        assert np.all(gaps <= smallest + 1e-12)


@pytest.mark.parametrize("name", activations.NAMES)
def test_bounds_are_the_values_at_radius_zero(name):
    low, high, gaps = _bounds(name, "l2")(0.0)
    g = np.asarray(_gradients(name)(jnp.asarray(X)[None])[0])
    np.testing.assert_allclose(low, g, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(high, g, rtol=1e-12, atol=1e-14)
    expected = np.abs(g)[INSIDE, None] - np.abs(g)[None, OUTSIDE]
    np.testing.assert_allclose(gaps, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SMOOTH)
def test_bounds_are_not_vacuous(name):
    # Units move each for itself in the bound and together in the ball: for six inputs
    # and five units the bound's fall is within three times that of the samples.
    radius = 0.02
    g = np.asarray(_gradients(name)(jnp.asarray(X)[None])[0])
    clean = np.abs(g)[INSIDE, None] - np.abs(g)[None, OUTSIDE]
    bound = clean - np.asarray(_bounds(name, "l2")(radius)[2])
    width = clean - sampled(name, "l2", radius)[2]
    assert np.all(width > 0)
    assert np.all(bound <= 3 * width)


def test_pairs_are_bounded_together_more_tightly_than_apart():
    low, high, gaps = _bounds("softplus", "l2")(0.3)
    least = np.maximum(np.maximum(low, -high), 0)[np.array(INSIDE)]
    most = np.maximum(np.abs(low), np.abs(high))[np.array(OUTSIDE)]
    apart = least[:, None] - most[None, :]
    assert np.all(np.asarray(gaps) >= apart - 1e-12)
    assert np.max(np.asarray(gaps) - apart) > 0.1


def test_a_kinked_unit_out_of_reach_of_its_kink_costs_nothing():
    margins = np.abs(X @ WEIGHT + BIAS) / np.linalg.norm(WEIGHT, axis=0)
    low, high, _ = _bounds("leaky_relu", "l2")(0.99 * margins.min())
    np.testing.assert_allclose(low, high, rtol=1e-12)
    low, high, _ = _bounds("leaky_relu", "l2")(1.01 * margins.min())
    unit = np.argmin(margins)
    np.testing.assert_allclose(
        np.asarray(high - low), 0.99 * np.abs(WEIGHT[:, unit] * OUT[unit]), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["softplus", "tanh"])
def test_derivatives_of_the_bounds_are_differences(name):
    direction = [RNG.normal(size=leaf.shape) for leaf in (WEIGHT, BIAS, OUT, SKIP)]

    def total(t):
        net = network(name)
        moved = [leaf + t * d for leaf, d in zip(net, direction, strict=False)]
        net = type(net)(*moved, net.slopes)
        reach = 0.3 * unit_reach(net)
        slopes = slope_bounds(net, jnp.asarray(X), reach)
        eye = jnp.eye(N)
        gaps = gap_bounds(net, slopes, eye[:3], eye[3:])
        return jnp.sum(jnp.sin(gaps))

    total = jax.jit(jax.value_and_grad(total))
    difference = (total(1e-6)[0] - total(-1e-6)[0]) / 2e-6
    np.testing.assert_allclose(total(0.0)[1], difference, rtol=1e-6)


def test_features_by_index_have_the_bounds_and_derivatives_of_rows():
    signs = jnp.array([1.0, -1.0, 1.0])
    features = jnp.array(INSIDE + OUTSIDE)
    inside = jnp.eye(N)[features[:3]] * signs[:, None]
    outside = jnp.eye(N)[features[3:]]

    def bounds(by_index, weight, radius, flat=1.0):
        net = network("softplus")._replace(weight=weight)
        net = net._replace(out=flat * net.out, skip=flat * net.skip)
        reach = radius * unit_reach(net)
        slopes = slope_bounds(net, jnp.asarray(X), reach)
        if by_index:
            return feature_gap_bounds(net, slopes, features, signs)
        return gap_bounds(net, slopes, inside, outside)

    weight = jnp.asarray(WEIGHT)
    mixed = jnp.cos(jnp.arange(9.0)).reshape(3, 3)
    for radius in (0.0, 0.3):
        (bounds_by_index, pull), (expected, pull_rows) = (
            jax.vjp(functools.partial(bounds, by_index, radius=radius), weight)
            for by_index in (True, False)
        )
        np.testing.assert_allclose(bounds_by_index, expected, rtol=1e-12)
        np.testing.assert_allclose(pull(mixed)[0], pull_rows(mixed)[0], atol=1e-12)
    # All sides of all pairs equal.
    zeros, pull = jax.vjp(functools.partial(bounds, True, radius=0.3, flat=0.0), weight)
    np.testing.assert_array_equal(zeros, 0)
    np.testing.assert_array_equal(pull(mixed)[0], 0)


@pytest.mark.parametrize("name", activations.NAMES)
def test_slopes_over_an_interval_are_those_of_a_fine_scan(name):
    rng = np.random.default_rng(1)
    low = 3 * rng.normal(size=40)
    high = low + rng.exponential(size=40)
    smallest, largest = slope_range(name, rho=2.0)(low, high)
    phi = activations.activation(name, rho=2.0)
    points = np.linspace(low, high, 2001)
    slopes = np.asarray(jax.vmap(jax.vmap(jax.grad(phi)))(jnp.asarray(points)))
    assert np.all(smallest <= slopes.min(axis=0) + 1e-12)
    assert np.all(largest >= slopes.max(axis=0) - 1e-12)
    np.testing.assert_allclose(smallest, slopes.min(axis=0), atol=1e-5)
    np.testing.assert_allclose(largest, slopes.max(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "at_kink"), [("relu", (0.0, 1.0)), ("leaky_relu", (0.01, 1.0))]
)
def test_a_kink_has_both_slopes(name, at_kink):
    zero = jnp.zeros(1)
    slopes = slope_range(name)(zero, zero)
    np.testing.assert_array_equal(np.ravel(slopes), at_kink)


MODELS = [
    models.MLP(hidden=(4,)),
    models.MLP(hidden=(4,), activation="softplus", rho=3.0),
    models.MLP(hidden=()),
    models.SkipMLP(hidden=(4,), activation="tanh"),
    models.SkipMLP(hidden=()),
    models.Linear(),
]


@pytest.mark.standard_promotion
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_layers_of_a_model_give_its_gradient(model):
    params = model.init(jax.random.key(0), jnp.zeros(N))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(leaf + 1), params)

    def both(params, x):
        net = model.layers(params)
        reach = 0.0 * unit_reach(net)
        slopes = slope_bounds(net, x, reach)
        g = jax.grad(lambda x: model.apply(params, x)[0])(x)
        return g, gradient_bounds(net, slopes)

    g, (low, high) = both(params, jnp.asarray(X))
    np.testing.assert_allclose(low, g, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(high, g, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("module", ["certificates.intervals", "models.slopes"])
def test_docstring_examples_run(module):
    with jax.enable_x64(False):
        imported = importlib.import_module(f"r2et_jax.{module}")
        result = doctest.testmod(imported)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.MLP(hidden=(4, 3)).layers({}), "at most one hidden .*4, 3"),
        (lambda: models.SkipMLP(num_outputs=3).layers({}), "num_outputs = 3"),
        (lambda: models.Linear(num_outputs=2).layers({}), "got num_outputs = 2"),
        (lambda: slope_range("elu"), "unknown activation 'elu'"),
        (
            lambda: unit_reach(network("tanh"), norm="l1"),
            "unknown norm 'l1'; known: l2, linf",
        ),
        (
            lambda: slope_bounds(network("tanh"), jnp.zeros((2, N)), jnp.zeros(H)),
            "x must have 1 axes",
        ),
        (
            lambda: gap_bounds(
                network("tanh"), (jnp.ones(H), jnp.ones(H)), jnp.ones(N), jnp.ones(N)
            ),
            "inside must have 2 axes",
        ),
        (
            lambda: feature_gap_bounds(
                network("tanh"), (jnp.ones(H), jnp.ones(H)), jnp.arange(2), jnp.ones(3)
            ),
            "3 signs for 2 features",
        ),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
