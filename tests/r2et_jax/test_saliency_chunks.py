"""Explanations over many points, chunk by chunk: the same numbers in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saliency
from r2et_jax import score as scores

N = 5


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def apply(params, x, /):
    return params["w2"] @ jnp.tanh(params["w1"] @ x + params["b"])


def network():
    rng = np.random.default_rng(2)
    shapes = {"w1": (6, N), "b": (6,), "w2": (1, 6)}
    params = {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()}
    return params, jnp.asarray(rng.normal(size=N))


def smooth(score, **options):
    explain = saliency.smooth_grad(score, num_samples=50, sigma=0.3, **options)
    return functools.partial(explain, key=jax.random.key(7))


MEANS = {
    "smooth_grad": smooth,
    "integrated_gradients": functools.partial(
        saliency.integrated_gradients, num_points=50
    ),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("chunk_size", [1, 7, 60])
def test_chunks_change_no_map_and_no_derivative(name, chunk_size, float64):
    params, x = network()
    weights = jnp.arange(1.0, N + 1)

    def compiled(**options):
        explain = MEANS[name](scores.log_odds(apply), **options)
        value = lambda params, x: weights @ explain(params, x, 1)  # noqa: E731
        of_x = jax.grad(value, argnums=1)
        run = lambda p, x: (  # noqa: E731
            explain(p, x, 1),
            jax.grad(value, argnums=(0, 1))(p, x),
            jax.jvp(lambda x: of_x(p, x), (x,), (weights,)),
        )
        return jax.jit(run)(params, x)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
        compiled(chunk_size=chunk_size),
        compiled(chunk_size=50),
    )


def temporary_bytes(fn, *args):
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", MEANS)
def test_memory_is_that_of_one_chunk_forward_and_backward(name):
    n, width = 4_000, 500_000  # so large that 50 points are not evaluated at once
    shapes = {"w1": (width, n), "b": (width,), "w2": (9, width)}
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    x = jax.ShapeDtypeStruct((n,), jnp.float32)

    def needed(**options):
        explain = MEANS[name](scores.log_odds(apply), **options)
        of_x = jax.grad(lambda x, w: jnp.sum(explain(w, x, 1) ** 2))
        maps = temporary_bytes(lambda x, w: explain(w, x, 1), x, params)
        return np.array([maps, temporary_bytes(of_x, x, params)])

    whole, by_default = needed(chunk_size=50), needed()
    assert np.all(whole > 50 * 4 * width), (whole, by_default)
    assert np.all(by_default < 0.4 * whole), (whole, by_default)


def test_small_inputs_are_evaluated_at_once():
    explain = saliency.integrated_gradients(scores.log_odds(apply))
    params, x = network()
    assert "scan" not in str(jax.make_jaxpr(explain)(params, x, 1))
