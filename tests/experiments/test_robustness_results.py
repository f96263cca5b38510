"""Families of methods, paired differences and corrected p-values by hand."""

import math

import pytest

from experiments.common import comparisons, robustness_notes
from experiments.common.robustness_results import (
    BASELINES,
    OURS,
    R2ET,
    family,
    paired_difference,
    show,
)
from r2et_jax import objectives


def test_every_method_belongs_to_one_family():
    families = BASELINES, R2ET, OURS
    assert set(objectives.NAMES) <= frozenset.union(*families)
    assert sum(map(len, families)) == len(frozenset.union(*families))
    assert family("wd") == family("wd+sp") == "baseline"
    assert family("r2et_mm") == family("wd+r2et_nh") == "R2ET"
    assert family("rat") == family("r2et_nh+logit_h") == family("new") == "ours"
    assert family("logistic") == "linear"


def test_holm_by_hand():
    p_values = [0.01, 0.04, 0.03, math.nan, 0.005]
    corrected = comparisons.holm(p_values)
    assert math.isnan(corrected.pop(3))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparisons.holm([0.6, 0.7]) == [1, 1] and comparisons.holm([]) == []


def test_a_sum_is_described_by_its_parts():
    names = objectives.DESCRIPTIONS
    expected = f"{names['wd']}; plus {names['r2et_nh']}"
    assert robustness_notes.describe("wd+r2et_nh") == expected


def test_paired_difference_takes_common_seeds_alone():
    mean, error = paired_difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 1: 0.5, 3: 7.0})
    assert (mean, error) == pytest.approx((1.0, 0.5))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_means_are_shown_with_their_errors():
    assert show((0.25, 0.125)) == "+0.250 ± 0.125"
    assert show((-0.0001, 0.0)) == "0.000 ± 0.000"  # no negative zero
    assert show((0.5, math.nan), ".2f") == "0.50"
    assert show((math.nan, math.nan)) == "nan" and show(None) == "–"
