"""Bounds of auto_LiRPA, where it is installed, beside ours on the same network."""

import jax
import numpy as np
import pytest

from experiments.certify import lirpa, variants, variants_report
from experiments.problems import registry
from r2et_jax import datasets, models, threat

K, BALL = 2, threat.threat_model("l2", 0.2)


def test_what_it_has_no_rule_for_is_said(monkeypatch):
    monkeypatch.setattr(lirpa.importlib.util, "find_spec", lambda name: name)
    smooth = models.MLP(activation="tanh")
    assert lirpa.why_not(smooth, BALL) == ""
    assert "relu" in lirpa.why_not(models.MLP(activation="relu"), BALL)
    assert "MLP" in lirpa.why_not(models.MLP(num_outputs=3, activation="tanh"), BALL)
    assert "MLP" in lirpa.why_not(models.MLP(hidden=(), activation="tanh"), BALL)
    boxed = threat.threat_model("l2", 0.2, lower=np.zeros(3))
    assert "box" in lirpa.why_not(smooth, boxed)
    monkeypatch.setattr(lirpa.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in lirpa.why_not(smooth, BALL)


def test_it_stands_among_the_variants_where_it_is_there(monkeypatch):
    given = {}

    def separations(model, params, gradients, features):
        given["features"] = features

        def run(x, epsilon):
            assert epsilon == 0.1
            # Of each input the first feature stays above all others, no other does.
            out = np.full((len(x), K, x.shape[1]), -1.0)
            out[:, 0] = 1
            return out

        return run

    monkeypatch.setattr(variants, "PROGRAMS", {"intervals": {}})
    monkeypatch.setattr(variants, "_SLOPES", ("intervals",))
    monkeypatch.setattr(variants, "LAYERS", {})
    monkeypatch.setattr(lirpa, "separations", separations)
    monkeypatch.setattr(lirpa, "why_not", lambda model, ball: "")
    problem = registry.problem(datasets.load("breast_cancer"))
    model = models.MLP(hidden=(4,), activation="tanh")
    params = model.init(jax.random.key(0), problem.sample)
    made = variants.measure(problem, model, params, k=K, epsilon=0.1, num_test=5)
    assert made[lirpa.NAME][0]["value"] == 0.5
    assert given["features"].shape == (5, K)
    monkeypatch.setattr(lirpa, "why_not", lambda model, ball: "no")
    made = variants.measure(problem, model, params, k=K, epsilon=0.1, num_test=5)
    assert lirpa.NAME not in made
    left = variants_report._left_out([{"method": "sp", variants.VARIANT: "intervals"}])
    assert len(left) == 1 and "left out for sp" in left[0]


@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_its_bounds_are_of_this_gradient(hidden, activation):
    model = models.MLP(hidden=hidden, activation=activation)
    if reason := lirpa.why_not(model, BALL):
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    params = model.init(jax.random.key(0), x[0])
    explain = jax.vmap(jax.grad(lambda x: model.apply(params, x)[0]))
    clean = np.asarray(explain(x))
    features = np.argsort(-np.abs(clean), axis=1)[:, :K]
    run = lirpa.separations(model, params, clean, features)

    def gaps(maps, i):
        signed = np.sign(clean[i, features[i]]) * maps[:, features[i]]
        return signed[:, :, None] - np.abs(maps)[:, None]

    others = np.arange(4) != features[:, :, None]
    at_point, in_ball = run(x, 1e-6), run(x, 0.2)
    for i in range(len(x)):
        there = gaps(clean[i : i + 1], i)[0]
        np.testing.assert_allclose(at_point[i][others[i]], there[others[i]], atol=1e-4)
        moves = rng.normal(size=(2000, 4))
        moves *= 0.2 / np.linalg.norm(moves, axis=1, keepdims=True)
        seen = gaps(np.asarray(explain((x[i] + moves).astype(np.float32))), i).min(0)
        assert (seen >= in_ball[i] - 1e-5)[others[i]].all()
        # Not vacuous: within a few times of what is seen.
        proved, moved = (there - in_ball[i])[others[i]], (there - seen)[others[i]]
        assert proved.mean() < 6 * moved.mean()
