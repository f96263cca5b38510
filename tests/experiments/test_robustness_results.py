"""Families of methods, paired differences and corrected p-values by hand."""

import math

import pytest

from experiments.problems.methods import FAMILIES, ROWS, family
from experiments.robustness import tables
from r2et_jax import metrics, objectives


def test_every_method_belongs_to_one_family():
    assert set(objectives.NAMES) < set(ROWS)
    for name, row in ROWS.items():
        assert row.family in FAMILIES and row.family == family(name), name
    assert family("wd") == family("wd+sp") == "baseline"
    assert family("r2et_mm") == family("wd+r2et_nh") == "R2ET"
    assert family("rat") == family("r2et_nh+logit_h") == family("new") == "ours"
    assert family("logistic") == "linear"


def test_holm_by_hand():
    p_values = [0.01, 0.04, 0.03, math.nan, 0.005]
    corrected = metrics.holm(p_values)
    assert math.isnan(corrected.pop(3))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, 0.7]) == [1, 1] and metrics.holm([]) == []


def test_a_sum_is_described_by_its_parts():
    names = objectives.DESCRIPTIONS
    expected = f"{names['wd']}; plus {names['r2et_nh']} (R2ET)"
    assert tables.describe("wd+r2et_nh") == expected
