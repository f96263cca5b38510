"""An evolution that crosses kinks, on nets whose optimum is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks.evolution import border_energy, swap_distance
from r2et_jax.threat import threat_model

# Four features in two dimensions' worth of regions: ReLU units cut the plane of the
# first two, and every region has a gradient of its own.
WEIGHT = np.array(
    [[1.0, 0.2, -0.7, 0.4], [-0.3, 1.0, 0.5, -0.9], [0.0, 0.0, 0.0, 0.0],
     [0.0, 0.0, 0.0, 0.0]]
)  # fmt: skip
BIAS = np.array([0.3, -0.4, 0.2, 0.5])
OUT = np.array([1.0, -2.0, 1.5, 0.7])
LINEAR = np.array([0.2, -0.1, 1.1, 0.9])
K = 2


def net(params, x, /):
    weight, bias, out, linear = params
    return (out @ jax.nn.relu(weight.T @ x + bias) + linear @ x)[None]


PARAMS = tuple(map(jnp.asarray, (WEIGHT, BIAS, OUT, LINEAR)))
EXPLAIN = saliency.gradient(score.log_odds(net))
X = np.random.default_rng(0).uniform(-1, 1, (24, 4)).astype(np.float32)


def gradient(x):
    on = x @ WEIGHT + BIAS > 0
    return (on * OUT) @ WEIGHT.T + LINEAR


def kept(x, moved):
    top, new = (np.argsort(-np.abs(gradient(v)), kind="stable")[..., :K] for v in
                (x, moved))  # fmt: skip
    return np.array([len({*a} & {*b}) / K for a, b in zip(top, new, strict=True)])


def run(attack, threat, *, num_steps=40):
    compiled = attacks.compile_attack(attack, num_steps=num_steps, track_every=20)
    return compiled(PARAMS, X, threat, key=jax.random.key(0))


def optimum(x, epsilon, norm):
    """The lowest P@k over a fine grid of the ball: only two features bend the net."""
    points = np.linspace(-epsilon, epsilon, 161)
    disc = np.array([p for p in itertools.product(points, points)
                     if norm == "linf" or np.hypot(*p) <= epsilon])  # fmt: skip
    moved = np.repeat(x[None], len(disc), axis=0)
    moved[:, :2] += disc
    return kept(np.broadcast_to(x, moved.shape), moved).min()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_finds_the_optimum_where_every_gradient_is_zero(norm):
    """The map is constant in each region: descent by the model's own gradient stays."""
    epsilon = 0.5
    threat = threat_model(norm, epsilon)
    attacked = run(attacks.evolution(net, EXPLAIN, k=K), threat)
    expected = np.array([optimum(x, epsilon, norm) for x in X])
    assert expected.mean() < 0.8
    np.testing.assert_array_equal(attacked.best.precision, expected)
    np.testing.assert_array_equal(kept(X, attacked.best.perturbed), expected)
    blind = attacks.gradient_attack(
        net, EXPLAIN, attacks.goals.mean_gap(), k=K,
        optimizer=attacks.optimizers.steepest(0.05),
    )  # fmt: skip
    blind = run(blind, threat)
    assert (blind.best.precision == 1).all() and (blind.vanished == 1).all()


@pytest.mark.parametrize("rule", ["free", "same_class"])
def test_a_kept_class_stays(rule):
    threat = threat_model("l2", 2.0, prediction=rule)
    attack = attacks.evolution(net, EXPLAIN, k=K, keep_class=rule == "free")
    attacked = run(attack, threat)
    assert not attacked.details.last_class_changed.any()
    free = run(attacks.evolution(net, EXPLAIN, k=K), threat_model("l2", 2.0))
    assert free.details.last_class_changed.any()


def test_a_smooth_model_is_searched_by_noise_and_mixtures():
    def smooth(params, x, /):
        weight, bias, out, linear = params
        return (out @ jnp.tanh(weight.T @ x + bias) + linear @ x)[None]

    explain = saliency.gradient(score.log_odds(smooth))
    attacked = run(attacks.evolution(smooth, explain, k=K), threat_model("l2", 1.0))
    assert attacked.best.precision.mean() < 0.9


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(np.float32, 6, elements=st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.0])),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_swap_distance_is_the_count_and_the_gap_to_the_next_swap(values, k, seed):
    top = np.zeros(6, bool)
    top[np.random.default_rng(seed).choice(6, k, replace=False)] = True
    order = sorted(range(6), key=lambda i: (-values[i], i))
    now = [i for i in order[:k] if values[i] > 0]
    inside = [values[i] for i in now if top[i]]
    outside = [values[i] for i in range(6) if not top[i] and i not in now]
    expected = float(len(inside))
    if inside:
        gap = max(min(inside) - max(outside, default=0.0), 0) / values.mean()
        expected += gap / (1 + gap)
    got = swap_distance(jnp.asarray(values), jnp.asarray(top), k=k)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_broken_map_is_the_least_fit():
    values = jnp.array([1.0, jnp.nan, 0.5, 0.2])
    assert swap_distance(values, jnp.array([True, False, True, False]), k=2) == jnp.inf


def test_one_member_is_no_population():
    with pytest.raises(ValueError, match="population must be at least 2, got 1"):
        attacks.evolution(net, EXPLAIN, k=K, population=1)


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(np.float32, 6, elements=st.sampled_from([0.0, 0.5, 1.0, 1.02, 2.0])),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_border_energy_counts_features_near_the_border_in_part(values, k, seed):
    top = np.zeros(6, bool)
    top[np.random.default_rng(seed).choice(6, k, replace=False)] = True
    order = np.sort(values)[::-1]
    middle = (order[k - 1] + order[k]) / 2
    above = values / (middle if middle > 0 else 1) - 1
    expected = np.sum(1 / (1 + np.exp(-above[top] / 0.05)))
    got = border_energy(jnp.asarray(values), jnp.asarray(top), k=k)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_map_that_is_not_finite_has_no_energy_to_lose():
    values = jnp.array([1.0, jnp.nan, 0.5, 0.2])
    assert border_energy(values, jnp.array([True, False, True, False]), k=2) == jnp.inf
