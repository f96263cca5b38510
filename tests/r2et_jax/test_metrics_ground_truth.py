"""The precision against known features, on brute-force counts and edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.metrics.ground_truth import truth_precision


def brute_force(maps, truth, k):
    """Share of each map by sorting; ties to the lower index, zeros left out."""
    shares = []
    for values, right in zip(maps, truth, strict=True):
        top = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
        top = [i for i in top if values[i] > 0]
        shares.append(sum(right[i] for i in top) / len(top) if top else np.nan)
    return np.array(shares)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [12, 90])  # both ways of ranking
def test_equals_a_count_over_sorted_features(dtype, n):
    rng = np.random.default_rng(n)
    maps = rng.integers(0, 7, (20, n)).astype(dtype)  # ties, and zeros
    each = rng.random((20, n)) < 0.3
    for truth in (each, each[0]):
        k = n // 3
        summary = truth_precision(truth, maps, k=k)
        shares = brute_force(maps, np.broadcast_to(truth, maps.shape), k)
        np.testing.assert_allclose(summary.mean, shares.mean(), rtol=1e-6)
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        np.testing.assert_allclose(summary.stderr, error, rtol=1e-5)
        assert (summary.n, summary.num_nonfinite) == (20, 0)


def test_the_best_ranking_finds_all_that_is_true_and_chance_its_share():
    n, k = 40, 10
    truth = np.arange(n) < 4
    best = truth_precision(truth, truth[None].astype(float) + 0.5, k=k)
    np.testing.assert_allclose(best.mean, min(k, 4) / k, rtol=1e-6)
    noise = np.random.default_rng(0).random((4000, n))
    chance = truth_precision(truth, noise, k=k)
    assert abs(chance.mean - 4 / n) < 4 * chance.stderr


def test_maps_without_an_explanation_are_counted_apart():
    maps = np.array([[3.0, 2, 1], [0, 0, 0], [np.nan, 1, 2], [0, 0, 5]])
    truth = np.array([True, False, False])
    summary = truth_precision(truth, maps, k=2)
    # The last map has one positive feature alone, and that is its whole top set.
    np.testing.assert_allclose(summary.mean, (0.5 + 0) / 2)
    assert (summary.n, summary.num_nonfinite) == (2, 2)


def test_it_compiles():
    maps = jnp.asarray(np.random.default_rng(1).random((5, 9)))
    truth = jnp.arange(9) % 2 == 0
    run = jax.jit(lambda m, t: truth_precision(t, m, k=3).mean)
    eager = truth_precision(truth, maps, k=3).mean
    np.testing.assert_allclose(run(maps, truth), eager)


@pytest.mark.parametrize(
    ("shape", "truth", "k", "message"),
    [
        ((4,), np.ones(4, bool), 2, r"maps must have the shape \[m, n\]"),
        ((2, 4), np.ones(3, bool), 2, r"one map \(4,\) or of all \(2, 4\), got \(3,\)"),
        ((2, 4), np.ones((1, 4), bool), 2, r"got \(1, 4\)"),
        ((2, 4), np.ones(4), 2, "truth must be boolean, got float"),
        ((2, 4), np.ones(4, bool), 4, "k must"),
    ],
)
def test_wrong_arguments_are_refused(shape, truth, k, message):
    with pytest.raises(ValueError, match=message):
        truth_precision(truth, np.ones(shape), k=k)
