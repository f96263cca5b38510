"""P@k⁺ is made of records alone."""

import math

import pytest

from experiments.robustness.corrected import corrected

MODEL = {"dataset": "adult", "method": "sp", "seed": 0, "fold": 0, "k": 8}
CLEAN = {**MODEL, "attack": "none", "epsilon": 0.0}
ATTACKED = {**MODEL, "attack": "er", "epsilon": 1.0, "norm": "l2"}


def cell(same=0.5, same_error=0.02, covariance=3e-4, precision=0.8):
    return [
        {**CLEAN, "metric": "same", "value": same, "stderr": same_error, "n": 9},
        {**ATTACKED, "metric": "p@k", "value": precision, "stderr": 0.03, "n": 9,
         "note": "1 inputs are not finite"},
        {**ATTACKED, "metric": "p@k_same_covariance", "value": covariance,
         "stderr": None, "n": 9},
    ]  # fmt: skip


def test_the_mean_and_its_error_by_hand():
    (record,) = corrected(cell())
    assert record["value"] == pytest.approx(0.6)
    # By P@k: 1/(1 − same) = 2; by same: −(1 − P@k)/(1 − same)² = −.8.
    variance = (2 * 0.03) ** 2 + (0.8 * 0.02) ** 2 - 2 * 2 * 0.8 * 3e-4
    assert record["stderr"] == pytest.approx(math.sqrt(variance))
    expected = {**ATTACKED, "metric": "p@k+", "n": 9, "note": "1 inputs are not finite"}
    assert expected.items() <= record.items()


def test_one_ranking_for_all_inputs_has_no_value():
    (record,) = corrected(cell(same=1.0))
    assert record["value"] is record["stderr"] is None and "nan" in record["note"]


def test_without_an_error_of_a_part_there_is_none():
    for unknown in ({"same_error": None}, {"covariance": None}):
        (record,) = corrected(cell(**unknown))
        assert record["value"] == pytest.approx(0.6) and record["stderr"] is None


def test_older_cells_and_other_models_are_left_alone():
    clean, main, covariance = cell()
    recorded = {**ATTACKED, "metric": "p@k+", "value": 0.6, "stderr": 0.1, "n": 9}
    assert corrected([clean, main, recorded]) == []
    assert corrected([{**clean, "seed": 1}, main, covariance]) == []
