"""Means, `same`, P@k⁺ and ties over different inputs, against all pairs by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r2et_jax import metrics
from r2et_jax.metrics.agreement import chance_corrected
from r2et_jax.metrics.same import corrected_precision, overlap_covariance
from r2et_jax.metrics.statistics import jackknife_stderr
from r2et_jax.metrics.summary import distinct_inputs, mean_and_stderr

# Three inputs with 3, 1 and 2 maps, in no order.
UNITS = np.array([4, 9, 4, 7, 7, 4])
MAPS = np.float32(
    [[5, 4, 0, 1], [1, 5, 4, 0], [5, 3, 4, 0], [0, 1, 4, 5], [3, 0, 4, 1], [4, 5, 0, 0]]
)
# Top-2 sets: {0,1} | {1,2} | {0,2} | {2,3} | {0,2} | {0,1}.
# Of input 4 with 9: (1 + 1 + 1)/3/2 = 1/2; of 9 with 7: (1 + 1)/2/2 = 1/2; of 4 with 7:
# ({0,1}: 0, 1; {0,2}: 1, 2; {0,1}: 0, 1) = 5/12 of 2 each.
SAME = (1 / 2 + 1 / 2 + 5 / 12) / 3
WITHOUT = {4: 1 / 2, 9: 5 / 12, 7: 1 / 2}


def jackknife(without):
    n, mean = len(without), sum(without) / len(without)
    return ((n - 1) / n * sum((v - mean) ** 2 for v in without)) ** 0.5


def test_values_of_one_input_count_once():
    values = [1.0, 0.5, 0.0, np.nan, 0.25, 0.5]
    summary = mean_and_stderr(values, units=UNITS)
    each = [0.5, 0.25, 0.5]  # (1 + 0 + .5)/3, .25 alone of two, .5
    np.testing.assert_allclose(summary.mean, np.mean(each))
    np.testing.assert_allclose(summary.stderr, stats.sem(each))
    assert (summary.n, summary.num_nonfinite) == (3, 1)
    lone = mean_and_stderr(jnp.array([np.nan, 1, np.nan]), units=[0, 0, 1])
    assert (lone.mean, lone.n, lone.num_nonfinite) == (1, 1, 2)
    several = mean_and_stderr(np.c_[values, values], units=UNITS)
    assert several.mean.tolist() == [summary.mean] * 2 and several.n.tolist() == [3, 3]
    each_alone = mean_and_stderr(values, units=range(6))
    assert each_alone == mean_and_stderr(values)


def test_equal_rows_are_one_input():
    x = np.float32([[1, 2], [0.0, 3], [1, 2], [-0.0, 3], [1, 2.0000002]])
    assert distinct_inputs(x).tolist() == [0, 1, 0, 1, 2]
    assert distinct_inputs(jnp.asarray(x[..., None])).tolist() == [
        0,
        1,
        0,
        1,
        2,
    ]


def test_same_is_between_different_inputs():
    same = metrics.mean_topk_overlap(MAPS, k=2, units=UNITS)
    np.testing.assert_allclose(same.mean, SAME)
    np.testing.assert_allclose(same.stderr, jackknife([*WITHOUT.values()]))
    assert (same.n, same.num_nonfinite) == (3, 0)
    # A graph with two partners is the same graph: nothing changes if all are repeated.
    distinct = np.random.default_rng(1).random((9, 7), np.float32)
    once = metrics.mean_topk_overlap(distinct, k=3)
    twice = metrics.mean_topk_overlap(
        np.tile(distinct, (2, 1)), k=3, units=np.tile(np.arange(9), 2)
    )
    np.testing.assert_allclose(once[:2], twice[:2])
    assert metrics.mean_topk_overlap(np.tile(distinct, (2, 1)), k=3).mean > once.mean


def overlap(a, b, k):
    tops = [
        {f for f in np.argsort(-values, kind="stable")[:k] if values[f] > 0}
        for values in (a, b)
    ]
    return len(tops[0] & tops[1]) / len(tops[0])


def same_by_hand(maps, units, k):
    """Mean over ordered pairs of units of the mean over their maps."""
    names = sorted(set(units))
    each = [
        np.mean(
            [
                overlap(maps[i], maps[j], k)
                for i in np.flatnonzero(units == a)
                for j in np.flatnonzero(units == b)
            ]
        )
        for a in names
        for b in names
        if a != b
    ]
    return np.mean(each) if each else np.nan


def made(seed, m=17, n=6, units=7):
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(0.3, 1, (m, n)), 0).astype(np.float32)
    maps[:, 0] += 0.01  # each has a positive feature; many have fewer than k
    return maps, rng.integers(0, units, m), rng.integers(0, 5, m) / 4


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_same_leaves_out_one_input_at_a_time(seed):
    maps, units, _ = made(seed)
    same = metrics.mean_topk_overlap(maps, k=3, units=units)
    np.testing.assert_allclose(same.mean, same_by_hand(maps, units, 3))
    without = [same_by_hand(maps[units != u], units[units != u], 3) for u in set(units)]
    np.testing.assert_allclose(same.stderr, jackknife(without))
    alone = metrics.mean_topk_overlap(maps, k=3)
    np.testing.assert_allclose(alone.mean, same_by_hand(maps, np.arange(17), 3))
    assert alone.n == 17


def test_unranked_maps_are_left_out_and_few_inputs_have_no_error():
    maps, units, _ = made(5)
    maps[units == units[0]] = 0
    maps[1, 2] = np.nan
    same = metrics.mean_topk_overlap(maps, k=3, units=units)
    ranked = np.isfinite(maps).all(axis=1) & (maps > 0).any(axis=1)
    expected = same_by_hand(maps[ranked], units[ranked], 3)
    np.testing.assert_allclose(same.mean, expected)
    assert (same.n, same.num_nonfinite) == (len({*units[ranked]}), sum(~ranked))
    two = metrics.mean_topk_overlap(MAPS[:2], k=2)
    assert two.mean == 0.5 and np.isnan(two.stderr) and two.n == 2
    for few in (MAPS[:1], MAPS[:0], np.zeros((3, 4))):
        assert np.isnan(metrics.mean_topk_overlap(few, k=2)[:2]).all()
    assert np.isnan(metrics.mean_topk_overlap(MAPS[[0, 2]], k=2, units=[3, 3]).mean)


def test_the_corrected_precision_by_hand():
    precision = [1.0, 0.5, 0.5, 0.0, 0.5, 0.75]
    precise = corrected_precision(precision, MAPS, k=2, units=UNITS)
    each = {4: 0.75, 9: 0.5, 7: 0.25}  # P@2 of each input
    np.testing.assert_allclose(precise.mean, (0.5 - SAME) / (1 - SAME))
    without = [
        ((sum(each.values()) - each[u]) / 2 - WITHOUT[u]) / (1 - WITHOUT[u])
        for u in each
    ]
    np.testing.assert_allclose(precise.stderr, jackknife(without))
    assert (precise.n, precise.num_nonfinite) == (3, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_the_corrected_precision_has_that_of_same(seed):
    maps, units, precision = made(seed)
    precision[[2, 5]] = np.nan

    def corrected(kept):
        each = [np.nanmean(precision[kept & (units == u)]) for u in {*units[kept]}
                if np.isfinite(precision[kept & (units == u)]).any()]  # fmt: skip
        same = same_by_hand(maps[kept], units[kept], 3)
        return (np.mean(each) - same) / (1 - same)

    precise = corrected_precision(precision, maps, k=3, units=units)
    np.testing.assert_allclose(precise.mean, corrected(units >= 0))
    without = [corrected(units != u) for u in set(units)]
    np.testing.assert_allclose(precise.stderr, jackknife(without))
    assert precise.num_nonfinite == 2
    # Taking `same` as known gives another error.
    main = mean_and_stderr(precision, units=units)
    same = metrics.mean_topk_overlap(maps, k=3, units=units)
    assert abs(main.stderr / (1 - same.mean) / precise.stderr - 1) > 0.02


@pytest.mark.parametrize("seed", range(3))
def test_means_and_their_covariance_tell_the_error_of_the_corrected_precision(seed):
    maps, units, precision = made(seed)
    precision[[2, 5]] = np.nan
    main = mean_and_stderr(precision, units=units)
    same = metrics.mean_topk_overlap(maps, k=3, units=units)
    both = overlap_covariance(precision, maps, k=3, units=units)
    labels = np.unique(units)
    errors = []
    for label in labels:
        kept = units != label
        mean = mean_and_stderr(precision[kept], units=units[kept]).mean
        errors.append((mean, same_by_hand(maps[kept], units[kept], 3)))
    expected = np.cov(np.transpose(errors))[0, 1] * (len(labels) - 1) ** 2 / len(labels)
    np.testing.assert_allclose(both, expected)
    # To first order, of θ = 1 − (1 − P)/(1 − same).
    slopes = 1 / (1 - same.mean), -(1 - main.mean) / (1 - same.mean) ** 2
    terms = slopes[0] * main.stderr, slopes[1] * same.stderr
    stderr = math.sqrt(sum(np.square(terms)) + 2 * slopes[0] * slopes[1] * both)
    whole = corrected_precision(precision, maps, k=3, units=units)
    np.testing.assert_allclose(stderr, whole.stderr, rtol=0.05)
    assert np.isnan(overlap_covariance([1, 0], MAPS[:2], k=2))


def test_nothing_is_left_to_correct_where_all_rankings_are_one():
    maps = np.tile(np.float32([[7, 6, 5, 4, 3, 2, 1, 0]]), (5, 1))
    for units in (None, [0, 0, 1, 2, 2]):
        precise = corrected_precision([1, 1, 1, 0.5, 1], maps, k=6, units=units)
        assert np.isnan(precise[:2]).all() and precise.n == (5 if units is None else 3)
        same = metrics.mean_topk_overlap(maps, k=6, units=units)
        np.testing.assert_allclose(same[:2], [1, 0], atol=1e-12)
    assert np.isnan(chance_corrected(1.0, 1 - 2e-16))


def test_the_jackknife_of_a_mean_is_its_error():
    values = np.array([0.5, 2.0, 0.25, 1.0])
    without = (values.sum() - values) / 3
    np.testing.assert_allclose(jackknife_stderr(without), stats.sem(values))
    assert np.isnan(jackknife_stderr([1.0]))
    assert np.isnan(jackknife_stderr([1.0, np.nan]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_and_stderr([1, 2], units=[1]), r"each of the 2 rows"),
        (lambda: mean_and_stderr([1], axis=None, units=[1]), "got axis None"),
        (lambda: metrics.mean_topk_overlap(MAPS, k=2, units=[0]), "of the 6 rows"),
        (lambda: metrics.mean_topk_overlap(MAPS, k=4), "k must lie in"),
        (lambda: corrected_precision([1.0], MAPS, k=2), "of the 6 maps"),
        (lambda: overlap_covariance([1.0], MAPS, k=2), "of the 6 maps"),
    ],
)
def test_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
