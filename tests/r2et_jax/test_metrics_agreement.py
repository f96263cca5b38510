"""Agreement of two maps, against SciPy, brute force and properties."""

import doctest
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import metrics
from r2et_jax.metrics.agreement import average_ranks, chance_corrected

MODULES = (
    "agreement",
    "bootstrap",
    "classification",
    "guards",
    "same",
    "statistics",
    "summary",
)
RANK_CORRELATIONS = {
    "pearson": scipy.stats.pearsonr,
    "spearman": scipy.stats.spearmanr,
    "kendall": scipy.stats.kendalltau,
}
COMPILED = {name: jax.jit(getattr(metrics, name)) for name in RANK_CORRELATIONS}
precision_at_k = jax.jit(metrics.precision_at_k, static_argnames="k")


def top_set(values, k):
    """The members by hand: sort by value, then by index; zeros are no members."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    return {i for i in order if values[i] > 0}


def overlap_by_hand(clean, perturbed, k):
    members = top_set(clean, k)
    if not members:
        return np.nan
    return len(members & top_set(perturbed, k)) / len(members)


def maps_without_ties(sizes=(2, 3, 7)):
    """Two positive maps of one length whose values are all different."""

    def pair(n):
        maps = st.permutations(range(1, n + 1)).map(np.float32)
        return st.tuples(maps, maps)

    return st.sampled_from(sizes).flatmap(pair)


def maps_with_ties_and_zeros(sizes=(2, 3, 7)):
    def pair(n):
        maps = st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.float32)
        return st.tuples(maps, maps)

    return st.sampled_from(sizes).flatmap(pair)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    module = importlib.import_module(f"r2et_jax.metrics.{module}")
    result = doctest.testmod(module, extraglobs={"jnp": jnp, "np": np})
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_function_has_an_example():
    functions = [f for f in vars(metrics).values() if callable(f)]
    functions = [f for f in functions if not isinstance(f, type)]
    assert [f.__name__ for f in functions if ">>>" not in f.__doc__] == []


@given(maps_with_ties_and_zeros(), st.data())
def test_precision_at_k_equals_set_intersection(pair, data):
    clean, perturbed = pair
    k = data.draw(st.integers(1, len(clean) - 1))
    value = precision_at_k(clean, perturbed, k=k)
    np.testing.assert_allclose(value, overlap_by_hand(clean, perturbed, k), rtol=1e-6)


@given(maps_without_ties(), st.floats(1e-6, 1e6), st.data())
def test_precision_at_k_ignores_scale_and_order_of_features(pair, scale, data):
    clean, perturbed = pair
    k = data.draw(st.integers(1, len(clean) - 1))
    order = np.array(data.draw(st.permutations(range(len(clean)))))
    value = precision_at_k(clean, perturbed, k=k)
    scaled = precision_at_k(clean, np.float32(scale) * perturbed, k=k)
    permuted = precision_at_k(clean[order], perturbed[order], k=k)
    assert value == scaled == permuted
    assert 0 <= value <= 1


@given(maps_with_ties_and_zeros(), st.data())
def test_precision_at_k_of_a_map_with_itself_is_one(pair, data):
    values = pair[0] + np.float32(np.arange(len(pair[0])) == 0)  # one positive at least
    k = data.draw(st.integers(1, len(values) - 1))
    assert precision_at_k(values, values, k=k) == 1


@pytest.mark.parametrize(
    ("clean", "perturbed", "k", "expected"),
    [
        ([2, 1], [1, 2], 1, 0.0),  # n = 2
        ([2, 1], [3, 0], 1, 1.0),
        ([4, 3, 2, 1], [1, 2, 3, 4], 3, 2 / 3),  # k = n−1
        ([4, 3, 0, 0], [4, 3, 0, 0], 3, 1.0),  # two positive features: both stay
        ([4, 3, 0, 0], [4, 0, 3, 0], 3, 0.5),  # index 1 fills T(x′), with saliency 0
        ([4, 3, 2, 1], [4, 0, 0, 0], 3, 1 / 3),  # zeros of T(x′) are no members
        ([4, 3, 2, 1], [0, 0, 0, 0], 3, 0.0),
        ([0, 0, 0], [1, 2, 3], 2, np.nan),
        ([0, 0, 0], [0, 0, 0], 2, np.nan),
        ([np.nan, 2, 1], [3, 2, 1], 2, np.nan),
        ([3, 2, 1], [3, np.nan, 1], 2, np.nan),
        ([3, 2, 1], [3, np.inf, 1], 2, np.nan),
        ([1, 1, 1], [1, 1, 1], 2, 1.0),  # ties go to the lower index
        ([1, 1, 1], [0, 1, 1], 2, 0.5),
    ],
)
def test_precision_at_k_by_hand(clean, perturbed, k, expected):
    clean, perturbed = np.float32(clean), np.float32(perturbed)
    value = precision_at_k(clean, perturbed, k=k)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_precision_at_k_maps_over_a_batch_and_a_batch_of_one():
    rng = np.random.default_rng(0)
    clean, perturbed = rng.random((2, 6, 9), np.float32)
    batched = jax.jit(jax.vmap(lambda a, b: metrics.precision_at_k(a, b, k=4)))
    expected = [overlap_by_hand(a, b, 4) for a, b in zip(clean, perturbed, strict=True)]
    np.testing.assert_allclose(batched(clean, perturbed), expected, rtol=1e-6)
    alone = batched(clean[:1], perturbed[:1])
    assert alone.shape == (1,)
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-6)


def test_maps_may_differ_in_float_type():
    with jax.enable_x64(True):
        clean, perturbed = np.float64([3, 2, 1]), np.float32([3, 1, 2])
        assert metrics.precision_at_k(clean, perturbed, k=2) == 0.5
        assert metrics.pearson(clean, perturbed).dtype == jnp.float64
    assert metrics.mse(jnp.ones(3, jnp.bfloat16), jnp.ones(3)).dtype == jnp.float32


def test_chance_corrected():
    value = chance_corrected(np.float32([1.0, 0.6, 0.2]), 0.6)
    np.testing.assert_allclose(value, [1.0, 0.0, -1.0], atol=1e-6)
    assert np.isnan(chance_corrected(1.0, 1.0))


@pytest.mark.parametrize("name", RANK_CORRELATIONS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [2, 40])
def test_correlation_equals_scipy(name, ties, n):
    rng = np.random.default_rng(n)
    a, b = rng.exponential(size=(2, n))
    if ties:
        a, b = np.floor(3 * a), np.floor(3 * b)
        a[0], b[0] = 20, 30  # not constant
    expected = RANK_CORRELATIONS[name](a, b).statistic
    value = COMPILED[name](np.float32(a), np.float32(b))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, atol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(COMPILED[name](a, b), expected, atol=1e-12)


@pytest.mark.parametrize("name", RANK_CORRELATIONS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]),
    ],
    ids=["constant", "zero", "nan"],
)
def test_correlation_is_nan_where_scipy_says_so(name, a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of constant input
        assert np.isnan(RANK_CORRELATIONS[name](a, b).statistic)
    assert np.isnan(COMPILED[name](np.float32(a), np.float32(b)))


def test_constant_map_whose_mean_is_rounded_has_no_correlation():
    constant = np.full(784, 0.1, np.float32)
    assert np.isnan(COMPILED["pearson"](constant, np.arange(784, dtype=np.float32)))


def test_pearson_survives_tiny_and_huge_saliency():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 40), np.float32)
    expected = scipy.stats.pearsonr(np.float64(a), np.float64(b)).statistic
    for scale in (1e-30, 1e30):
        value = COMPILED["pearson"](np.float32(scale) * a, b)
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_correlations_map_over_a_batch_of_one():
    a, b = np.random.default_rng(2).random((2, 1, 5), np.float32)
    for name, reference in RANK_CORRELATIONS.items():
        value = jax.vmap(COMPILED[name])(a, b)
        np.testing.assert_allclose(value, [reference(a[0], b[0])[0]], atol=1e-5)


def test_mse():
    a, b = np.random.default_rng(3).random((2, 6), np.float32)
    np.testing.assert_allclose(metrics.mse(a, b), np.mean((a - b) ** 2), rtol=1e-6)


@pytest.mark.parametrize("values", [[3, 1, 1, 2, 3, 3], [5], [1, 1, 1]])
def test_average_ranks_equal_scipy(values):
    expected = scipy.stats.rankdata(values, method="average")
    np.testing.assert_array_equal(average_ranks(np.float32(values)), expected)


def same(maps, k):
    return metrics.mean_topk_overlap(maps, k=k).mean


def same_by_hand(maps, k):
    ranked = [m for m in maps if np.isfinite(m).all() and (m > 0).any()]
    pairs = [
        overlap_by_hand(a, b, k)
        for i, a in enumerate(ranked)
        for j, b in enumerate(ranked)
        if i != j
    ]
    return np.mean(pairs) if pairs else np.nan


@pytest.mark.parametrize(("m", "n", "k"), [(2, 2, 1), (20, 8, 6), (9, 5, 4)])
def test_mean_topk_overlap_equals_all_pairs(m, n, k):
    maps = np.random.default_rng(m).random((m, n), np.float32)
    value = same(maps, k)
    np.testing.assert_allclose(value, same_by_hand(maps, k), rtol=1e-5)
    counts = np.sum([[f in top_set(row, k) for f in range(n)] for row in maps], axis=0)
    closed = np.sum(counts * (counts - 1)) / (k * m * (m - 1))
    np.testing.assert_allclose(value, closed, rtol=1e-5)


def test_mean_topk_overlap_counts_positive_features_and_leaves_out_unranked_maps():
    rng = np.random.default_rng(4)
    maps = np.maximum(rng.normal(size=(20, 8)), 0).astype(np.float32)
    maps[3], maps[5, 2] = 0, np.nan
    value = same(maps, 6)
    np.testing.assert_allclose(value, same_by_hand(maps, 6), rtol=1e-5)
    maps[1:] = 0
    assert np.isnan(same(maps, 6))


def test_mean_topk_overlap_of_equal_maps_is_exactly_one_for_many_inputs():
    maps = np.tile(np.float32([5, 4, 3, 2, 1]), (20_000, 1))
    assert same(maps, 3) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: metrics.precision_at_k(a, a, k=3), "k must lie in"),
        (lambda a: metrics.precision_at_k(a, a, k=0), "k must lie in"),
        (lambda a: metrics.precision_at_k(a, a[:2], k=1), "same shape"),
        (lambda a: metrics.precision_at_k(a[None], a[None], k=1), "1 axes"),
        (lambda a: metrics.pearson(a, a[:2]), "same shape"),
        (lambda a: metrics.kendall(a[None], a[None]), "1 axes"),
        (lambda a: metrics.mean_topk_overlap(a, k=1), r"shape \[m, n\]"),
        (lambda a: metrics.mean_topk_overlap(a[:, None], k=1), "k must lie in"),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, jnp.arange(3.0))
