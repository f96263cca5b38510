"""Elementwise functions that are put together from pieces: kinks, jumps, neither."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.programs.transform import kinks
from tests.r2et_jax.test_programs import X, contents, model, smoothed, soft, x64


@pytest.mark.standard_promotion
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4])
@pytest.mark.parametrize("at", [-20.0, 0.0, 0.5, 30.0])
def test_pieces_of_any_unit(scale, at):
    def ramp(x):
        return (scale * (x - at)) * (scale * x > scale * at)

    def jump(x):
        return (scale * (x - at) + 0.01 * scale) * (x > at)

    x = X + at
    assert contents(ramp, x) == ({"gt": 1}, {}, 4)
    mine = smoothed(ramp, x)
    right = scale * soft(np.asarray(x, np.float64) - at)
    assert np.allclose(mine, right, rtol=1e-3, atol=scale * 1e-4)
    assert contents(jump, x).left == {"gt": 1}
    curved = contents(lambda x: scale * jax.nn.selu(x), x)
    assert curved == ({"select_n": 1}, {}, 4)


SMOOTH = {
    "elu": jax.nn.elu,
    "elu as products": lambda x: x * (x > 0) + (jnp.exp(x) - 1) * (x <= 0),
    "nothing": lambda x: x + 0.0 * x * (x > 1),
    "square": lambda x: jnp.where(x > 0, x * x, 0),
    "square as a product": lambda x: x * x * (x > 0),
    "sparse plus": jax.nn.sparse_plus,
    "mish": jax.nn.mish,
}


@pytest.mark.standard_promotion
def test_pieces_at_the_end_of_a_long_chain():
    def chain(x):
        for _ in range(600):
            x = jnp.sin(x) + 0.1
        return x * (x > 0)

    described = contents(chain)
    assert described.kinks == {"gt": 1} and not described.left


@pytest.mark.standard_promotion
def test_what_jumps_is_told_through_a_kink():
    assert contents(lambda x: jnp.abs(x * (x > 1)) + 0 * x).left == {"gt": 1}


def test_pieces_of_few_digits_are_told():
    half = X.astype(jnp.bfloat16)
    described = contents(lambda x: x * jnp.where(x > 0, 1, 0).astype(x.dtype), half)
    assert not described.kinks and described.left
    assert contents(jax.nn.relu, half) == ({"max": 1}, {}, 4)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", SMOOTH)
def test_pieces_that_meet_without_a_kink_are_none(name):
    function = SMOOTH[name]
    described = contents(function)
    assert not described.left
    if not described.kinks:
        assert smoothed(function).tolist() == function(X).tolist()


def test_pieces_that_are_no_lines_change_by_what_their_slope_turns():
    """SELU: from slope λα to slope λ at 0."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    assert contents(jax.nn.selu) == ({"select_n": 1}, {}, 4)
    right = np.where(x64 > 0, scale * x64, scale * alpha * np.expm1(x64))
    right = right + scale * (1 - alpha) * (soft(x64) - np.maximum(x64, 0))
    assert np.allclose(smoothed(jax.nn.selu), right, rtol=1e-5, atol=1e-5)
    switches = kinks(model(jax.nn.selu))(None, X)
    assert np.allclose(switches, X, atol=1e-6)
