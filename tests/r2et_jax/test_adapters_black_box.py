"""Predict functions without gradients: explained and attacked by evaluations alone."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters, attacks, saliency, score
from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.audit import guards
from tests.r2et_jax import foreign

N, K = foreign.N, 2
OWN = foreign.weights(num_outputs=3)
X = np.random.default_rng(0).normal(size=(6, N)).astype(np.float32)
THREAT = r2.threat_model("l2", 0.5)


def predict(x):
    assert isinstance(x, np.ndarray) and x.ndim == 2
    first, bias, last, last_bias = OWN
    return np.maximum(x @ first + bias, 0) @ last + last_bias


def closure(params, x, /):
    first, bias, last, last_bias = params
    return jax.nn.relu(x @ first + bias) @ last + last_bias


def box(**options):
    return adapters.black_box(predict, X, **options)


def without_gradients():
    explainer = box().form.explainer
    return r2.subject(closure, OWN, explainer=explainer, differentiable=False)


def test_outputs_and_maps_are_those_of_the_function():
    examined = box()
    values = jax.vmap(examined.apply, (None, 0))((), X)
    np.testing.assert_allclose(values, predict(X), rtol=1e-5)
    nested = jax.vmap(jax.vmap(examined.apply, (None, 0)), (None, 0))(
        (), X.reshape(2, 3, N)
    )
    np.testing.assert_array_equal(nested, values.reshape(2, 3, 3))
    maps = r2.explain(examined, X)
    for x, row in zip(X, maps, strict=True):
        target = int(predict(x[None])[0].argmax())

        def log_odds(x, target=target):
            logits = predict(x[None])[0].astype(float)
            others = np.delete(logits, target)
            return logits[target] - np.log(np.exp(others).sum())

        change = np.zeros(N)
        for i in range(N):
            moved = x.copy()
            moved[i] = X[:, i].mean()
            change[i] = abs(log_odds(x) - log_odds(moved))
        np.testing.assert_allclose(row, change / change.sum(), rtol=1e-3, atol=1e-5)
    assert not examined.form.differentiable and examined.shape == (N,)
    assert box().form == examined.form  # by which programs are found again


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_occlusion_sets_each_feature_to_its_baseline(chunk_size):
    def cube(params, x, target, /):
        return jnp.sum(params * x**3)

    x, weights = X[0].reshape(3, 2), jnp.arange(1.0, 7.0).reshape(3, 2)
    options = {"normalize": False, "chunk_size": chunk_size}
    explain = saliency.occlusion(cube, baseline=tuple(range(6)), **options)
    expected = np.abs(weights * (x**3 - np.arange(6.0).reshape(3, 2) ** 3))
    np.testing.assert_allclose(explain(weights, x, 0), expected, rtol=1e-4)
    along_axis = saliency.occlusion(cube, baseline=2.0, channel_axis=1, **options)
    expected = np.abs(weights * (x**3 - 8)).sum(axis=1)
    np.testing.assert_allclose(along_axis(weights, x, 0), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="one number or 6, got 4"):
        saliency.occlusion(cube, baseline=(0.0,) * 4)(weights, x, 0)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("random", 1), pytest.param("strongest", 600, marks=pytest.mark.slow)],
)
def test_attacks_are_those_on_the_same_function_in_jax(name, evaluations):
    attack = r2.attack(name, k=K, evaluations=evaluations)
    attacked, expected = (
        attack(subject, X, THREAT, key=jax.random.key(0))
        for subject in (box(), without_gradients())
    )
    assert expected.precision.mean() < 1
    np.testing.assert_allclose(
        attacked.precision.mean(), expected.precision.mean(), 0.01
    )
    if name == "strongest":
        assert (
            attacked.details.left_out == ()
            and attacked.details.evaluations.max() <= 600
        )
        starts = [f"evolution_{start}" for start in attacks.ensemble.STARTS]
        members = default_ensemble(box(), k=K, evaluations=600)
        assert [member.name for member in members] == ["random", *starts]


def test_what_asks_for_gradients_is_told():
    examined, key = box(), jax.random.key(0)
    for name in ("er", "er_segment", "er_surrogate", "mse"):
        with pytest.raises(ValueError, match=f"'{name}' takes gradients, which a blac"):
            r2.attack(name, k=K)(examined, X, THREAT, key=key)
    for ask in (
        lambda: r2.explain(adapters.black_box(predict, X, explainer=r2.gradient), X),
        lambda: jax.grad(lambda x: examined.apply((), x)[0])(X[0]),
        lambda: jax.jit(jax.hessian(lambda x: examined.apply((), x)[0]))(X[0]),
        lambda: examined.stand_in(3.0),
    ):
        with pytest.raises(ValueError, match="a black box has no gradients"):
            ask()
    with pytest.raises(ValueError, match="a black box has no program"):
        r2.certify(examined, X, THREAT, k=K)


def test_an_audit_says_that_it_searched_at_random():
    report = r2.audit(box(), X, k=K, threat=THREAT, evaluations=600)
    expected = r2.attack("strongest", k=K, evaluations=600)(
        box(), X, THREAT, key=jax.random.key(0)
    )
    np.testing.assert_array_equal(report.precision, expected.precision)
    assert "from nothing, as a black box has none: it is searched" in str(report)
    assert np.isnan(report.vanished) and not report.asked.differentiable
    assert (report.noise_precision == 1).all()


def test_its_guards_hold_no_gradient():
    seen = guards.look(box().form, k=K)((), X[0], key=jax.random.key(0))
    assert np.isnan(seen.gradient).all() and np.isfinite(seen.map).all()


def by_batch(x):
    return x - x.mean(axis=0)


def by_call(x):
    return np.random.default_rng().normal(size=(len(x), 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "predict must be a function of NumPy arrays.*got 3"),
        (dict, "predict must be a function of NumPy arrays.*got <class 'dict'>"),
        (lambda x: x[:, 0].astype(str), "numbers, got dtype <U.*take the probabil"),
        (lambda x: x[:, :, None], r"for m = 6 inputs, got shape \(6, 6, 1\)"),
        (lambda x: x[:2], r"for m = 6 inputs, got shape \(2, 6\)"),
        (by_batch, "each input its own output"),
        (by_call, "the same at each call"),
    ],
)
def test_functions_that_do_not_predict_row_by_row_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        adapters.black_box(function, X)


def test_labels_and_values_of_any_number_type_serve():
    votes = adapters.black_box(lambda x: x[:, 0] > 0, X)
    np.testing.assert_array_equal(votes.apply((), X[0]), [float(X[0, 0] > 0)])
    made = adapters.black_box(lambda x: x[:, 0], X, output="regression", baseline=0)
    np.testing.assert_allclose(made.apply((), X[0]), X[0, :1])
    assert score.predicted_class(made.apply((), X[0])).dtype == jnp.int32
    with pytest.raises(ValueError, match=r"x must have shape \(6,\), got \(5,\)"):
        votes.apply((), X[0, :5])


def test_docstring_examples_run():
    module = importlib.import_module("r2et_jax.adapters.predict_function")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
