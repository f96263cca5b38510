"""Objectives that draw at random or are no part of the loss, and sums by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives
from r2et_jax.objectives import adversarial, curvature_penalties, thickness
from r2et_jax.objectives.methods import Method

N, K, M = 6, 2, 3
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(M, N)), np.array([0, 1, 1])


def apply(params, x, /):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def parameters(seed=0, num_features=N):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (num_features, 5), "b1": (5,), "w2": (5, 1)}
    return {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()}


def probability(params, x, c):
    p = 1 / (1 + jnp.exp(-apply(params, x)[0]))
    return jnp.where(c == 1, p, 1 - p)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_examples_and_terms_draw_apart():
    # One input thrice: equal draws would make the mean that of a single one.
    penalty = jax.jit(thickness.negative_thickness(apply, k=K))
    x, y = jnp.asarray(X[[0, 0, 0]]), jnp.asarray(Y[[0, 0, 0]])
    args, key = (parameters(), x, y), jax.random.key(3)
    loss = objectives.objective("vanilla", apply, k=K).loss(*args, jnp.zeros(0))
    target = int(apply(parameters(), X[0])[0] > 0)

    def expected(index):
        keys = jax.random.split(jax.random.fold_in(key, index), M)
        values = [penalty(parameters(), x[0], target, key=k) for k in keys]
        assert len({float(value) for value in values}) == M
        return np.mean(values)

    for name, index in (("mc_thickness", 0), ("wd_decoupled+mc_thickness", 1)):
        made = objectives.objective(name, apply, k=K)
        terms = jax.jit(made.loss)(*args, jnp.ones(len(made.terms)), key=key) - loss
        np.testing.assert_allclose(terms, expected(index), rtol=1e-9)


# Hutchinson.


def test_the_estimate_is_unbiased_for_the_square():
    penalty = curvature_penalties.squared_curvature(apply, num_samples=4)
    params, x = parameters(), jnp.asarray(X[0])
    keys = jax.random.split(jax.random.key(5), 4000)
    draws = jax.jit(jax.vmap(lambda key: penalty(params, x, 1, key=key)))(keys)
    dense = jax.hessian(probability, argnums=1)(params, x, 1)
    error = np.std(draws) / np.sqrt(len(draws))
    assert error < 0.02 * np.sum(np.square(dense))
    assert abs(np.mean(draws) - np.sum(np.square(dense))) < 3 * error


def test_the_estimate_is_exact_for_one_feature():
    params = parameters(num_features=1)
    penalty = curvature_penalties.squared_curvature(apply)
    x = jnp.asarray(X[0][:1])
    estimate = penalty(params, x, 1, key=jax.random.key(0))
    expected = jax.hessian(probability, argnums=1)(params, x, 1)[0, 0] ** 2
    np.testing.assert_allclose(estimate, expected, rtol=1e-10)


# Thickness.


@functools.cache
def maps():
    def map_of(params, x):
        g = jnp.abs(jax.grad(lambda x: apply(params, x)[0])(x))
        return g / jnp.sum(g)

    return jax.jit(jax.vmap(map_of, (None, 0)))


KEYWORDS = {"num_draws": 4, "num_points": 3, "sigma": 0.7}


def by_hand(params, ranked, step):
    """−mean step(h_ij) over pairs and points, with the ranking of the map `ranked`."""
    points = thickness.segment_points(
        jnp.asarray(X[0]), key=jax.random.key(6), **KEYWORDS
    )
    order = np.argsort(-np.asarray(ranked))
    values = np.asarray(maps()(params, points))
    gaps = values[:, order[:K], None] - values[:, None, order[K:]]
    return -np.mean(step(gaps))


@pytest.mark.parametrize("reference", [None, 1])
def test_thickness_tends_to_that_of_the_indicator(reference):
    params = parameters()
    ranks = params if reference is None else parameters(reference)
    ranked = maps()(ranks, jnp.asarray(X[:1]))[0]
    expected = by_hand(params, ranked, lambda gaps: gaps >= 0)
    assert -1 < expected < -0.1

    def penalty(temperature):
        fn = thickness.negative_thickness(
            apply, k=K, temperature=temperature, **KEYWORDS
        )
        kept = None if reference is None else ranks
        return fn(params, jnp.asarray(X[0]), 1, reference=kept, key=jax.random.key(6))

    np.testing.assert_allclose(penalty(1e-7), expected, atol=1e-6)
    assert abs(penalty(1.0) - expected) > 1e-3


def test_thickness_and_its_derivative_are_those_of_the_definition():
    params, direction = parameters(), parameters(2)
    ranked = maps()(params, jnp.asarray(X[:1]))[0]
    penalty = thickness.negative_thickness(apply, k=K, temperature=0.4, **KEYWORDS)

    def loss(params):
        return penalty(params, jnp.asarray(X[0]), 1, key=jax.random.key(6))

    value, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (direction,)))(params)
    reverse = jax.jit(jax.grad(loss))(params)
    reverse = sum(np.vdot(reverse[name], direction[name]) for name in direction)

    def expected(t):
        moved = {name: leaf + t * direction[name] for name, leaf in params.items()}
        return by_hand(moved, ranked, lambda h: 1 / (1 + np.exp(-h * N / 0.4)))

    np.testing.assert_allclose(value, expected(0.0), rtol=1e-10)
    difference = (expected(1e-6) - expected(-1e-6)) / 2e-6
    assert abs(difference) > 1e-3
    np.testing.assert_allclose([slope, reverse], difference, rtol=1e-6)


def test_points_lie_on_segments_one_in_each_part():
    x = jnp.asarray(X[0])
    points = thickness.segment_points(
        x, num_draws=500, num_points=4, sigma=0.5, key=jax.random.key(0)
    )
    offsets = np.asarray(points - x).reshape(500, 4, N)
    # On a line from x: all points of a draw share a direction, further out in turn.
    lengths = np.linalg.norm(offsets, axis=-1)
    directions = offsets / lengths[..., None]
    np.testing.assert_allclose(directions, directions[:, :1].repeat(4, 1), atol=1e-9)
    assert np.all(np.diff(lengths, axis=1) > 0)
    # E t² σ² over the four parts.
    edges = np.arange(5) / 4
    seconds = np.diff(edges**3) / 3 * 4
    np.testing.assert_allclose(
        np.mean(offsets**2, axis=(0, 2)), 0.25 * seconds, rtol=0.15
    )


# The random start.


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
def test_the_attack_starts_at_its_length_and_stays_in_the_ball(start):
    def find(num_steps, key, step_size=0.6):
        inner = adversarial.InnerAttack(apply, 0.8, num_steps, step_size, start)
        fn = adversarial.perturbation(adversarial.goals.mean_gap(), inner, k=K)
        return fn(parameters(), jnp.arange(6.0), jnp.asarray(X[0]), 1, key=key)

    key = None if start == 0 else jax.random.key(1)
    barely = find(1, key, 1e-9)
    np.testing.assert_allclose(np.linalg.norm(barely), 0.8 * start, atol=1e-8)
    assert np.linalg.norm(find(3, key)) <= 0.8 * (1 + 1e-12)
    if start:
        assert np.linalg.norm(find(1, jax.random.key(2), 1e-9) - barely) > 0.01
        with pytest.raises(ValueError, match="a random start needs a key"):
            find(1, None)


# By name.


def test_decoupled_weight_decay_is_no_part_of_the_loss():
    made = objectives.objective("r2et_nh+wd_decoupled", apply, k=K)
    assert made.terms == ("gap", "decay")
    assert float(made.decay(jnp.array([3.0, 7.0]))) == 7.0
    plain = objectives.objective("r2et_nh", apply, k=K)
    assert plain.decay is None
    data = parameters(), jnp.asarray(X), jnp.asarray(Y)
    weights = jnp.array([3.0, 7.0])
    assert made.loss(*data, weights) == plain.loss(*data, weights[:1])


def test_sums_say_which_model_they_need():
    method = objectives.method("skip+cert_rank")
    assert method[1:] == Method("", ("certified_gap",), smooth=True, skip=True)[1:]
    assert objectives.method("skip")[1:] == Method("", skip=True)[1:]
    assert not objectives.method("wd_decoupled+r2et_nh").skip
    with pytest.raises(ValueError, match="penalty twice"):
        objectives.method("wd_decoupled+wd_decoupled")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: thickness.negative_thickness(apply, k=K, num_draws=0), "num_draws"),
        (lambda: thickness.negative_thickness(apply, k=K, num_points=0), "num_points"),
        (lambda: thickness.negative_thickness(apply, k=K, sigma=0.0), "sigma must"),
        (
            lambda: thickness.negative_thickness(apply, k=K, temperature=-1.0),
            "temperature must be positive",
        ),
        (lambda: curvature_penalties.squared_curvature(apply, num_samples=0), "sampl"),
        (
            lambda: adversarial.perturbation(
                adversarial.goals.mean_gap(),
                adversarial.InnerAttack(apply, start=1.5),
                k=K,
            ),
            "start must be at most 1, the radius, got 1.5",
        ),
    ],
)
def test_static_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
