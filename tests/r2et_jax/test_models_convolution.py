"""The banded convolution against Flax's, and its derivatives against those of it."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.models.convolution import Conv

SHAPES = (((7, 6, 3), (3, 2), 4), ((5, 5, 1), (5, 5), 2), ((4, 9, 2), (1, 3), 1))


@pytest.mark.parametrize(("shape", "kernel_size", "features"), SHAPES)
@pytest.mark.parametrize("form", ("banded", "direct", "auto"))
def test_it_is_the_convolution_of_flax(shape, kernel_size, features, form):
    ours = Conv(features, kernel_size, form=form)
    reference = nn.Conv(features, kernel_size, padding="VALID")
    x = jax.random.normal(jax.random.key(0), shape)
    params = reference.init(jax.random.key(1), x)
    chex.assert_trees_all_equal(params, ours.init(jax.random.key(1), x))
    bias = jax.random.normal(jax.random.key(2), (features,))
    params = {"params": {**params["params"], "bias": bias}}
    chex.assert_trees_all_close(
        ours.apply(params, x), reference.apply(params, x), atol=1e-6
    )


def test_its_derivatives_are_those_of_the_convolution():
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 2))
    v = jax.random.normal(jax.random.key(1), x.shape)
    ours = Conv(4, (3, 2), form="banded")
    params = ours.init(jax.random.key(2), x[0])

    def derivatives(layer):
        def score(params, x):
            return jnp.sum(jnp.tanh(jax.vmap(layer.apply, (None, 0))(params, x)) ** 2)

        def tangent(params):
            along = jax.jvp(lambda x: jax.grad(score, 1)(params, x), (x,), (v,))[1]
            return jnp.sum(along**2), along

        of_params, along = jax.grad(tangent, has_aux=True)(params)
        return jax.grad(score, (0, 1))(params, x), along, of_params

    chex.assert_trees_all_close(
        derivatives(ours),
        derivatives(nn.Conv(4, (3, 2), padding="VALID")),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_kernel_of_ones_sums_its_window():
    ours = Conv(1, (1, 2), form="banded")
    params = {"params": {"kernel": jnp.ones((1, 2, 1, 1)), "bias": jnp.full(1, 10.0)}}
    sums = ours.apply(params, jnp.arange(4.0).reshape(1, 4, 1))
    np.testing.assert_array_equal(np.ravel(sums), [11, 13, 15])


def test_a_small_image_and_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match=r"as the kernel \(3, 3\), got the shape"):
        Conv(1, (3, 3)).init(jax.random.key(0), jnp.zeros((2, 5, 1)))
    with pytest.raises(ValueError, match="form"):
        Conv(1, (1, 1), form="fft").init(jax.random.key(0), jnp.zeros((2, 5, 1)))
