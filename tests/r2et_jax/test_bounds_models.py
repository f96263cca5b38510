"""Bounds of gradients of convolutional and graph models, and of random programs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.bounds import ball
from r2et_jax.models import GCN, Siamese
from r2et_jax.models.siamese import pair_apply
from r2et_jax.score import log_odds
from tests.bounds_sampling import violation

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


class Pooled(nn.Module):
    """A strided convolution with ReLU and Flax's max pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), strides=(2, 2))(x[None]))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(2)(x.reshape(-1))


def _double(params):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def test_convolution_with_max_pooling():
    x = np.random.default_rng(0).random((8, 8, 1))
    model = Pooled()
    params = _double(model.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))
    slope = jax.grad(log_odds(model.apply), argnums=1)
    excess, width, seen = violation(lambda v: slope(params, v, 1), ball(x, 0.05))
    assert excess <= 1e-12
    assert width <= 4 * seen


def test_pairs_of_graphs():
    first, second = np.abs(np.random.default_rng(0).standard_normal((2, 6)))
    model = Siamese(GCN(4, hidden=(3, 2), activation="softplus"))
    pair = jnp.asarray(np.stack([first, second]), jnp.float32)
    params = _double(model.init(jax.random.key(0), pair))
    slope = jax.grad(log_odds(pair_apply(model)), argnums=1)
    context = params, jnp.asarray(second)
    excess, width, seen = violation(lambda v: slope(context, v, 1), ball(first, 0.02))
    assert excess <= 1e-12
    assert width <= 6 * seen


UNARY = (
    jnp.tanh,
    jax.nn.softplus,
    jax.nn.relu,
    jax.nn.sigmoid,
    jnp.sin,
    jnp.abs,
    jnp.square,
    lambda v: 1 / (2 + jnp.tanh(v)),
    lambda v: jnp.sqrt(1 + v * v),
    lambda v: jnp.exp(-jnp.abs(v)),
    jax.nn.softmax,
    lambda v: v - jnp.max(v),
    lambda v: v / jnp.sqrt(1 + jnp.sum(v * v)),
    lambda v: jnp.cumsum(v) / 4,
    lambda v: v[::-1],
)
BINARY = (
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    jnp.maximum,
    lambda a, b: jnp.where(a > b, a, 0.5 * b),
    lambda a, b: a / (2 + jnp.tanh(b)),
    lambda a, b: jnp.dot(a, b) * b,
)


@pytest.mark.parametrize("seed", range(3))
def test_random_programs(seed):
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((6, 4, 4)) / 2
    chosen = [
        (rng.integers(3), rng.integers(99), rng.integers(0, n + 1, 2)) for n in range(5)
    ]

    def program(x):
        values = [x]
        for (kind, which, places), matrix in zip(chosen, matrices, strict=False):
            a, b = (values[place] for place in places)
            if kind == 0:
                values.append(a @ jnp.asarray(matrix))
            elif kind == 1:
                values.append(UNARY[which % len(UNARY)](a))
            else:
                values.append(BINARY[which % len(BINARY)](a, b))
        return values[-1] + values[-2]

    x = rng.standard_normal(4)
    for epsilon in (0.05, 1.0):
        assert violation(program, ball(x, epsilon))[0] <= 1e-12
    slope = jax.grad(lambda v: jnp.sum(jnp.sin(program(v))))
    assert violation(slope, ball(x, 0.1))[0] <= 1e-12
