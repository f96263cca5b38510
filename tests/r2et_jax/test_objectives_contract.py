"""One contract for all objectives, from one compiled program of each method."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives
from r2et_jax.models import MLP, SkipMLP
from r2et_jax.objectives.methods import TERMS

N, K, M = 6, 2, 3
SUMS = ("skip+cert_rank", "wd_decoupled+r2et_nh", "hutchinson_h+mc_thickness")
NAMES = (*objectives.NAMES, *SUMS)
X = np.float32(np.random.default_rng(11).normal(size=(M, N)))
Y = np.int32([0, 1, 1])


class Method(NamedTuple):
    """A method with a model that it can train, and its compiled loss and slope."""

    terms: tuple[str, ...]
    loss: object
    params: object
    compiled: object
    traces: list

    def __call__(self, params=None, *, y=Y, weights=1.0, key=0, progress=0.3):
        """Value and gradient at the same inputs."""
        return self.compiled(
            self.params if params is None else params,
            X,
            y,
            jnp.full(len(self.terms), weights, jnp.float32),
            jax.random.key(key),
            jnp.float32(progress),
        )

    @property
    def random(self):
        return any(TERMS[term].random for term in self.terms)

    @property
    def in_loss(self):
        """Penalties with a weight that the loss has."""
        return set(self.terms) - {"decay"}


@functools.cache
def made(name):
    wanted = objectives.method(name)
    activation = "softplus" if wanted.smooth else "leaky_relu"
    model = (SkipMLP if wanted.skip else MLP)(hidden=(4,), activation=activation)
    traces = []

    def apply(params, x, /):
        traces.append(None)
        return model.apply(params, x)

    objective = objectives.objective(
        name,
        apply,
        k=K,
        k_prime=K,
        surrogate=model.surrogate(rho=3.0).apply,
        layers=model.layers,
    )

    def loss(params, x, y, weights, key, progress):
        return objective.loss(params, x, y, weights, key=key, progress=progress)

    params = model.init(jax.random.key(2), X[0])
    params = jax.tree.map(lambda leaf: leaf + 0.2 * jnp.cos(7 * leaf), params)
    compiled = jax.jit(jax.value_and_grad(loss))
    return Method(objective.terms, objective.loss, params, compiled, traces)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def apart(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


each = pytest.mark.parametrize("name", NAMES)


@each
def test_the_slope_is_finite_float32_and_changed_by_the_weights(name):
    method = made(name)
    value, slope = method()
    assert finite((value, slope))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((value, slope)))
    without = method(weights=0.0)[1]
    assert (apart(slope, without) > 1e-6) == bool(method.in_loss)


@each
def test_a_model_that_is_constant_gives_no_nan(name):
    method = made(name)
    nothing = jax.tree.map(jnp.zeros_like, method.params)
    flat = {**method.params["params"], "Dense_1": nothing["params"]["Dense_1"]}
    for params in (nothing, {"params": flat}):
        assert finite(method(params))


@each
def test_a_program_serves_all_parameters_labels_weights_and_keys(name):
    method = made(name)
    method()
    before = len(method.traces)
    other = jax.tree.map(lambda leaf: 2 * leaf, method.params)
    value = method(other, y=1 - Y, weights=0.3, key=9, progress=1.0)
    assert len(method.traces) == before > 0
    assert value[0] != method()[0]


@each
def test_the_key_alone_decides_the_draws(name):
    method = made(name)
    first, again, other = method()[0], method()[0], method(key=1)[0]
    assert first == again and (first != other) == method.random
    if method.random:
        message = rf"{name.replace('+', '.')} draws at random"
        with pytest.raises(ValueError, match=message):
            method.loss(method.params, X, Y, np.ones(len(method.terms), np.float32))


@each
def test_labels_and_weights_out_of_range_give_nan(name):
    method = made(name)
    for label in (2, -1):
        value, slope = method(y=np.int32([0, label, 1]))
        assert jnp.isnan(value)
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(slope))
    if method.terms:
        for weight in (-0.1, np.nan, np.inf):
            assert jnp.isnan(method(weights=weight)[0])
