"""Goals against brute force over pairs and finite differences, float64."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saliency, score
from r2et_jax.attacks import goals

N, K = 6, 2


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def net(params, x, /):
    first, second = params
    return second @ jnp.tanh(first @ x)


def order(values):
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def pairs(clean, k=K):
    top = order(clean)[:k]
    return [(i, j) for i in top for j in range(len(clean)) if j not in top]


def mean_gap(values, clean, at):
    return np.mean([values[i] - values[j] for i, j in pairs(clean)])


def exponential_gap(values, clean, at, scale=0.5):
    theta = scale * np.mean([clean[i] - clean[j] for i, j in pairs(clean)])
    gaps = [values[i] - values[j] for i, j in pairs(clean)]
    return -np.mean([np.exp(-gap / theta) for gap in gaps])


def smallest_pairs(values, clean, at, k_prime=2):
    ranked = order(clean)
    inside, outside = ranked[K - k_prime : K], ranked[K : K + k_prime]
    # The k′ pairs of distinct indices whose clean gaps have the smallest sum.
    return (values[inside].sum() - values[outside].sum()) / k_prime


def mse(values, clean, at):
    return -np.mean([(a - b) ** 2 for a, b in zip(values, clean, strict=True)])


def drawn_weights(clean, spread):
    drawn = np.asarray(jax.random.normal(jax.random.key(0), (len(clean),), float))
    return np.array([np.exp(spread * z) for z in drawn])


def smooth_precision(values, clean, at, temperature=0.3):
    top, n = order(clean)[:K], len(clean)
    values, at = values / values.sum(), np.sort(at / at.sum())[::-1]
    border = (at[K - 1] + at[K]) / 2  # a constant: taken from `at`
    soft = 1 / (1 + np.exp(-(values - border) / (temperature / n)))
    rest = [j for j in range(n) if j not in top]
    return (soft[top].sum() + K - soft[rest].sum()) / (2 * K)


def log_precision(values, clean, at, temperature=0.4, spread=0.6):
    top, ranked = order(clean)[:K], np.sort(at)[::-1]
    border = np.sqrt(ranked[K - 1] * ranked[K])
    weights, total, inside = drawn_weights(clean, spread), 0.0, 0.0
    for i, size in enumerate(at):  # constants: taken from `at`
        share = 1 / (1 + (border / size) ** (1 / temperature))
        total += weights[i] * share * (1 - share)
        inside += weights[i] * share * (1 - share) * (i in top)
    return sum(
        weights[i]
        * ((i in top) - inside / total)
        / (1 + (border / values[i]) ** (1 / temperature))
        for i in range(len(values))
    )


CASES = {
    "mean_gap": (goals.mean_gap(), mean_gap),
    "exponential_gap": (goals.exponential_gap(scale=0.5), exponential_gap),
    "smallest_pairs": (goals.smallest_pairs(k_prime=2), smallest_pairs),
    "mse": (goals.mse(), mse),
    "smooth_precision": (goals.smooth_precision(temperature=0.3), smooth_precision),
    "log_precision": (
        goals.log_precision(temperature=0.4, spread=0.6),
        log_precision,
    ),
}


@pytest.fixture(scope="module")
def computed():
    """Values at x′, gradients at x′ and at x, and maps, of all goals at once."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        rng = np.random.default_rng(0)
        params = rng.normal(size=(5, N)), rng.normal(size=(1, 5))
        x, near = rng.normal(size=(2, N))
        near = x + 0.2 * near
        explain = saliency.gradient(score.log_odds(net))

        @jax.jit
        def compute(params, x, near):
            def at(point):
                return explain(params, point, 1)

            computed_goals = {}
            for name, (goal, _) in CASES.items():
                reference = goal.prepare(at(x), at(x), k=K, key=jax.random.key(0))

                def value(point, goal=goal, reference=reference):
                    return goal.value(at(point), reference)

                computed_goals[name] = (
                    *jax.value_and_grad(value)(near),
                    jax.grad(value)(x),
                )
            return computed_goals

        computed_goals = jax.tree.map(np.asarray, compute(params, x, near))

        def maps(point):
            """The map by hand: |Wᵀ(v ⊙ (1 − tanh²))| over its sum."""
            first, second = params
            g = np.abs(first.T @ (second[0] * (1 - np.tanh(first @ point) ** 2)))
            return g / g.sum()

        return computed_goals, maps, x, near


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_brute_force(computed, name):
    computed_goals, maps, x, near = computed
    expected = CASES[name][1](maps(near), maps(x), maps(near))
    np.testing.assert_allclose(computed_goals[name][0], expected, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_differences(computed, name):
    computed_goals, maps, x, near = computed
    brute, step = CASES[name][1], 1e-6
    clean, here = maps(x), maps(near)
    expected = [
        (brute(maps(near + e), clean, here) - brute(maps(near - e), clean, here))
        / (2 * step)
        for e in step * np.eye(N)
    ]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(computed_goals[name][1], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_starts_flat_says_where_the_clean_gradient_is_zero(computed, name):
    largest = np.abs(computed[0][name][2]).max()
    assert (largest < 1e-12) == CASES[name][0].starts_flat


@hypothesis.given(st.integers(0, 2**31), st.integers(1, 5))
def test_a_random_target_lies_outside_the_top_set(seed, k):
    clean = np.random.default_rng(seed).uniform(size=N)
    clean_map = jnp.asarray(clean)
    weights = goals.random_target().prepare(
        clean_map, -clean_map, k=k, key=jax.random.key(seed)
    )
    chosen = set(np.flatnonzero(weights).tolist())
    assert set(np.asarray(weights)) <= {0.0, -1.0}
    assert len(chosen) == min(k, N - k)
    assert not chosen & set(order(clean)[:k])


def test_a_random_target_depends_on_the_key():
    clean = jnp.asarray(np.random.default_rng(1).uniform(size=40))
    drawn = {
        tuple(np.asarray(goals.random_target().prepare(clean, clean, k=5, key=key)))
        for key in jax.random.split(jax.random.key(0), 5)
    }
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: goals.exponential_gap(scale=0.0), "scale must be positive"),
        (lambda: goals.smooth_precision(temperature=-1.0), "temperature must be pos"),
        (lambda: goals.log_precision(temperature=0.0), "temperature must be pos"),
        (lambda: goals.log_precision(spread=-0.1), "spread must be nonnegative"),
        (lambda: goals.smallest_pairs(k_prime=0), "k_prime must be an integer"),
        (
            lambda: goals.smallest_pairs(k_prime=3).prepare(
                jnp.arange(6.0), jnp.arange(6.0), k=2, key=None
            ),
            "k_prime must lie in 1…2",
        ),
    ],
)
def test_static_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
