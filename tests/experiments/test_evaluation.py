"""Numbers of record of one model, from its gradients and the attacked inputs alone."""

import jax
import numpy as np
import pytest

from experiments.measures import evaluation
from experiments.problems import registry
from experiments.problems.sizes import top_sets
from experiments.robustness.corrected import corrected as corrected_records
from r2et_jax import datasets, metrics, models

K = 4


def jackknife(without):
    n = len(without)
    return np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2))


def measured(recorded):
    return {record["metric"]: record for record in recorded}


@pytest.fixture(scope="module")
def table():
    dataset = datasets.load("breast_cancer")
    model = models.MLP(hidden=(5,), activation="softplus")
    params = model.init(jax.random.key(3), dataset.train.x[0])
    return evaluation.Evaluator(dataset, model, k=K, num_test=14), model, params


def test_same_and_the_corrected_precision_by_all_pairs(table):
    evaluator, model, params = table
    x = np.asarray(evaluator.x)
    gradient = jax.vmap(jax.grad(lambda x: model.apply(params, x)[0]))
    tops = [set(np.argsort(-abs(g))[:K]) for g in np.asarray(gradient(x))]
    m = len(tops)

    def same(rows):
        return np.mean(
            [len(tops[a] & tops[b]) / K for a in rows for b in rows if a != b]
        )

    clean = measured(evaluator.clean(params))
    rows = list(range(m))
    without = [[r for r in rows if r != i] for i in rows]
    np.testing.assert_allclose(clean["same"]["value"], same(rows))
    expected = jackknife([same(rest) for rest in without])
    np.testing.assert_allclose(clean["same"]["stderr"], expected)
    assert clean["tied"]["value"] == 0 and clean["tied"]["n"] == m == 14

    attacked_records = measured(evaluator.attacked(params, "er_surrogate", 1.0))
    each = np.array(attacked_records[evaluation.PER_INPUT]["values"])
    np.testing.assert_allclose(attacked_records["p@k"]["value"], each.mean())
    np.testing.assert_allclose(
        attacked_records["p@k"]["stderr"], each.std(ddof=1) / m**0.5
    )

    def corrected(rows):
        return (each[rows].mean() - same(rows)) / (1 - same(rows))

    # From the records of both cells alone.
    fields = {"model": "mlp", "seed": 0}
    clean = [{**fields, "attack": "none", **clean["same"]}]
    attacked = [
        {**fields, "attack": "er", "epsilon": 1.0, **r}
        for r in attacked_records.values()
    ]
    (record,) = corrected_records(clean + attacked)
    assert record["metric"] == "p@k+" and record["attack"] == "er"
    np.testing.assert_allclose(record["value"], corrected(rows))
    expected = jackknife([corrected(rest) for rest in without])
    np.testing.assert_allclose(record["stderr"], expected, rtol=0.1)


def test_pairs_count_by_the_input_that_is_explained():
    problem = registry.problem(datasets.load("planted"))
    model = problem.model("vanilla")
    x = np.asarray(problem.inputs("test", 8).x)
    params = model.init(jax.random.key(0), problem.sample)
    evaluator = evaluation.Evaluator(problem, model, k=K, num_test=8)
    units = np.array([[np.array_equal(a, b) for b in x].index(True) for a in x])
    names = np.unique(units)
    assert 2 < len(names) < 8 and len(np.unique(evaluator.units)) == len(names)
    clean = measured(evaluator.clean(params))
    assert clean["same"]["n"] == clean["tied"]["n"] == clean["null"]["n"] == len(names)
    out = measured(evaluator.attacked(params, "random", 0.02))
    each = np.array(out[evaluation.PER_INPUT]["values"])
    assert len(each) == out["p@k"]["n"] == len(names)
    assert out["p@k_same_covariance"]["n"] == len(names)
    np.testing.assert_allclose(out["p@k"]["value"], each.mean(), atol=1e-4)
    expected = each.std(ddof=1) / len(names) ** 0.5
    np.testing.assert_allclose(out["p@k"]["stderr"], expected, atol=1e-4)


def test_a_map_that_is_not_finite_is_not_ranked():
    maps = np.array([[3, 2, 2, 1], [3, 2, 1, 0], [1, 0, 0, 0], [3, np.nan, 1, 0]])
    ranked = top_sets(maps, np.array([2, 1, 2, 2]))
    assert metrics.mean_topk_overlap(ranked, k=2).num_nonfinite == 1
