"""Thickness of a model's inputs against segments by hand, and what it refuses."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import metrics
from r2et_jax.subject import subject
from r2et_jax.threat import sample, threat_model

KEY = jax.random.key(5)
X = np.array([[2.0, 1.0], [1.0, 3.0], [-2.0, 0.5]], np.float32)


def square(params, x, /):
    """|g| = |x|: the ranking at a point is that of its own magnitudes."""
    return 0.5 * jnp.sum(params * x**2)[None]


SQUARE = subject(square, jnp.ones(2))


def by_hand(x, ends, num_points):
    """Share of the points on each segment at which the clean top feature leads."""
    top = np.argmax(np.abs(x))
    times = (np.arange(num_points) + 0.5) / num_points
    points = np.abs(x + times[:, None, None] * (ends - x))
    return np.mean(points[..., top] >= points[..., 1 - top])


def test_docstring_examples_run():
    # The package shows the function of that name.
    import importlib

    module = importlib.import_module("r2et_jax.metrics.thickness")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_the_way_to_given_ends_is_followed():
    ends = np.array([[-2.0, 1.0], [1.0, 3.0], [-2.0, 4.5]], np.float32)
    thick = metrics.thickness(
        SQUARE, X, threat_model(), k=1, key=KEY, distribution="given", ends=ends,
        num_points=100,
    )  # fmt: skip
    expected = [by_hand(x, end, 100) for x, end in zip(X, ends, strict=True)]
    assert expected[1] == 1 and 0.3 < expected[0] < 0.8 > expected[2] > 0.1
    np.testing.assert_allclose(thick.mean, expected, atol=0.011)
    np.testing.assert_allclose(thick.least, thick.mean)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_draws_are_those_of_each_input_alone(distribution):
    threat = threat_model("l2", 2.0)
    asked = {"k": 1, "key": KEY, "distribution": distribution, "num_draws": 40}
    thick = metrics.thickness(SQUARE, X, threat, sigma=0.9, batch_size=2, **asked)
    for i, x in enumerate(X):
        key = jax.random.fold_in(KEY, i)
        draws = x + 0.9 * jax.random.normal(key, (40, 2))
        if distribution == "uniform":
            draws = [sample(threat, x, key=k) for k in jax.random.split(key, 40)]
        np.testing.assert_allclose(
            thick.mean[i], by_hand(x, np.array(draws), 20), atol=2e-3
        )
    assert 0.5 < thick.mean.min() < 1
    twice = metrics.thickness(SQUARE, X, threat, sigma=0.9, batch_size=3, **asked)
    np.testing.assert_allclose(twice.mean, thick.mean, atol=1e-6)


def test_each_input_has_its_context_and_its_least_pair():
    """The context turns the ranking round, and a pair further apart holds longer."""

    def switched(both, x, /):
        params, flip = both
        return 0.5 * jnp.sum(params * jnp.where(flip, x[::-1], x) ** 2)[None]

    x = np.array([[3.0, 2.0, 0.5]] * 2, np.float32)
    examined = subject(switched, jnp.array([1.0, 1.0, 1.0]), context=np.array([0, 1]))
    ends = np.array([[0.0, 2.0, 0.5]] * 2, np.float32)
    thick = metrics.thickness(
        examined, x, threat_model(), k=1, key=KEY, distribution="given", ends=ends,
        num_points=60,
    )  # fmt: skip
    # The first falls below 2 after a third, and below .5 after five sixths.
    np.testing.assert_allclose(thick.least, 1 / 3, atol=0.02)
    np.testing.assert_allclose(thick.mean, (1 / 3 + 5 / 6) / 2, atol=0.02)
    weighted = subject(switched, jnp.array([1.0, 1.0, 9.0]), context=np.array([0, 1]))
    first, second = metrics.thickness(
        weighted, x, threat_model(), k=1, key=KEY, distribution="given", ends=ends,
        num_points=60,
    ).mean  # fmt: skip
    assert first != second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distribution": "normal"}, "unknown distribution 'normal'; known: gaussian"),
        ({"ends": X}, "ends belong to distribution='given', got .*'uniform' with"),
        ({"distribution": "given"}, "got distribution='given' without ends"),
        ({"distribution": "given", "ends": X[:1]}, r"of x, \(3, 2\), got \(1, 2\)"),
        ({"k": 2}, "k must lie in 1…n−1 = 1…1"),
        ({"num_draws": 0}, "num_draws must be an integer of at least 1, got 0"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"key": 3}, "key must be one key"),
    ],
)
def test_what_it_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.thickness(SQUARE, X, threat_model(), **{"k": 1, "key": KEY, **options})
