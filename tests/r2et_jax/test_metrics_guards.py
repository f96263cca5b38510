"""The guard columns on data whose answer is known by construction."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import LinearRegression

from r2et_jax import metrics
from r2et_jax.metrics.guards import background_share, data_directions


def one_hot_data(num_inputs=200, dtype=np.float64):
    """Two numeric columns, and one complete group of three at columns 2, 3, 4."""
    rng = np.random.default_rng(0)
    numeric = rng.normal(size=(num_inputs, 2)) * [1.0, 30.0] + [0.0, 7.0]
    group = np.eye(3)[rng.integers(0, 3, num_inputs)]
    return np.concatenate([numeric, group], axis=1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardised", [False, True])
def test_null_share_finds_the_direction_of_a_one_hot_group(dtype, standardised):
    train = one_hot_data()
    null = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    if standardised:  # Σ x_j is constant: along std_j after division by std_j
        null = null * train.std(axis=0)
        train = (train - train.mean(axis=0)) / train.std(axis=0)
    null = null / np.linalg.norm(null)
    other = np.array([1.0, -2.0, 0.0, 0.0, 0.0])
    gradients = np.stack([null, other, 3 * null + 4 * other / np.linalg.norm(other)])
    result = metrics.null_share(gradients.astype(dtype), train.astype(dtype))
    assert result.dimension == 1
    assert (result.n, result.num_zero, result.num_nonfinite) == (3, 0, 0)
    shares = np.array([1.0, 0.0, 9 / 25])
    np.testing.assert_allclose(result.mean, shares.mean(), atol=1e-6)
    np.testing.assert_allclose(result.stderr, shares.std(ddof=1) / 3**0.5, atol=1e-6)


@pytest.mark.parametrize("num_inputs", [4, 60])  # fewer inputs than features, and more
def test_null_share_equals_a_dense_null_space(num_inputs):
    rng = np.random.default_rng(1)
    train = rng.normal(size=(num_inputs, 3)) @ rng.normal(size=(3, 10)) + 5
    gradients = rng.normal(size=(8, 10))
    null = scipy.linalg.null_space(train - train.mean(axis=0), rcond=1e-8)
    projected = np.sum((gradients @ null) ** 2, axis=1)
    expected = np.mean(projected / np.sum(gradients**2, axis=1))
    result = metrics.null_share(gradients, train)
    assert result.dimension == null.shape[1] == 7
    np.testing.assert_allclose(result.mean, expected, rtol=1e-9)


def test_null_share_counts_what_it_leaves_out_and_ignores_scale():
    train = one_hot_data()
    gradients = np.zeros((5, 5))
    gradients[0, 2:] = 1e-200  # its square underflows, in float64 too
    gradients[1, 0] = 1e200
    gradients[3, 1] = np.nan
    gradients[4, 1] = np.inf
    result = metrics.null_share(gradients, train)
    np.testing.assert_allclose(result.mean, 0.5, atol=1e-12)
    assert (result.n, result.num_zero, result.num_nonfinite) == (2, 1, 2)
    nothing = metrics.null_share(gradients[2:3], train)
    assert np.isnan(nothing.mean)
    assert nothing.num_zero == 1


def test_null_share_of_constant_columns_and_constant_data():
    train = np.full((50, 3), 0.1, np.float32)
    gradients = np.array([[1.0, 2.0, 2.0]])
    assert metrics.null_share(gradients, train).dimension == 3
    np.testing.assert_allclose(metrics.null_share(gradients, train).mean, 1)
    train[:, 2] = np.random.default_rng(2).random(50)
    result = metrics.null_share(gradients, train)
    assert result.dimension == 2
    np.testing.assert_allclose(result.mean, 5 / 9)


def test_models_may_share_the_directions_of_the_data():
    rng = np.random.default_rng(4)
    train, gradients = one_hot_data(), rng.normal(size=(3, 5))
    directions = data_directions(train)
    assert metrics.null_share(gradients, train, directions=directions) == (
        metrics.null_share(gradients, train)
    )
    np.testing.assert_allclose(directions.T @ directions, np.eye(4), atol=1e-12)


def test_null_share_mistakes_raise():
    train = one_hot_data()
    with pytest.raises(ValueError, match="same n"):
        metrics.null_share(np.ones((2, 4)), train)
    with pytest.raises(ValueError, match=r"shape \[m, n\]"):
        metrics.null_share(np.ones(5), train)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        metrics.null_share(np.ones((2, 5)), train, tolerance=0)
    with pytest.raises(ValueError, match="must be finite"):
        metrics.null_share(np.ones((2, 5)), train + np.nan)


def test_linear_r2_equals_sklearn():
    rng = np.random.default_rng(3)
    x = one_hot_data()  # rank deficient
    logits = x @ rng.normal(size=5) / 10 + np.sin(3 * x[:, 0])
    expected = LinearRegression().fit(x, logits).score(x, logits)
    assert 0.1 < expected < 0.9999
    for shape in (logits, logits[:, None]):
        np.testing.assert_allclose(metrics.linear_r2(x, shape), expected, rtol=1e-9)
    # Two classes: only the difference matters, whatever both share.
    shared = 5 * np.cos(x[:, 0] * x[:, 1])
    two = np.stack([shared, shared + logits], axis=1)
    np.testing.assert_allclose(metrics.linear_r2(x, two), expected, rtol=1e-9)


def test_linear_r2_at_its_ends():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    linear = x @ rng.normal(size=(3, 4)) + 2
    np.testing.assert_allclose(metrics.linear_r2(x, linear), 1, atol=1e-9)
    assert np.isnan(metrics.linear_r2(x, linear[:, [0, 0, 0]]))  # softmax is constant
    symmetric = np.concatenate([x, -x])
    assert metrics.linear_r2(symmetric, np.abs(symmetric[:, 0])) < 1e-9
    assert np.isnan(metrics.linear_r2(x, np.full(40, 0.1)))
    assert np.isnan(metrics.linear_r2(x, np.where(np.arange(40) == 3, np.nan, x[:, 0])))
    assert np.isnan(metrics.linear_r2(x[:4], rng.normal(size=4)))  # any logit fits
    assert not np.isnan(metrics.linear_r2(x[:5], rng.normal(size=5)))
    with pytest.raises(ValueError, match="same first axis"):
        metrics.linear_r2(x, x[:3, 0])
    with pytest.raises(ValueError, match=r"shape \[m, n\]"):
        metrics.linear_r2(x[0], x[0])


def test_background_share():
    maps = np.float32([[4, 3, 2, 1], [0, 0, 5, 0], [1, 2, 3, 4], [0, 0, 0, 0]])
    x = np.float32([[0, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    result = background_share(maps, x, k=3)
    np.testing.assert_allclose(result.mean, (2 / 3 + 0 + 1) / 3, rtol=1e-6)
    assert (result.n, result.num_nonfinite) == (3, 1)
    with pytest.raises(ValueError, match="same shape"):
        background_share(maps, x[:2], k=3)
    with pytest.raises(ValueError, match="k must lie in"):
        background_share(maps, x, k=4)
