"""The threat model as an object: its samples, its budgets as data, its mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from r2et_jax import threat as threats
from r2et_jax.threat import threat_model
from r2et_jax.threat.definition import NORMS, with_epsilon
from r2et_jax.threat.geometry import sample_boundary

# Four numbers and a one-hot group of three; the first number is frozen.
N = 7
CLEAN = np.float32([0.2, 1.0, -0.3, 0.0, 0.5, -0.7, 0.0])
CONSTRAINTS = {
    "lower": np.array([-1.0, 0.0, -0.4, 0.0, -2.0, -1.0, 0.0]),
    "upper": np.array([1.0, 1.0, 0.9, 1.0, 2.0, 1.0, 1.0]),
    "frozen": (0,),
    "groups": [(1, 3, 6)],
    "group_rule": "simplex",
    "num_features": N,
}

project = jax.jit(threats.project)
contains = jax.jit(threats.contains)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_admissible_and_follow_their_key(norm):
    threat, clean = threat_model(norm, 0.7, **CONSTRAINTS), CLEAN

    @jax.jit
    @jax.vmap
    def draw(key):
        inner = threats.sample(threat, clean, key=key)
        border = sample_boundary(threat, clean, key=key)
        return jnp.stack([inner, border])

    keys = jax.random.split(jax.random.key(1), 200)
    points = draw(keys)
    for point in np.asarray(points[:40]).reshape(-1, N):
        assert contains(threat, clean, point)
    np.testing.assert_array_equal(draw(keys), points)
    np.testing.assert_array_equal(draw(keys[::-1]), points[::-1])
    for kind, fewest in enumerate((200, 10)):  # l∞ corners coincide
        assert len(np.unique(np.asarray(points[:, kind]), axis=0)) >= fewest


@pytest.mark.parametrize("frozen", [(), (0, 3)])
def test_samples_are_uniform_in_the_ball_of_movable_features(frozen):
    threat = threat_model("l2", 2.0, frozen=frozen, num_features=5)
    clean = jnp.arange(5.0)
    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    @jax.vmap
    def draw(key):
        inner = threats.sample(threat, clean, key=key)
        return inner - clean, sample_boundary(threat, clean, key=key) - clean

    inner, border = (np.asarray(moves) for moves in draw(keys))
    radii = np.linalg.norm(inner, axis=1) / 2
    dimension = 5 - len(frozen)
    assert scipy.stats.kstest(radii**dimension, "uniform").pvalue > 1e-3
    for moves in (inner, border):
        np.testing.assert_allclose(moves.mean(axis=0), 0, atol=0.15)
        assert np.all(moves[:, list(frozen)] == 0)
    np.testing.assert_allclose(np.linalg.norm(border, axis=1), 2, rtol=1e-5)


def test_samples_of_the_linf_ball():
    threat, clean = threat_model("linf", 0.5), jnp.ones(3)
    keys = jax.random.split(jax.random.key(0), 1000)
    moves = jax.jit(jax.vmap(lambda k: threats.sample(threat, clean, key=k)))(keys) - 1
    assert scipy.stats.kstest(np.ravel(moves) + 0.5, "uniform").pvalue > 1e-3
    corner = jax.jit(sample_boundary)(threat, clean, key=keys[0])
    np.testing.assert_allclose(np.abs(corner - 1), 0.5, rtol=1e-6)


def test_a_frozen_input_has_one_sample():
    threat = threat_model("l2", 1.0, frozen=range(3), num_features=3)
    for draw in (threats.sample, sample_boundary):
        point = jax.jit(draw)(threat, jnp.arange(3.0), key=jax.random.key(0))
        np.testing.assert_array_equal(point, np.arange(3))


# The object


def test_budgets_share_one_compiled_program():
    count = 0

    @jax.jit
    def counted(threat, perturbed, clean):
        nonlocal count
        count += 1
        return threats.project(threat, clean, perturbed)

    clean = CLEAN
    threat = threat_model("l2", 0.1, **CONSTRAINTS)
    for epsilon in (0.1, 1, 0.25, np.float32(0.5), 0.0):
        threat = with_epsilon(threat, epsilon)
        value = counted(threat, clean + 1, clean)
        assert np.linalg.norm(value - clean) <= epsilon + 1e-5
    other = threat_model("l2", 0.9, **CONSTRAINTS)
    counted(dataclasses.replace(other, lower=other.lower - 1), clean + 1, clean)
    assert count == 1
    counted(threat_model("linf", 0.9, **CONSTRAINTS), clean + 1, clean)
    assert count == 2


def test_a_grid_of_budgets_maps_in_one_call():
    clean = CLEAN
    threat = threat_model("l2", lower=-1.0, upper=1.0)

    def at_budget(epsilon):
        return threats.project(
            dataclasses.replace(threat, epsilon=epsilon), clean, clean + 2
        )

    budgets = jnp.array([0.1, 0.5, 1.0])
    points = jax.jit(jax.vmap(at_budget))(budgets)
    for epsilon, point in zip(budgets, points, strict=True):
        expected = project(with_epsilon(threat, float(epsilon)), clean, clean + 2)
        np.testing.assert_allclose(point, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threat_model("l1"), "unknown norm 'l1'; known: l2, linf"),
        (lambda: threat_model("l2", -0.5), "epsilon must be nonnegative.*-0.5"),
        (lambda: threat_model("l2", float("inf")), "epsilon must be.*inf"),
        (lambda: threat_model(penalty=-1.0), "penalty must be nonnegative.*-1.0"),
        (lambda: threat_model(group_rule="hot"), "unknown group rule 'hot'"),
        (lambda: threat_model(prediction="any"), "unknown prediction rule 'any'"),
        (lambda: with_epsilon(threat_model(), -1.0), "epsilon must be.*-1.0"),
        (lambda: threat_model(groups=[(0, 1), (1, 2)]), "must not overlap"),
        (lambda: threat_model(groups=[(0, 0)]), r"groups\[0\].*got 0 twice"),
        (lambda: threat_model(groups=[()]), "must not be empty"),
        (
            lambda: threat_model(
                groups=[(0, 1)], group_rule="simplex", frozen=[1], num_features=3
            ),
            r"\(0, 1\) is half frozen",
        ),
        (lambda: threat_model(frozen=[1]), "num_features is needed"),
        (lambda: threat_model(frozen=[3], num_features=3), r"0…2, got \[3\]"),
        (lambda: threat_model(frozen=[-1], num_features=3), r"0…2, got \[-1\]"),
        (
            lambda: threat_model(groups=[(1, 3)], group_rule="simplex", num_features=3),
            r"0…2, got \[3\]",
        ),
        (
            lambda: threat_model(groups=[(-1, 0)], group_rule="simplex"),
            r"0…n−1, got \[-1\]",
        ),
        (lambda: threat_model(lower=1.0, upper=0.0), "lower must not exceed upper"),
        (
            lambda: threat_model(lower=np.float32([0, 2]), upper=np.float32([1, 1])),
            "lower must not exceed upper",
        ),
        (lambda: threat_model(lower=float("nan"), upper=1.0), "lower must not exceed"),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
