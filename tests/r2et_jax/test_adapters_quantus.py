"""Metrics of Quantus on subjects, and its values against ours, where installed."""

import copy
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import adapters, metrics, saliency, score
from r2et_jax.metrics.faithfulness import constant_baseline
from r2et_jax.subject import explain, subject
from r2et_jax.threat import threat_model

pytestmark = pytest.mark.standard_promotion
N, SIDE, KEY = 9, 6, jax.random.key(2)
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(4, N)).astype(np.float32)
Y = np.array([0, 1, 1, 0])


def apply(params, x, /):
    w, v = params
    return jnp.tanh(w @ x) @ v


def examined(num_outputs=3, n=N, **options):
    draw = np.random.default_rng(1)
    params = draw.normal(size=(8, n)), draw.normal(size=(8, num_outputs))
    params = jax.tree.map(np.float32, params)
    plain = functools.partial(saliency.gradient, normalize=False)
    return subject(apply, params, explainer=plain, shape=(n,), **options)


@pytest.fixture
def quantus():
    """Quantus; the test is skipped where it, or PyTorch, is not installed."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    return pytest.importorskip("quantus", reason="Quantus is not installed")


def asked(metric, made, x=X, y=Y, **keywords):
    return np.array(
        metric(
            model=made.model,
            x_batch=x,
            y_batch=y,
            a_batch=None,
            explain_func=made.explain_func,
            **keywords,
        )
    )


QUIET = {"disable_warnings": True}
PLAIN = {"normalise": False, "return_aggregate": False, **QUIET}


def test_what_is_no_subject_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"takes a subject, .* got a function"):
        adapters.quantus(apply)
    with pytest.raises(ValueError, match="got one with a context"):
        adapters.quantus(examined().at(None, context=np.zeros(4)))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="needs PyTorch.*compare"):
        adapters.quantus(examined())


@pytest.mark.slow
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_predicts_and_explains_as_the_subject(quantus, num_outputs):
    import torch

    inner = examined(num_outputs)
    made = adapters.quantus(inner)
    shares = torch.softmax(made.model(torch.from_numpy(X)), dim=1).numpy()
    each = jax.vmap(lambda x: score.class_probabilities(apply(inner.params, x)))
    np.testing.assert_allclose(shares, each(X), atol=1e-6)
    maps = made.explain_func(model=made.model, inputs=X, targets=Y, device="cpu")
    np.testing.assert_array_equal(maps, explain(inner, X, Y))
    image = made.explain_func(made.model, X.reshape(4, 1, 3, 3), Y)
    np.testing.assert_array_equal(image.reshape(4, N), maps)


@pytest.mark.slow
def test_what_it_does_not_serve_is_refused(quantus):
    import torch

    made = adapters.quantus(examined())
    with pytest.raises(ValueError, match="no layers of PyTorch"):
        copy.deepcopy(made.model)
    with pytest.raises(ValueError, match="got another Linear"):
        made.explain_func(torch.nn.Linear(2, 2), X, Y)
    with pytest.raises(ValueError, match="channels first"):
        made.explain_func(made.model, np.zeros((1, 3, 2, 2)), Y)


@pytest.mark.slow
def test_the_largest_change_is_at_least_that_of_quantus_draws(quantus):
    made, inner = adapters.quantus(examined()), examined()
    np.random.seed(0)
    radius = 0.2
    for metric, ours in (
        (quantus.MaxSensitivity(nr_samples=20, lower_bound=radius, **PLAIN), "max"),
        (
            quantus.LocalLipschitzEstimate(
                nr_samples=20,
                perturb_func=quantus.batch_uniform_noise,
                perturb_func_kwargs={"lower_bound": radius},
                **PLAIN,
            ),
            "lipschitz",
        ),
    ):
        measure = metrics.sensitivity_max if ours == "max" else metrics.local_lipschitz
        explained = examined(target=None)
        # Of the class that Quantus is told: the predicted one.
        classes = np.array([apply(inner.params, x).argmax() for x in X])
        drawn = asked(metric, made, y=classes)
        largest = measure(explained, X, threat_model("linf", radius), key=KEY)
        assert (largest.value > 1.05 * drawn).all() and (drawn > 0).all()
        # The same quantity: the quotient at what was found, by Quantus.
        metric.nr_samples = 1
        metric.perturb_func = lambda arr, largest=largest, **_: largest.perturbed
        there = asked(metric, made, y=classes)
        np.testing.assert_allclose(largest.value, there, rtol=2e-3)


@pytest.mark.slow
def test_the_correlation_is_quantus_of_the_same_sets(quantus, monkeypatch):
    inner = examined()
    made = adapters.quantus(inner)
    runs, size = 40, 3
    probability = score.probability(apply)
    zero = constant_baseline(0.0)
    measure = metrics.faithfulness_correlation(
        probability, zero, subset_size=size, num_runs=runs
    )
    lots = jax.random.uniform(jax.random.split(KEY)[0], (runs, N), jnp.float32)
    sets = iter(np.argsort(lots, axis=1)[:, :size])
    # Quantus looks for the size of a table behind a channel.
    metric = quantus.FaithfulnessCorrelation(
        subset_size=size, nr_runs=runs, perturb_baseline=0.0, **PLAIN
    )
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(sets))
    theirs = asked(metric, made, x=X[:1, None], y=Y[:1], softmax=True)
    maps = explain(inner, X[:1], Y[:1])
    correlation = measure(inner.params, X[0], Y[0], maps[0], key=KEY)
    np.testing.assert_allclose(correlation, theirs[0], atol=1e-4)


@pytest.mark.slow
def test_flipping_pixels_is_the_deletion_without_its_start(quantus):
    inner = examined()
    made = adapters.quantus(inner)
    metric = quantus.PixelFlipping(features_in_step=1, perturb_baseline=0.0, **PLAIN)
    theirs = asked(metric, made, softmax=True)
    curves = metrics.deletion_insertion(
        score.probability(apply), constant_baseline(0.0)
    )
    for x, y, saliency_map, row in zip(X, Y, explain(inner, X, Y), theirs, strict=True):
        curve = curves(inner.params, x, y, saliency_map, key=KEY)
        np.testing.assert_allclose(curve.deletion[1:], row, atol=1e-5)


METRICS = {
    "AvgSensitivity": {"nr_samples": 5},
    "Complexity": {},
    "FaithfulnessEstimate": {"features_in_step": 6},
    "Infidelity": {"perturb_patch_sizes": [2], "n_perturb_samples": 5},
    "LocalLipschitzEstimate": {"nr_samples": 5},
    "MaxSensitivity": {"nr_samples": 5},
    "RegionPerturbation": {"patch_size": 2, "regions_evaluation": 3},
    "Selectivity": {"patch_size": 2},
    "Sparseness": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_quantus_run_on_images(quantus, name):
    made = adapters.quantus(examined(n=SIDE * SIDE))
    x = DRAW.uniform(size=(3, 1, SIDE, SIDE)).astype(np.float32)
    metric = getattr(quantus, name)(**METRICS[name], **QUIET)
    assert np.isfinite(asked(metric, made, x=x, y=Y[:3]).astype(float)).all()
