"""Both forms of a graph convolution are compared on the same graphs."""

import pytest

from experiments.evidence import graphs as claims_graphs


def test_both_forms_have_the_same_gradient():
    found = claims_graphs.compare(7, 5, hidden=(4, 3), num_graphs=3, rounds=2)
    assert 0 <= found["error"] < claims_graphs.EQUAL
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["edges"] > 0 and found["matrices"] > 0


@pytest.mark.parametrize(
    ("form", "low", "high", "error", "verdict"),
    [
        ("sparse", 1.5, 3.0, 1e-6, True),
        ("sparse", 0.9, 3.0, 1e-6, False),
        ("dense", 0.2, 0.8, 1e-6, True),
        ("dense", 0.2, 1.1, 1e-6, False),
        ("dense", 0.2, 0.8, 1e-2, False),
    ],
)
def test_the_expected_form_must_win_every_round(form, low, high, error, verdict):
    numbers = {"ratio_min": low, "ratio_max": high, "error": error}
    assert claims_graphs.holds(form, numbers) is verdict
