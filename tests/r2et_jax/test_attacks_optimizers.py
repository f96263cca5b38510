"""The first update of every optimiser by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax.attacks import optimizers

GRADIENT = np.array([3.0, -4.0, 0.0])
# Unit l2; signs; unit l2 again (the average of one value); Adam's first step: signs.
FIRST = {
    "normalized_gradient": [-0.6, 0.8, 0.0],
    "sign": [-1.0, 1.0, 0.0],
    "momentum": [-0.6, 0.8, 0.0],
    "adam": [-1.0, 1.0, 0.0],
}


def update(name, gradients, step_size=0.1):
    optimizer = optimizers.optimizer(name, step_size)
    state = optimizer.init(jnp.zeros_like(gradients[0]))
    for gradient in gradients:
        moved, state = optimizer.update(gradient, state, jnp.zeros_like(gradient))
    return np.asarray(moved)


def test_every_optimizer_has_a_case():
    assert set(FIRST) == set(optimizers.NAMES)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", optimizers.NAMES)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_the_first_update_has_the_length_of_the_step(name, scale):
    gradient = jnp.asarray(scale * GRADIENT, jnp.float32)
    expected = 0.1 * np.array(FIRST[name])
    np.testing.assert_allclose(update(name, [gradient]), expected, rtol=1e-5)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", optimizers.NAMES)
def test_a_zero_gradient_does_not_move(name):
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(update(name, [zero, zero]), np.zeros(3))


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", optimizers.NAMES)
@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan")])
def test_the_step_size_must_be_positive(name, step_size):
    with pytest.raises(ValueError, match="step_size must be positive"):
        optimizers.optimizer(name, step_size)


@pytest.mark.standard_promotion
def test_schedules_set_the_size_of_every_step():
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    ones = jnp.array([1.0, 0.0])
    np.testing.assert_allclose(
        update("normalized_gradient", [ones, ones], schedule), [-0.05, 0], rtol=1e-6
    )


@pytest.mark.standard_promotion
def test_momentum_keeps_the_length_of_a_repeated_step_and_averages_turns():
    with jax.enable_x64(True):
        one, other = jnp.array([2.0, 0.0]), jnp.array([0.0, 3.0])
        np.testing.assert_allclose(update("momentum", [one] * 5), [-0.1, 0], rtol=1e-12)
        # (.1·e₂ + .9·.1·e₁)/(1 − .9²)
        expected = -0.1 * np.array([0.09, 0.1]) / 0.19
        np.testing.assert_allclose(
            update("momentum", [one, other]), expected, rtol=1e-12
        )


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_the_decay_must_lie_in_0_1(decay):
    with pytest.raises(ValueError, match="decay"):
        optimizers.momentum(0.1, decay=decay)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown optimizer 'sgd'; known: adam, mom"):
        optimizers.optimizer("sgd", 0.1)
