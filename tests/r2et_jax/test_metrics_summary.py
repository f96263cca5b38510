"""Standard errors against SciPy, and the bootstrap against what it must recover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from r2et_jax.metrics.bootstrap import hierarchical_bootstrap
from r2et_jax.metrics.summary import mean_and_stderr


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), None])
@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_mean_and_stderr_equal_scipy_on_the_finite_values(wrap, axis):
    values = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32) + 100
    values[1, 2, 0], values[3, 3, 1] = np.nan, np.inf
    result = mean_and_stderr(wrap(values), axis=axis)
    masked = np.ma.masked_invalid(values.astype(np.float64))
    np.testing.assert_allclose(result.mean, masked.mean(axis=axis), rtol=1e-6)
    finite = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    expected = scipy.stats.sem(finite, axis=axis, nan_policy="omit")
    np.testing.assert_allclose(result.stderr, expected, rtol=1e-4)
    np.testing.assert_array_equal(result.n, np.isfinite(values).sum(axis=axis))
    np.testing.assert_array_equal(
        result.num_nonfinite, (~np.isfinite(values)).sum(axis=axis)
    )


def test_mean_and_stderr_of_few_values():
    summary = mean_and_stderr([0.5, np.nan])
    assert (summary.mean, summary.n, summary.num_nonfinite) == (0.5, 1, 1)
    assert np.isnan(summary.stderr)
    for nothing in (mean_and_stderr([np.nan]), mean_and_stderr([])):
        assert np.isnan(nothing.mean)
        assert np.isnan(nothing.stderr)
        assert nothing.n == 0


def test_mean_and_stderr_keeps_to_its_kind_of_array():
    counts = mean_and_stderr([True, False, True, True])
    assert counts.mean == 0.75
    assert counts.mean.dtype == np.float64
    traced = jax.eval_shape(mean_and_stderr, jnp.ones((3, 2), jnp.int32))
    assert traced.mean.shape == (2,)
    assert traced.mean.dtype == jnp.float32
    with jax.enable_x64(True):
        assert mean_and_stderr(jnp.ones(3)).mean.dtype == jnp.float64


def seeds_and_inputs(effect, rng, num_seeds=12, num_inputs=40):
    """Values whose seeds and inputs both vary, and are shared by the two methods."""
    shared = rng.normal(size=(num_seeds, 1)) + rng.normal(size=(num_seeds, num_inputs))
    of_seed = 0.1 * rng.normal(size=(num_seeds, 1))
    noise = 0.3 * rng.normal(size=(num_seeds, num_inputs))
    return shared + effect + of_seed + noise, shared


def test_bootstrap_spread_is_that_of_theory():
    rng = np.random.default_rng(1)
    a, b = seeds_and_inputs(0.2, rng)
    result = hierarchical_bootstrap(a, b, num_samples=4000, rng=rng)
    d = a - b
    np.testing.assert_allclose(result.difference, d.mean(), rtol=1e-12)
    seeds, inputs = d.shape
    # Var d* = (between drawn seed means + mean within / inputs) / seeds
    variance = (d.mean(axis=1).var() + d.var(axis=1).mean() / inputs) / seeds
    half = 1.96 * variance**0.5
    np.testing.assert_allclose(result.upper - result.lower, 2 * half, rtol=0.06)
    assert result.lower < result.difference < result.upper
    assert result.p_value < 0.01


def test_bootstrap_is_antisymmetric_paired_and_repeatable():
    a, b = seeds_and_inputs(0.05, np.random.default_rng(2))

    def compare(x, y):
        rng = np.random.default_rng(3)
        return hierarchical_bootstrap(x, y, num_samples=500, rng=rng)

    forward, backward = compare(a, b), compare(b, a)
    assert forward == compare(a, b)
    np.testing.assert_allclose(forward.difference, -backward.difference)
    np.testing.assert_allclose(
        [forward.lower, forward.upper], [-backward.upper, -backward.lower]
    )
    assert forward.p_value == backward.p_value
    moved = compare(a + 7 * b, 8 * b)  # what both share cancels
    np.testing.assert_allclose(moved[:4], forward[:4], atol=1e-12)


def test_bootstrap_sees_no_difference_where_there_is_none():
    a = np.random.default_rng(4).random((5, 20))
    rng = np.random.default_rng(5)
    result = hierarchical_bootstrap(a, a, num_samples=200, rng=rng)
    assert result == (0, 0, 0, 1, 0)


def test_bootstrap_rejects_a_true_null_as_often_as_it_says():
    rng = np.random.default_rng(6)
    p_values = [
        hierarchical_bootstrap(
            *seeds_and_inputs(0.0, rng, num_seeds=20, num_inputs=10),
            num_samples=200,
            rng=rng,
        ).p_value
        for _ in range(200)
    ]
    assert 0.02 < np.mean(np.array(p_values) < 0.1) < 0.2


def test_bootstrap_leaves_out_and_counts_broken_pairs():
    rng = np.random.default_rng(7)
    a, b = seeds_and_inputs(1.0, rng, num_seeds=3, num_inputs=6)
    a[0, 1], b[2, 3] = np.nan, np.inf
    result = hierarchical_bootstrap(a, b, num_samples=50, rng=rng)
    d = [(a - b)[s][np.isfinite((a - b)[s])].mean() for s in range(3)]
    np.testing.assert_allclose(result.difference, np.mean(d))
    assert result.num_nonfinite == 2
    assert np.isfinite(result).all()
    a[1] = np.nan
    result = hierarchical_bootstrap(a, b, num_samples=50, rng=rng)
    assert np.isnan(result[:4]).all()
    assert result.num_nonfinite == 8


def test_bootstrap_does_not_depend_on_memory_blocks_in_shape():
    a, b = np.random.default_rng(8).random((2, 2, 1_200_000 // 2))
    rng = np.random.default_rng(9)
    result = hierarchical_bootstrap(a, b, num_samples=3, rng=rng)
    assert result.lower <= result.upper


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values_a": np.ones(3)}, r"shape \[seeds, inputs\]"),
        ({"values_a": np.ones((2, 4))}, "same shape"),
        ({"values_a": np.ones((0, 3)), "values_b": np.ones((0, 3))}, "hold something"),
        ({"num_samples": 0}, "num_samples"),
        ({"confidence": 1.0}, "confidence"),
        ({"rng": 0}, "numpy.random.Generator"),
    ],
)
def test_bootstrap_mistakes_raise(change, message):
    arguments = {
        "values_a": np.ones((2, 3)),
        "values_b": np.ones((2, 3)),
        "num_samples": 10,
        "rng": np.random.default_rng(0),
    }
    arguments |= change
    a, b = arguments.pop("values_a"), arguments.pop("values_b")
    with pytest.raises(ValueError, match=message):
        hierarchical_bootstrap(a, b, **arguments)
