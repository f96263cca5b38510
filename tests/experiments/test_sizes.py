"""Top sets of a size of their own: k = min(k, half of the edges) for every graph."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments.measures import evaluation
from experiments.models import candidates
from experiments.problems import registry, sizes
from r2et_jax import datasets

K = 5


class Found(NamedTuple):
    inner: tuple
    member_precision: np.ndarray
    curve_evaluations: np.ndarray
    nothing: None


def test_what_is_found_comes_back_in_order():
    of = np.array([3, 1, 3, 2, 1])
    seen = []

    def run(k, rows):
        seen.append((k, np.arange(5)[rows].tolist()))
        values = np.arange(5.0)[rows]
        inner = values, np.stack([values, values * k], axis=1)
        return Found(inner, np.stack([values, -values, values]), np.array([7, 9]), None)

    gathered = sizes.by_size(of, run)
    assert seen == [(1, [1, 4]), (2, [3]), (3, [0, 2])]
    np.testing.assert_array_equal(gathered.inner[0], np.arange(5))
    np.testing.assert_array_equal(gathered.inner[1][:, 1], np.arange(5) * of)
    expected = np.arange(5) * np.array([[1], [-1], [1]])
    np.testing.assert_array_equal(gathered.member_precision, expected)
    np.testing.assert_array_equal(gathered.curve_evaluations, [7, 9])
    assert gathered.nothing is None


def test_one_size_is_measured_at_once():
    marker = object()
    assert sizes.by_size(np.full(4, 9), lambda k, rows: (k, rows, marker)) == (
        9, slice(None), marker,
    )  # fmt: skip


def test_top_sets_keep_as_many_as_they_have():
    maps = np.array([[1.0, 3, 3, 2], [4, 0, 1, 5]])
    kept = sizes.top_sets(maps, np.array([1, 3]))
    np.testing.assert_array_equal(kept, [[0, 3, 0, 0], [4, 0, 1, 5]])


@pytest.fixture(scope="module")
def sparse():
    """Graphs of 7 or 11 edges, whose top sets are of 3 or 5."""
    whole = datasets.load("planted")

    def few(split):
        inputs = split.inputs.copy()
        for g, graph in enumerate(inputs):
            order = np.argsort(-np.abs(graph))
            graph[order[(7, 11)[g % 2] :]] = 0
        return split._replace(inputs=inputs)

    splits = {name: few(getattr(whole, name)) for name in ("train", "valid", "test")}
    meta = {**whole.meta, "sparse": True}
    return registry.problem(whole._replace(meta=meta, truth=None, **splits))


@pytest.fixture(scope="module")
def model(sparse):
    module = sparse.model("vanilla")
    params = module.init(jax.random.key(0), sparse.sample)
    stacked = sparse.settle(module, jax.tree.map(lambda leaf: leaf[None], params))
    return module, jax.tree.map(lambda leaf: leaf[0], stacked)


def test_half_of_the_edges_at_most(sparse):
    x = sparse.inputs("test").x
    edges = [sum(value != 0 for value in graph) for graph in np.asarray(x).tolist()]
    expected = [min(K, number // 2) for number in edges]
    assert set(expected) == {3, 5}
    assert sparse.top_sizes(x, K).tolist() == expected
    assert (sparse.most_k, sparse.penalty_k(K)) == (50, 3)
    for name in ("planted", "digits"):
        problem = registry.problem(datasets.load(name))
        assert problem.most_k == problem.k == problem.penalty_k(problem.k)
        assert set(problem.top_sizes(problem.inputs("test").x, problem.k)) == {
            problem.k
        }


def test_every_graph_is_measured_by_its_own_size(sparse, model):
    module, params = model
    evaluator = evaluation.Evaluator(sparse, module, k=K, num_test=9)
    of = sparse.top_sizes(evaluator.x, K)
    assert len(set(of)) > 1
    clean = {r["metric"]: r["value"] for r in evaluator.clean(params)}
    maps = np.concatenate(
        [
            evaluation._explain(module, int(k), evaluator.view)(
                params,
                evaluator.x[i : i + 1],
                evaluator._context(params)[i : i + 1],
                jax.random.split(jax.random.key(0), 1),
            )[0]
            for i, k in enumerate(of)
        ]
    )
    tops = [set(np.argsort(-m)[:k].tolist()) for m, k in zip(maps, of, strict=True)]
    # A graph with two partners is one input: it is not compared with itself.
    units = evaluator.units
    names, counts = np.unique(units, return_counts=True)
    assert len(names) < 9
    shares = [
        np.mean(
            [
                len(tops[a] & tops[b]) / of[a]
                for a in np.flatnonzero(units == name)
                for b in np.flatnonzero(units == other)
            ]
        )
        for name in names
        for other in names
        if name != other
    ]
    np.testing.assert_allclose(clean["same"], np.mean(shares), rtol=1e-6)
    assert clean["tied"] == 0 and clean["p@k"] == 1
    recorded = evaluator.attacked(params, "random", 0.1)
    (each,) = (r["values"] for r in recorded if r["metric"] == evaluation.PER_INPUT)
    of = np.array([of[units == name][0] for name in names])
    left = np.array(each) * of * counts
    np.testing.assert_allclose(left, np.round(left), atol=5e-3)
    assert np.any(left < of * counts), "nothing was found"
    left = np.array(each) * K * counts
    assert np.any(np.abs(left - np.round(left)) > 0.1), "all of one size"


def test_selection_takes_the_same_sizes(sparse, model, monkeypatch):
    module, params = model
    monkeypatch.setattr(candidates, "_ATTACK", "random")
    candidates.validation_precision.cache_clear()
    asked = []
    compiled = candidates.validation_precision

    def spy(module, k, view):
        asked.append(k)
        return compiled(module, k, view)

    monkeypatch.setattr(candidates, "validation_precision", spy)
    measured = candidates.Candidates(sparse, module, k=K, num_valid=6)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    (value,) = measured.precision(stacked, np.array([True]))
    compiled.cache_clear()
    assert 0 < value <= 1
    assert asked == sorted(set(sparse.top_sizes(measured.x[:6], K).tolist()))
