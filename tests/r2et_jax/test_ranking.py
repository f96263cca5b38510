"""Top-k sets and gaps against NumPy's stable sort and loops over pairs."""

import doctest
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import ranking
from r2et_jax.ranking import gaps, topk


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ["topk", "gaps"])
def test_docstring_examples_run(name):
    module = importlib.import_module(f"r2et_jax.ranking.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# Ranks


def order_by_hand(values):
    """Descending, the lower index first among equals; NaN as −∞."""
    return np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")


def ranks_by_hand(values):
    position = np.empty(len(values), int)
    position[order_by_hand(values)] = np.arange(len(values))
    return position


COMPILED = {
    n: jax.jit(lambda v: (ranking.ranks(v), topk.descending_order(v)))
    for n in (2, 3, 9, 127, 128, 148)
}
FEW_VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, 2.0, -1.0, np.inf, -np.inf, np.nan, 1e-30]
)
MANY_VALUES = st.floats(0, 1, width=32, allow_subnormal=False)


@pytest.mark.parametrize("n", COMPILED)
@given(data=st.data())
def test_ranks_and_order_equal_a_stable_sort(n, data):
    entry = data.draw(st.sampled_from([FEW_VALUES, MANY_VALUES]))
    some = data.draw(st.lists(entry, min_size=min(n, 9), max_size=min(n, 9)))
    values = np.resize(np.float32(some), n)
    position, order = COMPILED[n](values)
    assert position.dtype == order.dtype == jnp.int32
    np.testing.assert_array_equal(position, ranks_by_hand(values))
    np.testing.assert_array_equal(order, order_by_hand(values))


@pytest.mark.parametrize("n", [2, 9, 148])
def test_top_k_sets_at_the_smallest_and_largest_k(n):
    values = np.random.default_rng(n).integers(0, 5, size=n).astype(np.float32)
    for k in {1, n - 1}:
        order = order_by_hand(values)
        top = jax.jit(
            lambda v, k=k: (ranking.top_k_mask(v, k=k), ranking.top_k_indices(v, k=k))
        )
        mask, indices = top(values)
        np.testing.assert_array_equal(mask, np.isin(np.arange(n), order[:k]))
        np.testing.assert_array_equal(indices, order[:k])


@pytest.mark.parametrize("n", [9, 148])
def test_nan_comes_last_and_the_mask_keeps_its_size(n):
    values = np.full(n, np.nan, np.float32)
    values[[1, 3]] = [0.0, 2.0]
    position, order = COMPILED[n](values)
    assert position[3] == 0 and position[1] == 1
    np.testing.assert_array_equal(np.sort(position), np.arange(n))
    np.testing.assert_array_equal(order[:3], [3, 1, 0])


def test_nested_masks_agree_with_the_order():
    values = np.random.default_rng(0).integers(0, 20, size=60).astype(np.float32)
    values[[3, 50]] = np.nan
    counts = (0, 1, 17, 18, 59, 60)
    masks = jax.jit(lambda v: topk.leading_masks(v, *counts))(values)
    position = ranks_by_hand(np.where(np.isnan(values), -np.inf, values))
    for count, mask in zip(counts, masks, strict=True):
        np.testing.assert_array_equal(mask, position < count)


def test_ranks_have_no_derivative_and_work_in_float64(float64):
    values = jnp.array([1.0, 1.0 + 1e-12, 0.5])  # equal in float32
    np.testing.assert_array_equal(ranking.ranks(values), [1, 0, 2])

    def total(v):
        return jnp.sum(jnp.where(ranking.top_k_mask(v, k=1), v, 0))

    np.testing.assert_array_equal(jax.grad(total)(values), [0, 1, 0])


# Sets of positive features


def members_by_hand(values, k):
    if not np.all(np.isfinite(values)):
        return set()
    return {i for i in order_by_hand(values)[:k].tolist() if values[i] > 0}


OVERLAP = jax.jit(
    lambda a, b: [
        (
            topk.positive_top_k_mask(a, k=k),
            ranking.top_k_overlap(topk.positive_top_k_mask(a, k=k), b, k=k),
        )
        for k in range(1, 6)
    ]
)
SALIENCY = st.lists(
    st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0, 3.0, np.nan, np.inf]),
    min_size=6,
    max_size=6,
).map(np.float32)


@given(SALIENCY, SALIENCY)
def test_positive_members_and_their_overlap(clean, other):
    for k, (mask, overlap) in enumerate(OVERLAP(clean, other), start=1):
        members = members_by_hand(clean, k)
        assert set(np.flatnonzero(mask).tolist()) == members
        expected = np.nan
        if members and np.all(np.isfinite(other)):
            expected = len(members & members_by_hand(other, k)) / len(members)
        np.testing.assert_allclose(overlap, expected, rtol=1e-6)


def test_overlap_is_nan_for_an_empty_set_and_zero_for_a_zero_map():
    zero, some = jnp.zeros(3), jnp.array([3.0, 2.0, 1.0])
    empty = topk.positive_top_k_mask(zero, k=2)
    assert not np.any(empty)
    assert np.isnan(ranking.top_k_overlap(empty, some, k=2))
    mask = topk.positive_top_k_mask(some, k=2)
    assert ranking.top_k_overlap(mask, zero, k=2) == 0
    assert np.isnan(ranking.top_k_overlap(mask, some.at[2].set(jnp.nan), k=2))


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([3, 2, 2, 1], 2, True),
        ([3, 2, 2, 1], 1, False),
        ([3, 2, 2, 1], 3, False),
        ([3, 0, 0, 0], 2, True),
        ([3, 0, 0, 0], 1, False),
        ([1, 1], 1, True),
        ([np.inf, np.inf, 1], 1, True),
        ([np.nan, 2, 2, 1], 2, False),
        ([np.nan, 2, 2, 1], 1, False),
    ],
)
def test_border_tie(values, k, expected):
    assert bool(topk.border_tie(np.float32(values), k=k)) is expected


# Gaps


def pairs_by_hand(reference, k):
    order = order_by_hand(reference)
    return list(itertools.product(order[:k].tolist(), order[k:].tolist()))


def map_of(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 4, size=n) if ties else rng.random(n)
    return values / values.sum()


@pytest.mark.parametrize(("n", "k"), [(2, 1), (7, 3), (7, 6), (130, 5)])
def test_means_over_all_pairs_equal_sums_over_pairs(n, k, float64):
    @jax.jit
    def compiled(values, reference):
        mask = ranking.top_k_mask(reference, k=k)
        weights = gaps.mean_gap_weights(mask, k=k)
        return (
            ranking.pairwise_gaps(values, reference, k=k),
            weights,
            gaps.weighted_sum(values, weights),
            gaps.mean_gap_scale(reference, k=k),
            [gaps.mean_exponential_gap(values, mask, theta=t) for t in thetas],
        )

    thetas = (1e-2, 0.3, 10.0)
    for ties in (False, True):
        reference, values = map_of(n, 0, ties), map_of(n, 1)
        pairs = pairs_by_hand(reference, k)
        by_pair = np.array([values[i] - values[j] for i, j in pairs])
        mean_gap = np.mean([reference[i] - reference[j] for i, j in pairs])
        table, weights, mean, scale, exponential = compiled(values, reference)
        assert table.shape == (k, n - k)
        np.testing.assert_allclose(np.ravel(table), by_pair, rtol=1e-12)
        np.testing.assert_allclose(np.sum(weights), 0, atol=1e-14)
        np.testing.assert_allclose(mean, np.mean(by_pair), rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(scale, max(mean_gap, 1e-300), rtol=1e-10, atol=1e-16)
        for theta, value in zip(thetas, exponential, strict=True):
            expected = np.mean(np.exp(-by_pair / theta))
            np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_exponential_form_neither_overflows_nor_mixes_types(offset):
    # exp(±1e4/θ) overflows in every float type; the gaps are of order one.
    values = np.float32([3.0, 1.5, 0.5, 2.5]) + np.float32(offset)
    mask = jnp.array([True, False, False, True])
    theta = jnp.float32(0.5)
    fn = jax.jit(jax.value_and_grad(gaps.mean_exponential_gap))
    value, slope = fn(jnp.asarray(values), mask, theta=theta)
    wide = values.astype(np.float64)
    terms = {(i, j): np.exp(-(wide[i] - wide[j]) / 0.5) for i in (0, 3) for j in (1, 2)}
    # log-sums of order 2e4 are rounded to 1e-3 in float32
    tolerance = 1e-5 if offset == 0 else 5e-3
    np.testing.assert_allclose(value, np.mean(list(terms.values())), rtol=tolerance)
    expected = np.zeros(4)
    for (i, j), term in terms.items():
        expected[i] -= term / 0.5 / 4
        expected[j] += term / 0.5 / 4
    np.testing.assert_allclose(slope, expected, rtol=tolerance)


def smallest_by_hand(reference, k, k_prime):
    order = order_by_hand(reference)
    return [(order[k - 1 - i], order[k + i]) for i in range(k_prime)]


@pytest.mark.parametrize(
    ("n", "k", "k_prime"), [(2, 1, 1), (28, 8, 4), (64, 40, 24), (65, 40, 25)]
)
def test_border_features_are_the_pairs_by_hand(n, k, k_prime):
    """On both sides of the width from which on a partial sort takes over."""
    rng = np.random.default_rng(n)
    find = jax.jit(lambda values: gaps.border_features(values, k=k, k_prime=k_prime))
    for levels in (3, 1000):  # many ties and few
        reference = rng.integers(0, levels, n).astype(np.float32)
        inner, outer = map(np.asarray, find(reference))
        pairs = np.array(smallest_by_hand(reference, k, k_prime))
        np.testing.assert_array_equal(inner, np.arange(n) == pairs[:, :1])
        np.testing.assert_array_equal(outer, np.arange(n) == pairs[:, 1:])


@pytest.mark.parametrize(("n", "k", "k_prime"), [(2, 1, 1), (7, 5, 2), (8, 4, 4)])
def test_smallest_pairs_are_weakest_with_strongest(n, k, k_prime, float64):
    options = {"k": k, "k_prime": k_prime}

    @jax.jit
    def compiled(values, reference):
        weights = gaps.smallest_pair_weights(reference, **options)
        return gaps.weighted_sum(values, weights), gaps.mean_exponential_smallest(
            values, reference, theta=0.1, **options
        )

    for ties in (False, True):
        reference, values = map_of(n, 2, ties), map_of(n, 3)
        pairs = smallest_by_hand(reference, k, k_prime)
        by_pair = np.array([values[i] - values[j] for i, j in pairs])
        mean, exponential = compiled(values, reference)
        np.testing.assert_allclose(mean, by_pair.mean(), rtol=1e-12, atol=1e-16)
        np.testing.assert_allclose(
            exponential, np.exp(-by_pair / 0.1).mean(), rtol=1e-12
        )


SMALLEST, ANCHORED = (
    jax.jit(weigh, static_argnames=("k", "k_prime"))
    for weigh in (gaps.smallest_pair_weights, gaps.anchored_weights)
)


def test_smallest_pairs_have_the_smallest_gaps_of_distinct_indices():
    reference = map_of(6, 4)
    k, k_prime = 3, 2
    chosen = smallest_by_hand(reference, k, k_prime)
    best = min(
        sum(reference[i] - reference[j] for i, j in zip(inside, outside, strict=True))
        for inside in itertools.permutations(order_by_hand(reference)[:k], k_prime)
        for outside in itertools.permutations(order_by_hand(reference)[k:], k_prime)
    )
    assert sum(reference[i] - reference[j] for i, j in chosen) == pytest.approx(best)
    weights = SMALLEST(np.float32(reference), k=k, k_prime=k_prime)
    assert np.sum(weights * np.float32(reference)) == pytest.approx(best / 2, rel=1e-5)


def test_smallest_pairs_of_all_features_are_the_full_mean():
    reference = np.float32(map_of(8, 5))
    mm = SMALLEST(reference, k=4, k_prime=4)
    full = jax.jit(
        lambda values: gaps.mean_gap_weights(ranking.top_k_mask(values, k=4), k=4)
    )(reference)
    np.testing.assert_array_equal(mm, full)


@pytest.mark.parametrize(
    ("n", "k", "k_prime"),
    # k′ = k, as published: one gap less above the anchor; and 8 with 4 outside.
    [(3, 1, 1), (9, 4, 3), (12, 4, 3), (9, 4, 4), (12, 8, 4), (12, 11, 1)],
)
def test_anchored_pairs_follow_the_formula_in_sorted_order(n, k, k_prime, float64):
    reference, values = map_of(n, 6), map_of(n, 7)
    h = dict(enumerate(values[order_by_hand(reference)], 1))
    anchored = [h[i] - h[k] for i in range(max(k - k_prime, 1), k)]
    anchored += [h[k] - h[j] for j in range(k + 1, k + k_prime + 1)]
    assert len(anchored) == 2 * k_prime - (k_prime == k)
    weights = ANCHORED(reference, k=k, k_prime=k_prime)
    value = jax.jit(gaps.weighted_sum)(values, weights)
    np.testing.assert_allclose(value, np.mean(anchored), rtol=1e-12)


def test_the_anchor_is_the_last_feature_inside():
    """12, 11 … 1, the fourth is the last inside: 9 anchors (12 11 10) and (8 7 6)."""
    values = np.arange(12, 0, -1, dtype=np.float32)
    weights = np.asarray(ANCHORED(values, k=4, k_prime=3))
    np.testing.assert_allclose(6 * weights, [1, 1, 1, 0, -1, -1, -1] + [0] * 5)
    # As published, k′ = k: 12 + 11 + 10 − 3 · 9 and 4 · 9 − (8 + 7 + 6 + 5).
    weights = np.asarray(ANCHORED(values, k=4, k_prime=4))
    np.testing.assert_allclose(
        7 * weights, [1, 1, 1, 1, -1, -1, -1, -1] + [0] * 4, atol=1e-6
    )


WEIGHTS = {
    "mean": lambda r: gaps.mean_gap_weights(ranking.top_k_mask(r, k=3), k=3),
    "smallest": lambda r: gaps.smallest_pair_weights(r, k=3, k_prime=2),
    "anchored": lambda r: gaps.anchored_weights(r, k=3, k_prime=2),
}
COMPILED_WEIGHTS = {name: jax.jit(make) for name, make in WEIGHTS.items()}


@pytest.mark.parametrize("name", WEIGHTS)
@given(
    reference=st.lists(st.integers(0, 9), min_size=8, max_size=8).map(np.float32),
    exponent=st.integers(-80, 80),
)
def test_weights_do_not_depend_on_the_scale_of_the_reference(name, reference, exponent):
    weights = COMPILED_WEIGHTS[name](reference)
    scaled = COMPILED_WEIGHTS[name](np.ldexp(reference, exponent))
    np.testing.assert_array_equal(weights, scaled)
    np.testing.assert_allclose(np.sum(weights), 0, atol=1e-6)
    np.testing.assert_allclose(np.max(np.abs(weights)) > 0, True)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_of_a_weighted_map_is_one_hessian_product(name, normalize, float64):
    rng = np.random.default_rng(8)
    w1, w2 = rng.normal(size=(5, 8)), rng.normal(size=5)

    def score(x):
        return jnp.sum(jnp.sin(jnp.asarray(w1) @ x) * w2)

    def saliency(x):
        values = jnp.abs(jax.grad(score)(x))
        return values / jnp.sum(values) if normalize else values

    x = jnp.asarray(rng.normal(size=8))
    g, hessian = jax.jit(jax.grad(score))(x), jax.jit(jax.hessian(score))(x)
    c = COMPILED_WEIGHTS[name](saliency(x))

    def mean_gap(x):  # the weights are found anew at x and must act as constants
        values = saliency(x)
        return gaps.weighted_sum(values, WEIGHTS[name](values))

    v = c * jnp.sign(g)
    if normalize:
        c_bar = jnp.sum(c * saliency(x))
        v = (c - c_bar) * jnp.sign(g) / jnp.sum(jnp.abs(g))
    expected = hessian @ v
    value = jax.jit(jax.grad(mean_gap))(x)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


R = jnp.arange(6.0)
MASK = R > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.top_k_mask(R, k=0), r"1…n−1 = 1…5.*got k = 0"),
        (lambda: ranking.top_k_mask(R, k=6), "got k = 6"),
        (lambda: ranking.top_k_mask(R, k=2.0), "k must be an integer, got 2.0"),
        (lambda: ranking.top_k_mask(R, k=True), "k must be an integer, got True"),
        (lambda: ranking.top_k_mask(R[:1], k=1), "n = 1 features, got k = 1"),
        (lambda: ranking.top_k_mask(R[None], k=1), r"1 axes.*\(1, 6\)"),
        (lambda: ranking.ranks(R[None]), r"1 axes.*\(1, 6\)"),
        (lambda: topk.descending_order(R[None]), "1 axes"),
        (lambda: ranking.top_k_indices(R, k=6), "got k = 6"),
        (lambda: ranking.top_k_indices(R[None], k=6), "1 axes"),
        (lambda: topk.positive_top_k_mask(R, k=0), "got k = 0"),
        (lambda: topk.positive_top_k_mask(R[None], k=1), "1 axes"),
        (lambda: ranking.top_k_overlap(MASK, R, k=-1), "got k = -1"),
        (lambda: topk.border_tie(R, k=6), "got k = 6"),
        (lambda: topk.border_tie(R[None], k=1), "1 axes"),
        (lambda: ranking.pairwise_gaps(R, R, k=6), "got k = 6"),
        (lambda: gaps.mean_gap_weights(MASK, k=0), "got k = 0"),
        (lambda: gaps.mean_gap_scale(R, k=6), "got k = 6"),
        (lambda: gaps.smallest_pair_weights(R, k=6, k_prime=1), "got k = 6"),
        (
            lambda: gaps.smallest_pair_weights(R, k=4, k_prime=3),
            r"1…2 for k = 4 and 6 features, got k_prime = 3",
        ),
        (lambda: gaps.smallest_pair_weights(R, k=4, k_prime=0), "k_prime.*got 0"),
        (
            lambda: gaps.border_features(R, k=4, k_prime=3),
            r"1…2 for k = 4 and 6 features, got k_prime = 3",
        ),
        (
            lambda: gaps.mean_exponential_smallest(R, R, k=1, k_prime=2, theta=1.0),
            r"1…1 for k = 1 and 6 features, got k_prime = 2",
        ),
        (
            lambda: gaps.mean_exponential_smallest(R, R, k=1, k_prime=1, theta=0.0),
            "theta must be positive.*0.0",
        ),
        (
            lambda: gaps.anchored_weights(R, k=4, k_prime=3),
            r"1…2.*k = 4.*6 features.*got k_prime = 3",
        ),
        (
            lambda: gaps.mean_exponential_gap(R, MASK, theta=-1.0),
            "theta must be positive.*-1.0",
        ),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call)


def test_mean_gap_scale_of_a_flat_map_is_positive():
    assert gaps.mean_gap_scale(jnp.ones(4), k=2) > 0
    assert gaps.mean_gap_scale(jnp.zeros(4), k=2) > 0
