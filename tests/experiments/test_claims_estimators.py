"""The estimators of curvature that training uses for pairs, measured and misused."""

import jax
import pytest

from experiments.common import claims_estimators, problems
from r2et_jax import curvature, datasets


def measured(name):
    problem = problems.problem(datasets.load(name))
    model = problem.model("vanilla")
    params = jax.jit(model.init)(jax.random.key(0), problem.sample)
    return claims_estimators.errors(problem, model, params, num_inputs=2)


def test_images_have_closed_forms():
    found = measured("digits")
    assert set(found) == {"exact_h", "ssr"}
    for numbers in found.values():
        assert 0 <= numbers["error"] < claims_estimators.EXACT


def test_a_wrong_norm_is_seen(monkeypatch):
    right = curvature.frobenius_norm

    def wrong(probability, **options):
        return lambda *args: 1.01 * right(probability, **options)(*args)

    monkeypatch.setattr(claims_estimators.curvature, "frobenius_norm", wrong)
    assert measured("digits")["exact_h"]["error"] == pytest.approx(0.0099, abs=1e-4)


def test_graphs_have_estimates_with_their_spread():
    found = measured("planted")
    assert set(found) == {"hutchinson_h", "ssr"}
    numbers = found["hutchinson_h"]
    assert abs(numbers["bias"]) < 4 * numbers["stderr"] < 1
    assert 0.1 < numbers["spread"] < 2
    assert 0.9 < found["ssr"]["found"] < 1.001


def test_tables_are_refused():
    problem = problems.problem(datasets.load("breast_cancer"))
    with pytest.raises(ValueError, match="breast_cancer holds no pairs"):
        claims_estimators.errors(problem, problem.model("vanilla"), None)
