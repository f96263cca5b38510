"""First parameters: those of Flax, in one program."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from r2et_jax import models

X = np.zeros(4, np.float32)
KEY = 2


def drawn(model):
    """Of Flax itself."""
    return nn.Module.init(model, jax.random.key(KEY), X)


def check(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert np.ptp(params["params"]["Dense_0"]["kernel"]) > 0


def test_first_parameters_are_those_of_flax_by_one_program(compilations):
    model, key = models.MLP(hidden=(3,)), jax.random.key(KEY)
    before = compilations()
    params = model.init(key, X)
    # An equal model finds the program.
    again = models.MLP(hidden=(3,)).init(key, X)
    assert compilations() - before == 1
    check(params, drawn(model))
    check(again, params)


@pytest.mark.parametrize(
    "init",
    [
        lambda model, key: model.init({"params": key}, X),
        lambda model, key: model.init(key, x=X),
        lambda model, key: jax.jit(model.init)(key, X),
        lambda model, key: model.clone(hidden=[3]).init(key, X),
    ],
)
def test_whatever_is_given_the_parameters_are_those_of_flax(init):
    model = models.MLP(hidden=(3,))
    check(init(model, jax.random.key(KEY)), drawn(model))
    shapes = jax.eval_shape(model.init, jax.random.key(KEY), X)
    assert shapes["params"]["Dense_1"]["kernel"].shape == (3, 1)


def test_a_mistake_is_told_as_by_the_model():
    with pytest.raises(ValueError, match="upper triangle of 4 nodes"):
        models.GCN(num_nodes=4).init(jax.random.key(0), X)
