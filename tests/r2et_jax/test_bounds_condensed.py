"""Noise that is condensed: values of many entries carry no more than is admitted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.bounds import Policy, ball, bound, bounding, forms
from r2et_jax.models import MLP
from r2et_jax.models.convolution import Conv
from r2et_jax.models.pooling import pool
from r2et_jax.score import log_odds
from tests.bounds_sampling import violation

LIMITS = (None, 4000, 1500, 0)


class Pooled(nn.Module):
    """Two convolutions with average pooling, as the network for images has them."""

    @nn.compact
    def __call__(self, x):
        x = nn.softplus(Conv(3, (3, 3))(x.reshape(8, 8, 1)))
        x = nn.softplus(Conv(4, (2, 2))(pool(x, "average", window=2)))
        return nn.Dense(1)(nn.softplus(nn.Dense(4)(x.reshape(-1))))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def gradient_of(model, x):
    params = model.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda leaf: 2 * leaf.astype(jnp.float64), params)
    slope = jax.grad(log_odds(model.apply), argnums=1)
    return lambda v: slope(params, v, 1)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random(64)


def rows(fn, domain, policy):
    return jax.eval_shape(lambda d: bound(fn, d, policy=policy), domain).noise.shape[0]


@pytest.mark.slow
def test_convolutions_with_less_noise_are_sound_and_hardly_wider(image):
    gradient, domain = gradient_of(Pooled(), image), ball(image, 0.1)
    widths, counts = [], []
    for limit in LIMITS:
        policy = Policy(max_coefficients=limit)
        excess, width, seen = violation(gradient, domain, policy=policy, count=600)
        assert excess <= 1e-12
        widths.append(width)
        counts.append(rows(gradient, domain, policy))
    told = widths, counts, seen
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0, told
    assert widths[0] <= 3 * seen, told
    assert widths[1] <= 1.1 * widths[0] and widths[2] <= 1.5 * widths[0], told


def two_pixels(image, epsilon):
    """A ball that samples fill: all but two coordinates stay."""
    return ball(image, epsilon, movable=np.arange(64) // 2 == 18)


@pytest.mark.parametrize(
    "limit", [*(pytest.param(n, marks=pytest.mark.slow) for n in (4000, 1500)), 0]
)
def test_no_sample_of_two_pixels_is_outside(image, limit):
    gradient, domain = gradient_of(Pooled(), image), two_pixels(image, 1.0)
    policy = Policy(max_coefficients=limit)
    assert violation(gradient, domain, policy=policy, count=600)[0] <= 1e-12


def test_noise_that_is_lost_is_found_out(image, monkeypatch):
    """The same hunt sees a rule that forgets what it condenses."""

    def forgotten(space, form, gone):
        boxed = before(space, form, gone)
        boxed.box = form.box
        return boxed

    before = forms.Space.boxed
    monkeypatch.setattr(forms.Space, "boxed", forgotten)
    gradient, domain = gradient_of(Pooled(), image), two_pixels(image, 1.0)
    policy = Policy(max_coefficients=1500)
    assert violation(gradient, domain, policy=policy, count=600)[0] > 1e-4


def test_dense_networks_with_less_noise_are_sound():
    x = np.random.default_rng(1).standard_normal(6)
    gradient, domain = gradient_of(MLP((6, 5), 1, "softplus"), x), ball(x, 0.2)
    for limit in (100, 40, 0):
        policy = Policy(max_coefficients=limit)
        assert violation(gradient, domain, policy=policy)[0] <= 1e-12


def test_a_program_too_large_for_most_machines_is_warned_of(monkeypatch):
    """The hidden layer of 5 units is the largest value that changes with the input."""
    weights = jnp.ones((5, 3))

    def fn(x):
        fixed = jnp.sum(jnp.ones((9, 3)) ** 2)
        return jnp.sum(jnp.tanh(weights @ x)) * fixed

    monkeypatch.setattr(bounding, "_MANY", 15)
    bound(fn, ball(jnp.zeros(3), 0.1))
    monkeypatch.setattr(bounding, "_MANY", 14)
    with pytest.warns(UserWarning, match=r"has 5 entries, and its bounds 5 × 3 coeff"):
        bound(fn, ball(jnp.zeros(3), 0.1))
