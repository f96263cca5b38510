"""The largest change of an explanation, against balls whose answer is known."""

import dataclasses
import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import metrics, saliency, score
from r2et_jax.metrics import worst_case
from r2et_jax.models import MLP
from r2et_jax.subject import subject
from r2et_jax.threat import contains, threat_model

KEY = jax.random.key(0)
PLAIN = functools.partial(saliency.gradient, normalize=False)
SLOPES = jnp.array([0.5, -2.0, 1.0, 0.3])
# Far from the kinks of |·| at 0.
X = np.array([[3.0, 4.0, -5.0, 6.0], [-4.0, 3.0, 3.0, -3.0]], np.float32)


def square(params, x, /):
    """Its gradient is params·x: the map changes by |params·δ|, entry by entry."""
    return 0.5 * jnp.sum(params * x**2)[None]


SQUARE = subject(square, SLOPES, explainer=PLAIN)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_reaches_the_largest_change_of_a_quadratic(norm):
    threat = threat_model(norm, 0.5)
    largest = metrics.sensitivity_max(SQUARE, X, threat, key=KEY)
    slopes = np.asarray(SLOPES)
    # l2: all along the steepest axis; l∞: a corner.
    most = np.abs(slopes).max() if norm == "l2" else np.linalg.norm(slopes)
    expected = 0.5 * most / np.linalg.norm(slopes * X, axis=1)
    np.testing.assert_allclose(largest.value, expected, rtol=1e-3)
    assert (largest.sampled < 0.99 * expected).all()
    if norm == "linf":
        return
    steepest = metrics.local_lipschitz(SQUARE, X, threat, key=KEY)
    np.testing.assert_allclose(steepest.value, np.abs(slopes).max(), rtol=1e-2)
    assert (steepest.value < 1.001 * np.abs(slopes).max()).all()
    assert (steepest.sampled <= steepest.value).all()


def network(activation):
    model = MLP(activation=activation)
    x = np.float32(np.random.default_rng(3).normal(size=(6, 20)))
    return subject(model, model.init(jax.random.key(1), x[0])), x


@pytest.mark.parametrize(
    ("measure", "activation"),
    [(metrics.sensitivity_max, "softplus"), (metrics.local_lipschitz, "relu")],
)
def test_what_is_found_is_there_and_above_all_draws(measure, activation):
    examined, x = network(activation)
    threat = threat_model("l2", 1.0)
    largest = measure(examined, x, threat, key=KEY)
    explain = jax.jit(jax.vmap(examined.saliency(), (None, 0, 0)))
    target = np.int32(
        [score.predicted_class(examined.apply(examined.params, row)) for row in x]
    )
    clean, moved = (
        np.asarray(explain(examined.params, points, target))
        for points in (x, largest.perturbed)
    )
    by = clean if measure is metrics.sensitivity_max else largest.perturbed - x
    change = np.linalg.norm(moved - clean, axis=1)
    np.testing.assert_allclose(
        largest.value, change / np.linalg.norm(by, axis=1), rtol=1e-3
    )
    assert all(
        contains(threat, *both) for both in zip(x, largest.perturbed, strict=True)
    )
    assert (largest.value >= largest.sampled).all() and (
        largest.num_nonfinite == 0
    ).all()
    # Twenty draws see little of twenty dimensions.
    assert largest.value.mean() > 1.3 * largest.sampled.mean()


@pytest.mark.filterwarnings("ignore:the model.s program switches")
def test_the_rule_of_the_same_class_is_kept():
    """Beyond the kink another class is predicted, and the map is another one."""

    def two_sides(params, x, /):
        return jnp.where(x[0] > 0, 1.0, -1.0)[None] * (jnp.exp(x[1]) + x[0] ** 2)

    examined = subject(two_sides, None, explainer=PLAIN)
    examined = examined.at(jnp.zeros(1))
    x = np.float32([[0.1, 0.0]])
    free = threat_model("l2", 1.0)
    kept = dataclasses.replace(free, prediction="same_class")
    far = metrics.sensitivity_max(examined, x, free, key=KEY)
    near = metrics.sensitivity_max(examined, x, kept, key=KEY)
    assert near.value < far.value + 1e-6
    assert near.perturbed[0, 0] > 0 and near.value > 0.5


def test_a_black_box_is_judged_by_draws_alone():
    box = subject(square, SLOPES, explainer=saliency.occlusion, differentiable=False)
    largest = metrics.sensitivity_max(box, X, threat_model("l2", 0.5), key=KEY)
    np.testing.assert_array_equal(largest.value, largest.sampled)
    assert (largest.value > 0).all()


def test_no_budget_changes_nothing_and_nan_is_said():
    def root(params, x, /):
        return jnp.sum(params * jnp.sqrt(x))[None]

    examined = subject(root, SLOPES, explainer=PLAIN)
    largest = metrics.local_lipschitz(examined, X, threat_model("l2", 0.0), key=KEY)
    assert np.isnan(largest.value).all() and np.isnan(largest.sampled).all()
    np.testing.assert_array_equal(largest.perturbed, X)
    assert (largest.num_nonfinite >= 20).all()
    largest = metrics.local_lipschitz(SQUARE, X, threat_model("l2", 0.0), key=KEY)
    assert (largest.value == 0).all() and (largest.num_nonfinite == 0).all()
    np.testing.assert_array_equal(largest.perturbed, X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 0}, "num_draws must be an integer of at least 1, got 0"),
        ({"num_starts": 21}, "num_starts must be at most num_draws = 20, got 21"),
        ({"num_steps": 1.5}, "num_steps must be an integer"),
        ({"rho": 0.0}, "rho must be positive"),
        ({"key": 3}, "key must be one key"),
    ],
)
def test_what_it_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.sensitivity_max(SQUARE, X, threat_model(), **{"key": KEY, **options})


@pytest.mark.standard_promotion
def test_examples_in_docstrings():
    result = doctest.testmod(worst_case)
    assert result.attempted > 8 and result.failed == 0
