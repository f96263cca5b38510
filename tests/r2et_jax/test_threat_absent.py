"""Absent edges of sparse graphs: projections against the conditions of optimality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import attacks, saliency, score
from r2et_jax import threat as threats
from r2et_jax.models.gcn import adjacency
from r2et_jax.threat import threat_model
from r2et_jax.threat.definition import ABSENT_RULES, NORMS
from r2et_jax.threat.geometry import movable_features, sample_boundary

V, N = 5, 10  # nodes, entries above the diagonal
LOWER, UPPER = -0.5, 1.0

project = jax.jit(threats.project)
contains = jax.jit(threats.contains)
each_norm = pytest.mark.parametrize("norm", NORMS)


def make(norm, epsilon=0.6, absent="frozen", **options):
    return threat_model(
        norm, epsilon, lower=LOWER, upper=UPPER, absent=absent, **options
    )


def graph(seed):
    """An upper triangle, about half of whose edges are absent."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(N) < 0.5, rng.uniform(LOWER, UPPER, N), 0.0)


def nearest_by_hand(norm, proposed, clean, epsilon, movable):
    """The nearest point of box ∩ ball: z = clip((p + μx)/(1 + μ)) by its multiplier."""
    low, high = np.full(N, LOWER), np.full(N, UPPER)
    if norm == "linf":
        low, high = np.maximum(low, clean - epsilon), np.minimum(high, clean + epsilon)
    low, high = np.where(movable, low, clean), np.where(movable, high, clean)

    def at(share):  # 1/(1 + μ)
        return np.clip(clean + share * (proposed - clean), low, high)

    def excess(share):
        return np.linalg.norm(at(share) - clean) - epsilon

    if norm == "linf" or excess(1.0) <= 0:
        return at(1.0)
    return at(scipy.optimize.brentq(excess, 0.0, 1.0, xtol=1e-14, rtol=1e-14))


@each_norm
@pytest.mark.parametrize("absent", ABSENT_RULES)
@given(seed=st.integers(0, 10**6), size=st.floats(-2, 2), epsilon=st.floats(0.01, 2))
def test_projection_is_the_nearest_admissible_graph(norm, absent, seed, size, epsilon):
    clean = graph(seed)
    proposed = clean + 10**size * np.random.default_rng(seed + 1).normal(size=N)
    movable = clean != 0 if absent == "frozen" else np.ones(N, bool)
    with jax.enable_x64(True):
        threat = make(norm, epsilon, absent)
        projected = np.asarray(project(threat, clean, proposed))
        assert contains(threat, clean, projected)
        # Outside of it something is broken: the rule, the box or the ball.
        stays = np.abs(proposed - clean)[~movable].max(initial=0) <= 1e-5
        size = (np.inf if norm == "linf" else None) or 2
        inside = np.linalg.norm(proposed - clean, size) <= epsilon + 1e-5
        inside &= bool(np.all((proposed >= LOWER - 1e-5) & (proposed <= UPPER + 1e-5)))
        assert bool(contains(threat, clean, proposed)) == (inside and stays)
    expected = nearest_by_hand(norm, proposed, clean, epsilon, movable)
    np.testing.assert_allclose(projected, expected, atol=1e-9)
    np.testing.assert_array_equal(projected[~movable], clean[~movable])


@each_norm
@given(seed=st.integers(0, 10**6))
def test_perturbed_adjacency_is_symmetric_without_loops_and_in_range(norm, seed):
    clean = np.float32(graph(seed))
    proposed = clean + np.float32(np.random.default_rng(seed).normal(size=N))
    matrix = np.asarray(adjacency(project(make(norm), clean, proposed), V))
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 0)
    assert LOWER <= matrix.min() and matrix.max() <= UPPER
    absent = np.asarray(adjacency(clean, V)) == 0
    np.testing.assert_array_equal(matrix[absent], 0)


@each_norm
def test_every_graph_of_a_batch_keeps_its_own_absent_edges(norm):
    clean = np.float32([graph(seed) for seed in range(20)])
    assert len({tuple(row) for row in clean != 0}) > 15
    keys = jax.random.split(jax.random.key(0), 20)
    for draw in (threats.sample, sample_boundary):
        for absent in ABSENT_RULES:
            threat = make(norm, absent=absent)
            drawn = jax.vmap(lambda x, key, t=threat, d=draw: d(t, x, key=key))
            moved = np.asarray(jax.jit(drawn)(clean, keys))
            assert jax.vmap(contains, (None, 0, 0))(threat, clean, moved).all()
            appeared = moved[clean == 0] != 0
            assert not appeared.any() if absent == "frozen" else appeared.any()
            assert (moved[clean != 0] != clean[clean != 0]).mean() > 0.8


def test_absent_edges_do_not_shorten_a_step_on_the_boundary():
    clean = np.zeros(N, np.float32)
    clean[:3] = 0.1
    threat = threat_model("l2", 0.05, absent="frozen")
    moved = sample_boundary(threat, jnp.asarray(clean), key=jax.random.key(1))
    np.testing.assert_allclose(np.linalg.norm(moved - clean), 0.05, rtol=1e-5)


@each_norm
def test_the_rule_joins_features_that_are_frozen_anyway(norm):
    clean = np.float32([0.5, 0.0, -0.2, 0.3])
    threat = threat_model(norm, 0.1, frozen=[3], num_features=4, absent="frozen")
    movable = movable_features(threat, clean)
    assert movable.tolist() == [True, False, True, False]
    moved = np.asarray(project(threat, clean, clean + 1))
    assert ((moved == clean) == [False, True, False, True]).all()
    assert not contains(threat, clean, clean + np.float32([0, 0.01, 0, 0]))
    assert movable_features(threat_model(norm), clean) is None


def test_descent_on_all_gaps_leaves_absent_edges_out():
    clean = jnp.asarray(np.float32(graph(4)))

    def net(params, x, /):
        return jnp.tanh(x @ params).sum(keepdims=True)

    params = jnp.asarray(np.random.default_rng(0).normal(size=(N, 6)), jnp.float32)
    attack = attacks.multiobjective_attack(
        net, saliency.gradient(score.log_odds(net)), k=3
    )
    threat = make("l2", 0.3)

    @jax.jit
    def run(x):
        target = score.predicted_class(net(params, x))
        context, state = attack.init(params, x, target, threat, key=jax.random.key(0))
        for _ in range(2):
            state = attack.step(params, context, state)
        return state

    state = run(clean)
    moved = np.asarray(state.perturbed)
    np.testing.assert_array_equal(moved[clean == 0], 0)
    assert (moved != clean).any()
    # Not by the projection alone: its step falls in the space of what may move.
    assert not state.optimizer_state.stalled


def test_wrong_rules_are_named():
    with pytest.raises(ValueError, match="unknown rule for absent features 'kept'"):
        threat_model(absent="kept")
    with pytest.raises(ValueError, match="choose group_rule 'frozen', got 'simplex'"):
        threat_model(groups=[(0, 1)], group_rule="simplex", absent="frozen")
