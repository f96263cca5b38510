"""Labels, weights and parameters that a loss cannot take: refused, or NaN if traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives

N = 4
X = np.random.default_rng(0).normal(size=(3, N)).astype(np.float32)
THREE = np.random.default_rng(1).normal(size=(3, N)).astype(np.float32)
METHODS = {"vanilla": [], "wd": [1e-3], "r2et_nh": [0.1], "at": []}


def apply(params, x, /):
    return params @ jnp.tanh(x)


def loss(name):
    return objectives.objective(name, apply, k=2).loss


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("y", "told"),
    [
        ([1, 2, 3], r"0…2, got \[3\]"),
        ([-1, 0, 1], r"0…2, got \[-1\]"),
        ([0.0, 1.0, 2.0], "integers, got dtype float"),
        (np.eye(3, dtype=int), r"got shape \(3, 3\); of one-hot rows take the argmax"),
        ([[0], [1], [2]], r"got shape \(3, 1\)"),
        ([0, 1], r"3 class indices .* got shape \(2,\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(name, y, told):
    weights = np.float32(METHODS[name])
    with pytest.raises(ValueError, match=f"y must be .*{told}"):
        loss(name)(THREE, X, np.array(y), weights)
    if "dtype" in told or "shape" in told:
        with pytest.raises(ValueError, match=f"y must be .*{told}"):
            jax.eval_shape(loss(name), THREE, X, np.array(y), weights)


def test_of_several_classes_traced_labels_out_of_range_give_nan():
    step = jax.jit(jax.value_and_grad(loss("at")))
    for label, broken in ((3, True), (-1, True), (2, False)):
        value, slope = step(THREE, X, np.int32([0, label, 1]), np.zeros(0, np.float32))
        assert jnp.isnan(value) == broken and jnp.isnan(slope).any() == broken
    with pytest.raises(ValueError, match=r"y must be .* 0…1, got \[2\]"):
        loss("at")(THREE[:1], X, np.int32([0, 1, 2]), np.zeros(0, np.float32))


@pytest.mark.parametrize("weight", [-0.1, np.nan, np.inf])
def test_weights_below_zero_or_not_finite_are_refused(weight):
    message = rf"\('gap',\) must be finite and at least 0, got .*{weight:g}"
    with pytest.raises(ValueError, match=message):
        loss("r2et_nh")(THREE, X, np.int32([0, 1, 2]), np.float32([weight]))


def test_batch_statistics_are_no_parameters():
    variables = {"params": THREE, "batch_stats": np.zeros(N, np.float32)}
    made = objectives.objective("vanilla", lambda v, x: v["params"] @ x, k=2)
    with pytest.raises(ValueError, match=r"batch_stats.*pass variables\['params'\]"):
        made.loss(variables, X, np.int32([0, 1, 2]), np.zeros(0, np.float32))
