"""The estimators of curvature that training uses for pairs, measured and misused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evidence import estimators as claims_estimators
from experiments.problems import registry
from r2et_jax import curvature, datasets, score


def measured(name):
    problem = registry.problem(datasets.load(name))
    model = problem.model("vanilla")
    params = jax.jit(model.init)(jax.random.key(0), problem.sample)
    return claims_estimators.errors(problem, model, params, num_inputs=2)


@pytest.mark.parametrize("factor", [1, 1.01])
def test_images_have_closed_forms_and_a_wrong_norm_is_seen(monkeypatch, factor):
    right = curvature.frobenius_norm

    def wrong(probability, **options):
        return lambda *args: factor * right(probability, **options)(*args)

    monkeypatch.setattr(claims_estimators.curvature, "frobenius_norm", wrong)
    found = measured("digits")
    assert set(found) == {"exact_h", "ssr"}
    expected = 1 - 1 / factor
    assert found["exact_h"]["error"] == pytest.approx(expected, abs=1e-4)
    assert 0 <= found["ssr"]["error"] < claims_estimators.EXACT


@pytest.mark.slow
def test_graphs_have_estimates_with_their_spread():
    found = measured("planted")
    assert set(found) == {"hutchinson_h", "ssr"}
    numbers = found["hutchinson_h"]
    assert abs(numbers["bias"]) < 4 * numbers["stderr"] < 1
    assert 0.1 < numbers["spread"] < 2
    assert 0.9 < found["ssr"]["found"] < 1.001


def test_absent_edges_have_no_curvature():
    problem = registry.problem(datasets.load("planted"))
    model = problem.model("vanilla")
    params = jax.jit(model.init)(jax.random.key(0), problem.sample)
    (x, (partner, graphs)), _ = problem.training(2)
    graphs = graphs * (jnp.arange(graphs.shape[1]) % 9 == 0)
    apply, target = problem.trained(model), jnp.ones((), jnp.int32)

    def norms(probability, x, context):
        norm = curvature.frobenius_norm(probability)
        run = jax.jit(lambda x, context: norm((params, context), x, target))
        return jax.vmap(run)(x, context)

    context = partner, graphs
    probability, reduced = claims_estimators._of_edges(apply, context)
    assert reduced[0].shape[1] < x.shape[1] / 8
    whole = norms(score.probability(apply), x, context)
    assert float(whole.min()) > 0
    np.testing.assert_allclose(norms(probability, *reduced), whole, rtol=1e-4)


def test_tables_are_refused():
    problem = registry.problem(datasets.load("breast_cancer"))
    with pytest.raises(ValueError, match="breast_cancer holds no pairs"):
        claims_estimators.errors(problem, problem.model("vanilla"), None)
