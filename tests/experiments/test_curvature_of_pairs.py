"""The curvature penalties of pairs that training uses, against the whole Hessian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.problems import registry
from experiments.problems.registry import PairProblem
from r2et_jax import curvature, datasets, score
from r2et_jax.context import InContext
from r2et_jax.objectives import curvature_penalties
from r2et_jax.types import ApplyFn, Array

# Lanczos steps after which the largest eigenvalue has settled.
_SETTLED = 64
# Relative error in float32 of what is called exact.
EXACT = 1e-3
# Share of |λ|_max that 8 Lanczos steps must find.
LANCZOS = 0.9
# Draws of each input, for the spread of Hutchinson's estimate.
_DRAWS = 32


def errors(
    problem: PairProblem, model: Any, params: Any, *, num_inputs: int = 8
) -> dict[str, dict[str, float]]:
    """The penalties that training uses against all n Hessian-vector products.

    Args:
      problem: pairs of images or graphs.
      model: the Siamese module.
      params: its parameters.
      num_inputs: training inputs that are looked at.

    Returns:
      By method: `exact_h` (its `error`, the largest relative one) where the encoder is
      piecewise linear, else `hutchinson_h` (`bias`: of the mean over all draws and
      inputs, relative; `stderr`: of that; `spread`: the standard deviation of one draw,
      relative, median over inputs); and `ssr` (`error`, or `value`, the least share of
      |λ|_max, where it is estimated by 8 Lanczos steps).
    """
    (x, context), _ = problem.training(num_inputs)
    apply, split = problem.trained(model), problem.split(model)
    split = None if split is None else curvature_penalties.Split(*split)
    target = jnp.ones((), jnp.int32)

    def each(function, x=x, context=context):
        def per_example(x, context, key):
            return function(InContext(params, context), x, key)

        keys = jax.random.split(jax.random.key(0), num_inputs)
        # One input at a time: n products of each are held in chunks.
        run = jax.jit(lambda *batch: jax.lax.map(lambda b: per_example(*b), batch))
        return np.asarray(run(x, context, keys), np.float64)

    probability, reduced = score.probability(apply), (x, context)
    if problem.view.kind == "graph":
        probability, reduced = _of_edges(apply, context)
    norm = curvature.frobenius_norm(probability)
    whole = each(lambda params, x, key: norm(params, x, target), *reduced)
    steps = min(_SETTLED, reduced[0].shape[1])
    settled = curvature.spectral_norm(probability, num_steps=steps)
    largest = each(lambda params, x, key: settled(params, x, target, key=key), *reduced)
    ssr = curvature_penalties.spectral_curvature(apply, split=split)
    value = each(lambda params, x, key: ssr(params, x, target)) / largest
    if split is not None:
        penalty = curvature_penalties.frobenius_curvature(apply, split=split)
        exact = each(lambda params, x, key: penalty(params, x, target)) / whole
        return {
            "exact_h": {"error": np.abs(exact - 1).max()},
            "ssr": {"error": np.abs(value - 1).max()},
        }
    estimate = curvature_penalties.squared_curvature(apply)

    def draws(params, x, key):
        keys = jax.random.split(key, _DRAWS)
        return jax.lax.map(lambda k: estimate(params, x, target, key=k), keys)

    relative = each(draws) / whole[:, None] ** 2
    return {
        "hutchinson_h": {
            "bias": relative.mean() - 1,
            "stderr": relative.std() / np.sqrt(relative.size),
            "spread": float(np.median(relative.std(axis=1))),
        },
        "ssr": {"found": value.min()},
    }


def _of_edges(apply: ApplyFn, context: Any) -> tuple[Any, tuple[Array, Any]]:
    """The probability as a function of the factors of a graph's edges alone.

    The factor of an absent edge changes nothing: its row of the Hessian is zero.

    Returns:
      The probability; its factors of one [m, e], and their contexts.
    """
    _, graphs = context
    most = int(jnp.max(jnp.sum(graphs != 0, axis=1)))
    _, places = jax.lax.top_k(jnp.abs(graphs), most)

    def of_edges(both, factors, /):
        params, (parameters, places) = both
        whole = jnp.ones(graphs.shape[1], factors.dtype).at[places].set(factors)
        return apply(InContext(params, parameters), whole)

    ones = jnp.ones(places.shape, graphs.dtype)
    return score.probability(of_edges), (ones, (context, places))


def measured(name, num_inputs=2):
    problem = registry.problem(datasets.load(name))
    model = problem.model("vanilla")
    params = jax.jit(model.init)(jax.random.key(0), problem.sample)
    return errors(problem, model, params, num_inputs=num_inputs)


@pytest.mark.parametrize("factor", [1, 1.01])
def test_images_have_closed_forms_and_a_wrong_norm_is_seen(monkeypatch, factor):
    right = curvature.frobenius_norm

    def wrong(probability, **options):
        return lambda *args: factor * right(probability, **options)(*args)

    monkeypatch.setattr(curvature, "frobenius_norm", wrong)
    errors_of = measured("digits")
    assert set(errors_of) == {"exact_h", "ssr"}
    expected = 1 - 1 / factor
    assert errors_of["exact_h"]["error"] == pytest.approx(expected, abs=1e-4)
    assert 0 <= errors_of["ssr"]["error"] < EXACT


@pytest.mark.slow
def test_closed_forms_of_more_images():
    errors_of = measured("digits", num_inputs=8)
    assert 0 <= max(numbers["error"] for numbers in errors_of.values()) <= EXACT


@pytest.mark.slow
def test_graphs_have_estimates_with_their_spread():
    errors_of = measured("planted", num_inputs=8)
    assert set(errors_of) == {"hutchinson_h", "ssr"}
    numbers = errors_of["hutchinson_h"]
    assert abs(numbers["bias"]) <= 3 * numbers["stderr"] < 0.75
    assert 0.1 < numbers["spread"] < 2
    assert LANCZOS <= errors_of["ssr"]["found"] < 1.001


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
    probability, reduced = _of_edges(apply, context)
    assert reduced[0].shape[1] < x.shape[1] / 8
    whole = norms(score.probability(apply), x, context)
    assert float(whole.min()) > 0
    np.testing.assert_allclose(norms(probability, *reduced), whole, rtol=1e-4)
