"""Runs from seeds and folds, Student's interval, Holm and verdicts, against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from r2et_jax import metrics
from r2et_jax.metrics.statistics import by_run, differences, jackknife_stderr, over_runs
from r2et_jax.metrics.summary import mean_and_stderr

NAN = math.nan


def cells(table):
    """(seed, fold) -> value of a table [seeds, folds]."""
    return {(s, f): v for s, row in enumerate(table) for f, v in enumerate(row)}


def test_a_run_is_a_seed_or_a_fold_of_a_single_one():
    table = np.array([[0.5, 0.75, 0.1], [0.625, 1.0, 0.2], [0.25, 0.375, 0.9]])
    assert by_run(cells(table)) == pytest.approx(
        {0: 1.35 / 3, 1: 1.825 / 3, 2: 1.525 / 3}
    )
    mean = over_runs(cells(table))
    # Over three seeds, not over nine models.
    seeds = [0.45, 1.825 / 3, 1.525 / 3]
    np.testing.assert_allclose(mean[:2], [np.mean(seeds), stats.sem(seeds)])
    assert mean[2:] == ("seeds", 3, 3, 0)
    of_one = over_runs(cells(table[:1]))
    np.testing.assert_allclose(of_one[:2], [0.45, stats.sem(table[0])])
    assert of_one[2:] == ("folds", 3, 3, 0)
    # A fold has no number where there are none.
    plain = over_runs({(s, None): v for s, v in enumerate(table[:, 0])})
    np.testing.assert_allclose(plain[1], stats.sem(table[:, 0]))


def test_a_single_run_has_its_error_over_inputs_and_no_verdict():
    inputs = mean_and_stderr([0.25, 0.5, 1.0, 0.75])
    mean = over_runs({(0, 0): 0.625}, single=inputs)
    assert mean == (0.625, inputs.stderr, "inputs", 4, 1, 0)
    assert (mean.low, mean.high) == (-math.inf, math.inf)
    assert math.isnan(mean.p_value()) and metrics.verdicts([mean]) == [None]
    bare = over_runs({(0, 0): 0.625})
    assert math.isnan(bare.stderr) and metrics.verdicts([bare], -9.0) == [None]


def test_the_interval_and_the_p_value_are_students():
    values = [0.3, 0.5, 0.4, 0.9]
    mean = metrics.estimate(values)
    for level in (0.0, 0.45, 1.2):
        test = stats.ttest_1samp(values, level)
        np.testing.assert_allclose(mean.p_value(level), test.pvalue)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose([mean.low, mean.high], interval)
    equal = metrics.estimate([0.5, 0.5, 0.5])
    assert (equal.low, equal.high) == (0.5, 0.5)
    assert (equal.p_value(0.5), equal.p_value(0.4)) == (1, 0)


def test_what_is_not_finite_is_counted_and_leaves_no_mean():
    mean = metrics.estimate([0.9, NAN, 0.8, math.inf])
    assert math.isnan(mean.mean) and math.isnan(mean.stderr)
    assert (mean.n, mean.runs, mean.num_nonfinite) == (4, 4, 2)
    assert metrics.verdicts([mean], -9.0) == [None]
    # A seed without a fold of the others would be a mean over other folds.
    table = cells([[0.5, 0.75], [0.5, 0.75]])
    del table[1, 0]
    mean = over_runs(table)
    assert math.isnan(mean.mean) and (mean.runs, mean.num_nonfinite) == (2, 1)
    assert over_runs({}).runs == 0


def test_differences_are_paired_by_seed_and_fold():
    a = cells([[0.75, 0.5], [1.0, 0.5]])
    b = cells([[0.5, 0.5], [0.5, 0.25], [9.0, 9.0]])
    mean = over_runs(differences(a, b))
    np.testing.assert_allclose(mean[:2], [0.25, 0.125])
    # Fold 0 of a single seed is not seed 0.
    folds, seeds = cells([[0.5, 0.75]]), cells([[0.5], [0.75]])
    assert over_runs(differences(folds, seeds)).runs == 1


def test_holm_by_hand():
    p_values = [0.01, 0.04, 0.03, NAN, 0.005]
    corrected = metrics.holm(p_values)
    assert math.isnan(corrected.pop(3))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, 0.7]) == [1, 1] and metrics.holm([]) == []


def test_verdicts_have_three_values_and_are_corrected_together():
    # p = .0077 and .034 of two-sided tests with four degrees.
    clear = metrics.estimate([0.3, 0.5, 0.4, 0.6, 0.2])
    faint = metrics.estimate([0.1, 0.5, 0.2, 0.6, 0.15])
    assert 0.001 < clear.p_value() < 0.0125 and 0.025 < faint.p_value() < 0.05
    assert metrics.verdicts([clear]) == metrics.verdicts([faint]) == [True]
    assert metrics.verdicts([clear], 0.9) == [False]
    assert metrics.verdicts([clear], 0.45) == [None]
    # Two at once: the larger p keeps its weight, three: it does not suffice.
    assert metrics.verdicts([faint, clear]) == [True, True]
    assert metrics.verdicts([faint, clear, faint]) == [None, True, None]
    unknown = metrics.estimate([0.5])
    assert metrics.verdicts([faint, unknown, clear]) == [True, None, True]


def test_verdicts_reject_a_true_equality_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for count in (3, 5):
        values = rng.normal(size=(2000, count))
        told = [metrics.verdicts([metrics.estimate(v)])[0] for v in values]
        wrong = np.mean([verdict is not None for verdict in told])
        assert 0.035 < wrong < 0.065


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.array([1.0, 4.0, 2.0, 7.0, 7.5])
    without = (values.sum() - values) / 4
    expected = values.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(jackknife_stderr(without), expected, rtol=1e-12)
    assert np.isnan(jackknife_stderr([1.0])) and np.isnan(jackknife_stderr([1, np.nan]))
