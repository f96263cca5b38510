"""Projections against quadratic programs of SciPy, and membership."""

import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import threat as threats
from r2et_jax.threat import definition, threat_model
from r2et_jax.threat.definition import NORMS
from r2et_jax.threat.geometry import project_bounded_simplex

# Four numbers and a one-hot group of three.
N = 7
GROUP = (1, 3, 6)
LOWER = np.array([-1.0, 0.0, -0.4, 0.0, -2.0, -1.0, 0.0])
UPPER = np.array([1.0, 1.0, 0.9, 1.0, 2.0, 1.0, 1.0])
FROZEN = (0, 5)

project = jax.jit(threats.project)
contains = jax.jit(threats.contains)

PARTS = {
    "box": {"lower": LOWER, "upper": UPPER},
    "frozen": {"frozen": FROZEN},
    "simplex": {"groups": [GROUP], "group_rule": "simplex"},
}
NAMES = [
    "+".join([norm, *parts])
    for norm in NORMS
    for size in range(len(PARTS) + 1)
    for parts in itertools.combinations(PARTS, size)
]
every_threat = pytest.mark.parametrize("name", NAMES)


def make(name, epsilon=1.0):
    norm, *parts = name.split("+")
    options = {key: value for part in parts for key, value in PARTS[part].items()}
    return threat_model(norm, epsilon, num_features=N, **options)


def clean_input(seed):
    """Numbers inside of the box, and a one-hot group."""
    rng = np.random.default_rng(seed)
    clean = rng.uniform(LOWER, UPPER)
    clean[list(GROUP)] = np.eye(3)[rng.integers(3)]
    return clean


def quadratic_program(target, start, low, high, *, ball=None, groups=()):
    """The nearest point to target with bounds, an l2 ball and group sums, by SLSQP.

    A line search that stalls at the optimum is no failure here: a wrong result would
    not agree with the projection.
    """
    constraints = [
        {
            "type": "eq",
            "fun": lambda z, group=list(group), total=total: np.sum(z[group]) - total,
            "jac": lambda z, group=group: np.isin(np.arange(z.size), group) * 1.0,
        }
        for group, total in groups
    ]
    if ball is not None:
        center, radius = ball
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda z: radius**2 - np.sum((z - center) ** 2),
                "jac": lambda z: -2 * (z - center),
            }
        )
    return scipy.optimize.minimize(
        lambda z: 0.5 * np.sum((z - target) ** 2),
        start,
        jac=lambda z: z - target,
        bounds=scipy.optimize.Bounds(low, high),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    ).x


def limits_by_hand(name, clean, epsilon):
    norm, *parts = name.split("+")
    low, high = np.full(N, -np.inf), np.full(N, np.inf)
    if "box" in parts:
        low, high = LOWER.copy(), UPPER.copy()
    if "simplex" in parts:
        low[list(GROUP)] = np.maximum(low[list(GROUP)], 0)
    if norm == "linf":
        low, high = np.maximum(low, clean - epsilon), np.minimum(high, clean + epsilon)
    if "frozen" in parts:
        low[list(FROZEN)] = high[list(FROZEN)] = clean[list(FROZEN)]
    return low, high


def nearest_by_hand(name, clean, proposed, epsilon):
    low, high = limits_by_hand(name, clean, epsilon)
    ball = (clean, epsilon) if name.startswith("l2") else None
    groups = [(GROUP, 1.0)] if "simplex" in name else []
    return quadratic_program(proposed, clean, low, high, ball=ball, groups=groups)


def excess_by_hand(name, clean, point, epsilon):
    """By how much a point breaks its worst constraint."""
    low, high = limits_by_hand(name, clean, epsilon)
    excess = [np.max(low - point), np.max(point - high)]
    if name.startswith("l2"):
        excess.append(np.linalg.norm(point - clean) - epsilon)
    if "simplex" in name:
        excess.append(abs(point[list(GROUP)].sum() - 1))
    return max(excess)


def test_docstring_examples_run():
    result = doctest.testmod(definition)
    assert result.attempted > 0 and result.failed == 0


# Projection


@every_threat
def test_projection_equals_a_quadratic_program(name):
    rng = np.random.default_rng(0)
    for seed, epsilon in enumerate([0.15, 0.6, 1.2, 5.0]):
        clean = clean_input(seed)
        # near, at the border, and far away
        proposed = clean + rng.normal(size=N) * [0.1, 0.5, 2.0, 3.0][seed]
        with jax.enable_x64(True):
            threat = make(name, epsilon)
            value = project(threat, jnp.asarray(clean), jnp.asarray(proposed))
            assert value.dtype == jnp.float64
            value = np.asarray(value)
        assert excess_by_hand(name, clean, value, epsilon) <= 1e-9
        expected = nearest_by_hand(name, clean, proposed, epsilon)
        np.testing.assert_allclose(value, expected, atol=1e-5)
        # SLSQP stops early: the projection must not be farther away.
        gap = np.linalg.norm(value - proposed) - np.linalg.norm(expected - proposed)
        assert gap <= 1e-7


@every_threat
@given(seed=st.integers(0, 10**6), size=st.floats(-3, 4), epsilon=st.floats(0, 3))
def test_projection_is_admissible_and_idempotent_in_float32(name, seed, size, epsilon):
    threat = make(name, epsilon)
    rng = np.random.default_rng(seed)
    clean = np.float32(clean_input(seed))
    proposed = clean + np.float32(rng.normal(size=N) * 10**size)
    value = project(threat, clean, proposed)
    assert value.dtype == jnp.float32
    assert contains(threat, clean, value)
    wide = np.float64(clean), np.float64(value)
    assert excess_by_hand(name, *wide, epsilon) <= 1e-5
    again = project(threat, clean, value)
    np.testing.assert_allclose(again, value, atol=2e-6)


@every_threat
def test_an_admissible_input_is_not_moved(name):
    threat = make(name, 0.8)
    for seed in range(5):
        clean = np.float32(clean_input(seed))
        noise = np.float32(np.random.default_rng(seed).normal(size=N))
        border = np.asarray(project(threat, clean, clean + noise))
        inside = clean + np.float32(0.9) * (border - clean)
        tolerance = 2e-7 if "simplex" in name else 0
        value = project(threat, clean, inside)
        np.testing.assert_allclose(value, inside, atol=tolerance)
        np.testing.assert_array_equal(project(threat, clean, clean), clean)


@every_threat
def test_a_budget_of_zero_admits_the_clean_input_alone(name):
    clean = np.float32(clean_input(3))
    threat = make(name, 0.0)
    np.testing.assert_array_equal(project(threat, clean, clean + 1), clean)
    assert contains(threat, clean, clean)
    assert not contains(threat, clean, clean + np.float32(1e-3))


def test_the_ball_alone_keeps_tiny_and_huge_moves():
    clean = np.zeros(3, np.float32)
    direction = np.float32([1.0, 2.0, 2.0])  # of norm 3
    for scale in (1e-25, 1e-3, 1e12):
        for epsilon in (1e-24, 1e-6, 10.0):
            value = project(threat_model("l2", epsilon), clean, direction * scale)
            factor = min(scale, epsilon / 3)
            np.testing.assert_allclose(value, direction * factor, rtol=1e-5)


def test_projection_onto_the_box_and_the_ball_from_far_away():
    # The share of the way that stays in the ball is 1e-6 here.
    threat = threat_model("l2", 1.0, lower=[-9.0, -0.5], upper=[9.0, 9.0])
    value = project(threat, jnp.zeros(2), jnp.array([-1e6, -1e6]))
    np.testing.assert_allclose(value, [-np.sqrt(0.75), -0.5], atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_clean_input_outside_of_the_box_is_moved_inside_where_asked(norm):
    clean = np.float32([2.0, 0.0, 3.0])
    box = {"lower": -1.0, "upper": 1.0, "frozen": [2], "num_features": 3}
    threat = threat_model(norm, 0.5, **box, clip=True)
    moved = np.float32([1.0, 0.0, 3.0])  # a frozen feature stays
    np.testing.assert_allclose(project(threat, clean, clean), moved, atol=1e-6)
    assert contains(threat, clean, moved)
    far = project(threat, clean, jnp.array([-9.0, 0.0, 9.0]))
    np.testing.assert_allclose(far, [0.5, 0.0, 3.0], atol=1e-6)
    assert contains(threat, clean, far)
    assert not contains(threat, clean, clean)


def test_groups_may_be_soft_and_several():
    groups = [(0, 2), (1, 3, 4)]
    threat = threat_model("l2", 0.7, groups=groups, group_rule="simplex")
    with jax.enable_x64(True):
        # The sum that an input has is kept, be it 1 or not.
        clean = jnp.array([0.5, 0.2, 0.5, 0.3, 0.1, -1.0])
        proposed = clean + jnp.array([1.0, -2.0, 0.3, 0.4, 0.1, 0.2])
        value = project(threat, clean, proposed)
        clean, proposed, value = (np.asarray(a) for a in (clean, proposed, value))
    low = np.array([0, 0, 0, 0, 0, -np.inf])
    expected = quadratic_program(
        proposed,
        clean,
        low,
        np.full(6, np.inf),
        ball=(clean, float(np.float32(0.7))),
        groups=[(groups[0], 1.0), (groups[1], 0.6)],
    )
    np.testing.assert_allclose(value, expected, atol=1e-5)


def test_frozen_groups_do_not_move():
    threat = threat_model(
        "l2", 1.0, groups=[GROUP], group_rule="frozen", num_features=N
    )
    clean = np.float32(clean_input(0))
    value = np.asarray(project(threat, clean, clean + 3))
    np.testing.assert_array_equal(value[list(GROUP)], clean[list(GROUP)])
    assert np.linalg.norm(value - clean) == pytest.approx(1, rel=1e-5)
    whole = threat_model(
        "l2", 1.0, groups=[GROUP], group_rule="simplex", frozen=GROUP, num_features=N
    )
    assert whole.groups == ()  # frozen altogether: no simplex is left to keep
    np.testing.assert_array_equal(project(whole, clean, clean + 3), value)


def test_free_groups_are_real_numbers():
    threat = threat_model("linf", 0.5, groups=[GROUP], num_features=N)
    clean = np.float32(clean_input(0))
    np.testing.assert_allclose(project(threat, clean, clean - 3), clean - 0.5)


SIMPLEX = jax.jit(project_bounded_simplex)


@given(
    values=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    low=st.lists(st.floats(-1, 0.2), min_size=4, max_size=4),
    width=st.lists(st.floats(0.3, 2), min_size=4, max_size=4),
    share=st.floats(0.01, 0.99),
    bounded=st.booleans(),
)
def test_bounded_simplex_equals_a_quadratic_program(values, low, width, share, bounded):
    values, low, width = np.array(values), np.array(low), np.array(width)
    high = low + width
    start = low + share * width
    total = start.sum()
    if not bounded:
        high = np.full(4, np.inf)
    expected = quadratic_program(values, start, low, high, groups=[(range(4), total)])
    with jax.enable_x64(True):
        value = SIMPLEX(*(jnp.asarray(a) for a in (values, low, high)), total=total)
        np.testing.assert_allclose(value, expected, atol=1e-6)
        np.testing.assert_allclose(jnp.sum(value), total, atol=1e-12)
    narrow = [np.float32(a) for a in (values, low, high)]
    value = SIMPLEX(*narrow, total=np.float32(total))
    np.testing.assert_allclose(value, expected, atol=3e-6)
    assert np.all(value >= narrow[1]) and np.all(value <= narrow[2])


def test_bounded_simplex_at_the_ends_of_its_range():
    low, high = jnp.array([0.0, -1.0]), jnp.array([0.5, 2.0])
    for total, expected in [(-1.0, low), (2.5, high)]:
        value = SIMPLEX(jnp.array([3.0, -4.0]), low, high, total=total)
        np.testing.assert_allclose(value, expected, atol=1e-6)


# Membership


@pytest.mark.parametrize(
    ("change", "admissible"),
    [
        ({}, True),
        ({2: 0.3}, True),
        ({2: 0.4, 4: 0.4}, False),  # of norm 0.57 > 0.5
        ({2: -0.45}, False),  # below the box: -0.4
        ({4: 0.45}, False),  # above the box: 0.4
        ({5: 0.1}, False),  # frozen
        ({0: 1e-3}, False),  # frozen
        ({1: -0.2, 3: 0.2}, True),  # mass moves inside of the group
        ({1: -0.2}, False),  # the sum of the group changes
        ({1: 0.2, 3: -0.2}, False),  # below zero
        ({2: np.nan}, False),
        ({4: np.inf}, False),
        ({2: 5e-6, 5: 5e-6}, True),  # within the tolerance
    ],
)
def test_contains_finds_each_kind_of_violation(change, admissible):
    clean = np.zeros(N, np.float32)
    clean[GROUP[0]] = 1
    threat = threat_model(
        "l2",
        0.5,
        lower=np.where(np.arange(N) == 2, -0.4, -9),
        upper=np.where(np.arange(N) == 4, 0.4, 9),
        frozen=FROZEN,
        groups=[GROUP],
        group_rule="simplex",
        num_features=N,
    )
    perturbed = clean.copy()
    for index, delta in change.items():
        perturbed[index] += delta
    assert bool(contains(threat, clean, perturbed)) is admissible


def test_contains_measures_the_largest_change_under_linf():
    threat, clean = threat_model("linf", 0.5), np.zeros(3, np.float32)
    assert contains(threat, clean, clean + np.float32(0.5))
    assert not contains(threat, clean, clean + np.float32([0, 0.6, 0]))
    assert threats.distance(threat, clean, clean + np.float32([0, -0.6, 0.1])) == 0.6
