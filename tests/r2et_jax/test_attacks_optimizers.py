"""The first update of every step rule by hand, in both norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax.attacks import optimizers
from r2et_jax.threat.definition import NORMS

RULES = {
    "steepest": optimizers.steepest,
    "momentum": optimizers.momentum,
    "adam": optimizers.adam,
}
GRADIENT = np.array([3.0, -4.0, 0.0])
# Of length 1 in the norm: unit l2, signs; Adam's first step are signs, over √3 for l2.
UNIT, SIGNS = np.array([-0.6, 0.8, 0.0]), np.array([-1.0, 1.0, 0.0])
FIRST = {
    ("steepest", "l2"): UNIT,
    ("steepest", "linf"): SIGNS,
    ("momentum", "l2"): UNIT,
    ("momentum", "linf"): SIGNS,
    ("adam", "l2"): SIGNS / np.sqrt(3),
    ("adam", "linf"): SIGNS,
}


def update(name, norm, gradients, step_size=0.1):
    optimizer = RULES[name](step_size)(norm)
    state = optimizer.init(jnp.zeros_like(gradients[0]))
    for gradient in gradients:
        moved, state = optimizer.update(gradient, state, jnp.zeros_like(gradient))
    return np.asarray(moved)


@pytest.mark.standard_promotion
@pytest.mark.parametrize(("name", "norm"), FIRST)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_the_first_update_has_the_length_of_the_step(name, norm, scale):
    gradient = jnp.asarray(scale * GRADIENT, jnp.float32)
    expected = 0.1 * FIRST[name, norm]
    np.testing.assert_allclose(update(name, norm, [gradient]), expected, rtol=1e-5)


@pytest.mark.standard_promotion
@pytest.mark.parametrize(("name", "norm"), FIRST)
def test_a_zero_gradient_does_not_move(name, norm):
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(update(name, norm, [zero, zero]), np.zeros(3))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan")])
def test_the_step_size_must_be_positive(name, step_size):
    with pytest.raises(ValueError, match="step_size must be positive"):
        RULES[name](step_size)


@pytest.mark.standard_promotion
def test_schedules_set_the_size_of_every_step():
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    ones = jnp.array([1.0, 0.0])
    np.testing.assert_allclose(
        update("steepest", "l2", [ones, ones], schedule), [-0.05, 0], rtol=1e-6
    )


@pytest.mark.standard_promotion
def test_momentum_keeps_the_length_of_a_repeated_step_and_averages_turns():
    with jax.enable_x64(True):
        along, across = jnp.array([2.0, 0.0]), jnp.array([0.0, 3.0])
        np.testing.assert_allclose(
            update("momentum", "l2", [along] * 5), [-0.1, 0], rtol=1e-12
        )
        # (.1·e₂ + .9·.1·e₁)/(1 − .9²)
        expected = -0.1 * np.array([0.09, 0.1]) / 0.19
        np.testing.assert_allclose(
            update("momentum", "l2", [along, across]), expected, rtol=1e-12
        )


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_the_decay_must_lie_in_0_1(decay):
    with pytest.raises(ValueError, match="decay"):
        optimizers.momentum(0.1, decay=decay)


@pytest.mark.parametrize("name", RULES)
def test_an_unknown_norm_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown norm 'l1'; known: l2, linf"):
        RULES[name](0.1)("l1")


@pytest.mark.parametrize("other", [optax.sgd(0.1), "adam", None])
def test_what_is_no_step_rule_is_named(other):
    with pytest.raises(ValueError, match=r"must be a step rule.*got"):
        optimizers.check_step_rule(other)
    optimizers.check_step_rule(optimizers.steepest(0.1))


def test_both_norms_have_cases():
    assert {norm for _, norm in FIRST} == set(NORMS)
