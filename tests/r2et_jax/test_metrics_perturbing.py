"""Infidelity, faithfulness correlation, deletion and insertion, against NumPy."""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.metrics import perturbing

N, HIDDEN = 6, 5
KEY = jax.random.key(3)
RNG = np.random.default_rng(1)
W, V = RNG.normal(size=(HIDDEN, N)), RNG.normal(size=HIDDEN)
X, MAP = RNG.normal(size=N), RNG.normal(size=N)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def score(params, x, target, /):
    w, v = params
    return v @ jnp.tanh(w @ x)


def value(x):
    return V @ np.tanh(W @ x)


def zero(x, kept, key, /):
    return jnp.where(kept, x, 0.0)[None]


def two_values(x, kept, key, /):
    return jnp.stack([jnp.where(kept, x, -1.0), jnp.where(kept, x, 2.0)])


def measured(measure, attributions, x=X):
    run = functools.partial(measure, key=KEY)
    return jax.jit(run)((W, V), jnp.asarray(x), 0, jnp.asarray(attributions))


def noise(x, key):
    return x + 0.7 * jax.random.normal(key, x.shape, x.dtype)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_the_mean_over_its_draws(normalize, float64):
    measure = perturbing.infidelity(score, noise, num_samples=300, normalize=normalize)
    keys = jax.random.split(KEY, 300)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: noise(jnp.asarray(X), k)))(keys))
    told = np.array([(X - row) @ MAP for row in drawn])
    fall = np.array([value(X) - value(row) for row in drawn])
    factor = 1.0
    if normalize:  # least squares by hand
        factor = np.linalg.lstsq(told[:, None], fall, rcond=None)[0][0]
        assert abs(factor - 1) > 0.1
    expected = np.mean((factor * told - fall) ** 2)
    np.testing.assert_allclose(measured(measure, MAP), expected, rtol=1e-9)


def test_infidelity_of_a_linear_score_is_that_of_its_slope(float64):
    # E((x − x′)·(a − w))² = σ²‖a − w‖².
    w = jnp.arange(1.0, 4.0)
    measure = perturbing.infidelity(
        lambda w, x, c: w @ x,
        lambda x, key: x + 2.0 * jax.random.normal(key, x.shape, x.dtype),
        num_samples=200_000,
    )
    run = jax.jit(functools.partial(measure, key=KEY))
    off = jnp.array([0.5, 0.0, -1.0])
    np.testing.assert_allclose(run(w, jnp.ones(3), 0, w + off), 4 * 1.25, rtol=0.02)
    assert run(w, jnp.ones(3), 0, w) < 1e-20


@pytest.mark.parametrize("baseline", [zero, two_values])
@pytest.mark.parametrize("size", [1, 4])
def test_the_correlation_is_that_of_all_sets(size, baseline, float64):
    measure = perturbing.faithfulness_correlation(
        score, baseline, subset_size=size, num_runs=20_000
    )
    sums, falls = [], []
    for removed in itertools.combinations(range(N), size):
        rows = [X.copy()] if baseline is zero else [X.copy(), X.copy()]
        for row, replacement in zip(
            rows, [0.0] if baseline is zero else [-1.0, 2.0], strict=True
        ):
            row[list(removed)] = replacement
        sums.append(MAP[list(removed)].sum())
        falls.append(value(X) - np.mean([value(row) for row in rows]))
    expected = np.corrcoef(sums, falls)[0, 1]
    np.testing.assert_allclose(measured(measure, MAP), expected, atol=0.02)


def test_the_correlation_of_what_a_linear_score_loses_is_one():
    measure = perturbing.faithfulness_correlation(
        lambda w, x, c: w @ x, zero, subset_size=2, num_runs=20
    )
    w, x = jnp.float32(MAP), jnp.float32(X)
    run = jax.jit(functools.partial(measure, key=KEY))
    assert run(w, x, 0, w * x) > 1 - 1e-5 and run(w, x, 0, -w * x) < -1 + 1e-5
    assert np.isnan(run(w, x, 0, jnp.ones(N, np.float32)))  # all sums are 2


def curves_by_hand(saliency, sizes, channels=1):
    n = len(saliency)
    order = sorted(range(n), key=lambda i: (-saliency[i], i))
    points = {"deletion": [], "insertion": []}
    for size in sizes:
        top = [channels * i + c for i in order[:size] for c in range(channels)]
        without, alone = X.copy(), np.zeros(N)
        without[top], alone[top] = 0.0, X[top]
        points["deletion"].append(value(without))
        points["insertion"].append(value(alone))
    return points


def area(shares, curve):
    total = 0.0
    for (a, b), (p, q) in zip(
        itertools.pairwise(shares), itertools.pairwise(curve), strict=True
    ):
        total += (b - a) * (p + q) / 2
    return total


@pytest.mark.parametrize(
    ("sizes", "channels"), [(None, 1), ((4, 1), 1), (None, 2)], ids=str
)
def test_curves_take_features_in_the_order_of_the_map(sizes, channels, float64):
    saliency = np.array([0.3, 0.1, 0.3, 0.9, 0.0, 0.2])[: N // channels]
    measured_curves = measured(
        perturbing.deletion_insertion(score, zero, sizes=sizes), saliency
    )
    every = range(len(saliency) + 1) if sizes is None else (0, 1, 4, 6)
    expected = curves_by_hand(saliency, every, channels)
    shares = np.array(every) / len(saliency)
    np.testing.assert_allclose(measured_curves.shares, shares)
    for name, curve in expected.items():
        np.testing.assert_allclose(
            getattr(measured_curves, name), curve, rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            getattr(measured_curves, f"{name}_auc"), area(shares, curve), rtol=1e-9
        )
    assert measured_curves.deletion[0] == measured_curves.insertion[-1]


def test_a_map_that_is_not_finite_has_no_curve():
    measure = perturbing.deletion_insertion(lambda w, x, c: x.sum(), zero, sizes=(3,))
    broken = np.float32(MAP)
    broken[2] = np.nan
    run = jax.jit(functools.partial(measure, key=KEY))
    measured_curves = run(None, np.float32(X), 0, broken)
    assert np.isnan(measured_curves.deletion).all() and np.isnan(
        measured_curves.insertion_auc
    )


def test_wrong_arguments_are_named():
    x = jnp.ones(N)
    with pytest.raises(ValueError, match="num_samples must be .* got 0"):
        perturbing.infidelity(score, noise, num_samples=0)
    with pytest.raises(ValueError, match="attributions and x must have the same shape"):
        perturbing.infidelity(score, noise)((W, V), x, 0, x[1:], key=KEY)
    with pytest.raises(ValueError, match="num_runs must be .* at least 2, got 1"):
        perturbing.faithfulness_correlation(score, zero, subset_size=1, num_runs=1)
    with pytest.raises(ValueError, match="subset_size must lie in 1…n−1 = 1…5, got 6"):
        measure = perturbing.faithfulness_correlation(score, zero, subset_size=N)
        measure((W, V), x, 0, x, key=KEY)
    with pytest.raises(ValueError, match=r"multiple, got shapes \(6,\) and \(4,\)"):
        perturbing.deletion_insertion(score, zero)((W, V), x, 0, x[:4], key=KEY)
    with pytest.raises(ValueError, match=r"sizes must lie in 1…n = 1…6, got \[7\]"):
        perturbing.deletion_insertion(score, zero, sizes=(7,))((W, V), x, 0, x, key=KEY)


@pytest.mark.standard_promotion
def test_examples_in_docstrings():
    result = doctest.testmod(perturbing, extraglobs={"jax": jax, "jnp": jnp})
    assert result.attempted > 8 and result.failed == 0
