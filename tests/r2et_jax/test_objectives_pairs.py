"""Exact curvature penalties of Siamese models against the dense Hessian, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models, score
from r2et_jax.models.siamese import pair_split
from r2et_jax.objectives import curvature_penalties


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_a_pair_with_a_piecewise_linear_encoder_takes_the_exact_short_forms():
    model = models.Siamese(models.MLP((6,), num_outputs=3, activation="leaky_relu"))
    pairs = np.random.default_rng(3).normal(size=(2, 5))
    params = model.init(jax.random.key(1), pairs.astype(np.float32))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    direction = jax.tree.map(jnp.cos, params)
    apply, (x, partner) = models.pair_apply(model), pairs
    target = 1
    split = curvature_penalties.Split(*pair_split(model))

    def both(params):
        return jnp.stack(
            [
                penalty(apply, split=split)((params, partner), x, target)
                for penalty in (
                    curvature_penalties.frobenius_curvature,
                    curvature_penalties.spectral_curvature,
                )
            ]
        )

    @jax.jit
    def hessian(params):
        probability = score.probability(apply)
        return jax.hessian(lambda x: probability((params, partner), x, target))(x)

    def by_dense(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
        h = hessian(moved)
        return np.array([np.linalg.norm(h), np.abs(np.linalg.eigvalsh(h)).max()])

    values, slopes = jax.jit(lambda p: jax.jvp(both, (p,), (direction,)))(params)
    np.testing.assert_allclose(values, by_dense(0.0), rtol=1e-9)
    assert values[0] > 1.001 * values[1]  # more than one eigenvalue counts
    difference = (by_dense(1e-5) - by_dense(-1e-5)) / 2e-5
    np.testing.assert_allclose(slopes, difference, rtol=1e-5)
