"""Pooling and the image models against NumPy, finite differences and their limits."""

import doctest
import functools
import importlib
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from r2et_jax import models
from r2et_jax.models import pooling

REDUCTIONS = {
    "max": lambda tile: tile.max(),
    "average": lambda tile: tile.mean(),
    "smooth_max": lambda tile: np.log(np.mean(np.exp(5 * tile))) / 5,
}


def tiles(x, window, reduction):
    """Pooling of [height, width, channels], one tile at a time."""
    rows, columns = x.shape[0] // window, x.shape[1] // window
    out = np.zeros((rows, columns, x.shape[2]))
    for r, c, channel in np.ndindex(out.shape):
        top, left = r * window, c * window
        out[r, c, channel] = reduction(
            x[top : top + window, left : left + window, channel]
        )
    return out


def conv(x, kernel):
    """Correlation of [height, width, in] with [side, side, in, out], without a pad."""
    windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwiab,abio->hwo", windows, kernel)


def as_numpy(params):
    return jax.tree.map(np.float64, params["params"])


def random_params(model, dtype=jnp.float32):
    """Parameters that no part of the model ignores, without compiling its `init`."""
    size = math.prod(model.shape)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(size, jnp.float32))
    rng = np.random.default_rng(8)

    def fill(leaf):
        deviation = math.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(deviation * rng.normal(size=leaf.shape), dtype)

    return jax.tree.map(fill, shapes)


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["pooling", "cnn", "resnet"])
def test_docstring_examples_run(name):
    module = importlib.import_module(f"r2et_jax.models.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_every_pooling_has_a_formula():
    assert set(REDUCTIONS) == set(pooling.NAMES)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("name", pooling.NAMES)
def test_pooling_equals_its_formula_and_leaves_out_the_rest(name, window):
    x = np.random.default_rng(0).normal(size=(10, 7, 2)).astype(np.float32)
    pool = jax.jit(functools.partial(pooling.pool, name=name, window=window))
    value = pool(x)
    expected = tiles(np.float64(x), window, REDUCTIONS[name])
    assert value.shape == (10 // window, 7 // window, 2)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    batch = pool(x[None])
    np.testing.assert_array_equal(batch[0], value)


@pytest.mark.parametrize("rho", [0.1, 5.0, 200.0])
def test_smooth_maximum_lies_below_the_maximum_by_at_most_log_k_over_rho(rho):
    x = np.random.default_rng(1).normal(size=(12, 12, 3)).astype(np.float32)

    @jax.jit
    def below(x):
        smooth = pooling.pool(x, "smooth_max", window=3, rho=rho)
        return pooling.pool(x, "max", window=3) - smooth

    gap = below(x)
    assert 0 < np.min(gap) and np.max(gap) <= np.log(9) / rho + 1e-5


def test_smooth_maximum_tends_to_the_average_and_keeps_a_flat_tile():
    x = np.random.default_rng(2).normal(size=(6, 6, 1))
    with jax.enable_x64(True):
        image = jnp.asarray(x)
        value = pooling.pool(image, "smooth_max", window=2, rho=1e-6)
        average = pooling.pool(image, "average", window=2)
        np.testing.assert_allclose(value, average, atol=1e-5)
        flat = pooling.pool(jnp.full((6, 6, 1), 0.7), "smooth_max", window=3, rho=9.0)
        np.testing.assert_allclose(flat, 0.7, rtol=1e-12)


def test_ties_share_the_derivative_of_the_maximum():
    def total(image):
        return jnp.sum(pooling.pool(image, "max", window=2))

    flat = jax.grad(total)(jnp.zeros((4, 4, 1)))
    np.testing.assert_allclose(flat, 0.25)
    pair = jnp.array([[1.0, 1.0], [0.0, -1.0]])[..., None]
    expected = [[0.5, 0.5], [0.0, 0.0]]
    np.testing.assert_allclose(jax.grad(total)(pair)[..., 0], expected)


def reference_cnn(params, x, pooling_name):
    layers = as_numpy(params)

    def dense(name, h):
        return h @ layers[name]["kernel"] + layers[name]["bias"]

    h = np.float64(x).reshape(28, 28, 1)
    for index, window in enumerate([2, 3]):
        layer = layers[f"Conv_{index}"]
        h = np.maximum(conv(h, layer["kernel"]) + layer["bias"], 0)
        h = tiles(h, window, REDUCTIONS[pooling_name])
    assert h.shape == (3, 3, 16)
    h = np.maximum(dense("Dense_0", h.reshape(144)), 0)
    return dense("Dense_2", np.maximum(dense("Dense_1", h), 0))


@pytest.mark.parametrize("name", pooling.NAMES)
def test_cnn_equals_its_numpy_reference(name):
    model = models.CNN(pooling=name)
    x = np.random.default_rng(3).normal(size=(2, 784)).astype(np.float32)
    params = random_params(model)
    batch = jax.jit(jax.vmap(model.apply, (None, 0)))(params, x)
    assert batch.shape == (2, 10) and batch.dtype == jnp.float32
    for image, value in zip(x, batch, strict=True):
        expected = reference_cnn(params, image, name)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def test_cnn_has_the_published_layers():
    params = jax.eval_shape(models.CNN().init, jax.random.key(0), jnp.zeros(784))
    sizes = {name: count(layer) for name, layer in params["params"].items()}
    assert sizes == {
        "Conv_0": 8 * (5 * 5 * 1 + 1),
        "Conv_1": 16 * (3 * 3 * 8 + 1),
        "Dense_0": 64 * (3 * 3 * 16 + 1),
        "Dense_1": 32 * (64 + 1),
        "Dense_2": 10 * (32 + 1),
    }
    assert sum(sizes.values()) == 13_066


@pytest.mark.parametrize("shape", [(784,), (28, 28), (28, 28, 1)])
def test_every_form_of_one_image_is_the_same_image(shape):
    x = np.arange(784, dtype=np.float32)
    image = pooling.as_image(jnp.asarray(x.reshape(shape)), (28, 28, 1))
    np.testing.assert_array_equal(image, x.reshape(28, 28, 1))
    logits = jax.eval_shape(
        models.CNN().apply, random_params(models.CNN()), jnp.zeros(shape)
    )
    assert logits.shape == (10,)


@pytest.mark.parametrize("name", pooling.NAMES)
def test_cnn_products_with_the_hessian_equal_finite_differences(name):
    model = models.CNN(pooling=name, activation="softplus", hidden=(12,), num_outputs=1)
    rng = np.random.default_rng(4)
    step = 1e-6
    with jax.enable_x64(True):
        x, v = jnp.asarray(rng.normal(size=(2, 784)))
        params = random_params(model, jnp.float64)
        gradient = jax.grad(lambda x: model.apply(params, x)[0])

        @jax.jit
        def both(x, v):
            around = jax.vmap(gradient)(jnp.stack([x + step * v, x - step * v]))
            return jax.jvp(gradient, (x,), (v,))[1], around

        product, (upper, lower) = both(x, v)
        difference = (upper - lower) / (2 * step)
    assert np.linalg.norm(product) > 1e-3
    np.testing.assert_allclose(product, difference, rtol=1e-5, atol=1e-7)


def error_of_surrogate(model, params, x, rho):
    exact = jax.jit(jax.vmap(model.apply, (None, 0)))(params, x)
    smooth = jax.jit(jax.vmap(model.surrogate(rho=rho).apply, (None, 0)))(params, x)
    return np.max(np.abs(exact - smooth))


@pytest.mark.parametrize(("act", "name"), [("relu", "max"), ("leaky_relu", "average")])
def test_surrogate_converges_to_the_cnn_like_one_over_rho(act, name):
    model = models.CNN(activation=act, pooling=name)
    x = np.random.default_rng(5).normal(size=(4, 784)).astype(np.float32)
    params = random_params(model)
    coarse, fine = (error_of_surrogate(model, params, x, rho) for rho in (20.0, 200.0))
    assert 0 < fine < 0.2 * coarse
    assert fine < 0.05


def test_names_of_the_surrogates():
    smooth = models.CNN(activation="tanh").surrogate(rho=2.0)
    assert (smooth.activation, smooth.pooling, smooth.rho) == ("tanh", "smooth_max", 2)
    smooth = models.ResNet9(pooling="average", width=16).surrogate(rho=3.0)
    assert (smooth.activation, smooth.pooling) == ("softplus", "average")
    assert (smooth.rho, smooth.width) == (3.0, 16)
    assert smooth.surrogate(rho=9.0) is smooth


def reference_resnet(params, x, groups):
    layers = as_numpy(params)
    index = 0

    def block(h):
        nonlocal index
        padded = np.pad(h, ((1, 1), (1, 1), (0, 0)))
        h = conv(padded, layers[f"Conv_{index}"]["kernel"])
        norm = layers[f"GroupNorm_{index}"]
        index += 1
        grouped = h.reshape(*h.shape[:2], groups, -1)
        centred = grouped - grouped.mean(axis=(0, 1, 3), keepdims=True)
        variance = np.mean(centred**2, axis=(0, 1, 3), keepdims=True)
        h = (centred / np.sqrt(variance + 1e-5)).reshape(h.shape)
        return np.maximum(h * norm["scale"] + norm["bias"], 0)

    h = block(x)
    h = tiles(block(h), 2, np.max)
    h = h + block(block(h))
    h = tiles(block(h), 2, np.max)
    h = tiles(block(h), 2, np.max)
    h = tiles(h + block(block(h)), 4, np.max).reshape(-1)
    assert index == 8
    return h @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]


def test_resnet_equals_its_numpy_reference_and_survives_a_flat_image():
    model = models.ResNet9(width=4, num_groups=2)
    x = np.random.default_rng(6).uniform(size=(2, 3072)).astype(np.float32)
    x[1] = 0.5
    params = random_params(model)

    def score(params, x):
        logits = model.apply(params, x)
        return logits[0], logits

    # At level 0, which the tests have to save time, XLA gives NaN here; from 1 on not.
    run = jax.jit(
        jax.vmap(jax.grad(score, 1, has_aux=True), (None, 0)),
        compiler_options={"xla_backend_optimization_level": 3},
    )
    gradient, logits = run(params, x)
    assert logits.shape == (2, 10)
    expected = reference_resnet(params, np.float64(x[0]).reshape(32, 32, 3), 2)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-3, atol=1e-4)
    assert np.all(np.isfinite(gradient)) and np.all(np.isfinite(logits))
    # An image does not depend on its companions.
    other, _ = run(params, x[::-1])
    np.testing.assert_allclose(other[1], gradient[0], rtol=1e-4, atol=1e-5)


def test_resnet_of_the_usual_width_has_6_573_130_parameters():
    params = jax.eval_shape(models.ResNet9().init, jax.random.key(0), jnp.zeros(3072))
    ins = [3, 64, 128, 128, 128, 256, 512, 512]
    outs = [64, 128, 128, 128, 256, 512, 512, 512]
    convolutions = sum(9 * i * o for i, o in zip(ins, outs, strict=True))
    assert count(params) == convolutions + 2 * sum(outs) + 513 * 10 == 6_573_130


@pytest.mark.standard_promotion
def test_max_pooling_equals_that_of_flax():
    x = np.random.default_rng(7).normal(size=(2, 10, 10, 3)).astype(np.float32)
    expected = nn.max_pool(jnp.asarray(x), (3, 3), (3, 3))
    value = pooling.pool(jnp.asarray(x), "max", window=3)
    np.testing.assert_array_equal(value, expected)


IMAGE = jnp.zeros((4, 6, 1))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pooling.pool(IMAGE, "min", window=2),
            "unknown pooling 'min'; known",
        ),
        (lambda: pooling.surrogate_pooling("min"), "unknown pooling 'min'"),
        (
            lambda: pooling.pool(IMAGE, "max", window=0),
            "window must be .* got 0",
        ),
        (
            lambda: pooling.pool(IMAGE, "max", window=5),
            r"at most .* 5 .*\(4, 6, 1\)",
        ),
        (
            lambda: pooling.pool(IMAGE, "smooth_max", window=2, rho=-1.0),
            "rho must be positive.*-1.0",
        ),
        (
            lambda: models.CNN().init(KEY, jnp.zeros((3, 784))),
            r"\(784,\).*got \(3, 784\); batch with jax.vmap",
        ),
        (lambda: models.CNN(pooling="min").init(KEY, jnp.zeros(784)), "pooling 'min'"),
        (lambda: models.ResNet9().init(KEY, jnp.zeros((32, 32))), r"got \(32, 32\)"),
        (
            lambda: models.ResNet9(width=12).init(KEY, jnp.zeros(3072)),
            "multiple of num_groups, got 12 and 8",
        ),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
