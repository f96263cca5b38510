"""The models against NumPy, and their smooth surrogates against the limit."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from r2et_jax import models
from r2et_jax.models import activations
from r2et_jax.models.activations import leaky_softplus, scaled_softplus

X = np.linspace(-3, 3, 13)
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(0, 5 * x) / 5,
    "leaky_softplus": lambda x: 0.01 * x + 0.99 * np.logaddexp(0, 5 * x) / 5,
    # the form by tanh, which Flax and PyTorch call approximate
    "gelu": lambda x: (
        0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    ),
}


@pytest.mark.parametrize("name", ["activations", "mlp"])
def test_docstring_examples_run(name):
    module = importlib.import_module(f"r2et_jax.models.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_every_name_has_a_formula():
    assert set(FORMULAS) == set(activations.NAMES)


@pytest.mark.parametrize("name", activations.NAMES)
def test_activations_equal_their_formulas(name):
    value = activations.activation(name)(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(value, FORMULAS[name](X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rho", [0.5, 5.0, 100.0])
def test_derivatives_of_the_scaled_softplus(rho):
    with jax.enable_x64(True):
        fn = scaled_softplus(rho)
        first = jax.jit(jax.vmap(jax.grad(fn)))(jnp.asarray(X))
        second = jax.jit(jax.vmap(jax.grad(jax.grad(fn))))(jnp.asarray(X))
        p, q = scipy.special.expit(rho * X), scipy.special.expit(-rho * X)
        np.testing.assert_allclose(first, p, rtol=1e-12)
        np.testing.assert_allclose(second, rho * p * q, rtol=1e-12)
        slope = jax.jit(jax.vmap(jax.grad(leaky_softplus(rho))))(jnp.asarray(X))
        np.testing.assert_allclose(slope, 0.01 + 0.99 * p, rtol=1e-12)


@pytest.mark.parametrize("rho", [1.0, 10.0, 1000.0])
def test_distance_of_the_softplus_from_the_relu_is_log_two_over_rho(rho):
    x = jnp.linspace(-2.0, 2.0, 401)
    excess = scaled_softplus(rho)(x) - jax.nn.relu(x)
    assert np.min(excess) >= -1e-6
    assert np.max(excess) == pytest.approx(np.log(2) / rho, rel=1e-3)
    assert np.argmax(excess) == 200  # at zero
    leaky = leaky_softplus(rho)(x) - jax.nn.leaky_relu(x, 0.01)
    np.testing.assert_allclose(leaky, 0.99 * excess, atol=1e-6)


def forward(params, x, act):
    layers = params["params"]
    for index in range(len(layers)):
        layer = layers[f"Dense_{index}"]
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = act(x) if index < len(layers) - 1 else x
    return x


@pytest.mark.parametrize(
    ("hidden", "num_outputs", "name"),
    [((32,), 1, "leaky_relu"), ((8, 6), 3, "tanh"), ((), 2, "relu")],
)
def test_mlp_of_one_input_and_of_a_batch(hidden, num_outputs, name):
    model = models.MLP(hidden=hidden, num_outputs=num_outputs, activation=name)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    apply = jax.jit(model.apply)
    batch = apply(params, x)
    assert batch.shape == (3, num_outputs) and batch.dtype == jnp.float32
    assert apply(params, x[0]).shape == (num_outputs,)
    np.testing.assert_allclose(apply(params, x[1]), batch[1], rtol=1e-5, atol=1e-6)
    expected = forward(params, np.float64(x), FORMULAS[name])
    np.testing.assert_allclose(batch, expected, rtol=1e-5, atol=1e-5)


def test_the_default_is_the_published_model():
    model = models.MLP()
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(28))
    shapes = jax.tree.map(lambda leaf: leaf.shape, params["params"])
    assert shapes == {
        "Dense_0": {"kernel": (28, 32), "bias": (32,)},
        "Dense_1": {"kernel": (32, 1), "bias": (1,)},
    }
    assert model.activation == "leaky_relu"


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_skip_mlp_adds_a_linear_part_that_starts_at_zero(num_outputs):
    options = {"hidden": (6,), "num_outputs": num_outputs}
    model, plain = models.SkipMLP(**options), models.MLP(**options)
    x = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    layers = dict(params["params"])
    skip = layers.pop("skip")
    assert {k: v.shape for k, v in skip.items()} == {"kernel": (5, num_outputs)}
    np.testing.assert_array_equal(skip["kernel"], 0)
    rest = {"params": layers}
    np.testing.assert_array_equal(model.apply(params, x), plain.apply(rest, x))
    a = np.random.default_rng(4).normal(size=(5, num_outputs)).astype(np.float32)
    moved = {"params": {**layers, "skip": {"kernel": jnp.asarray(a)}}}
    expected = forward(rest, np.float64(x), FORMULAS["leaky_relu"]) + x @ a
    np.testing.assert_allclose(model.apply(moved, x), expected, rtol=1e-5, atol=1e-5)
    surrogate = model.surrogate(rho=4.0)
    assert isinstance(surrogate, models.SkipMLP)
    assert (surrogate.activation, surrogate.rho) == ("leaky_softplus", 4.0)
    expected = plain.surrogate(rho=4.0).apply(rest, x) + x @ a
    value = surrogate.apply(moved, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_linear_is_an_affine_map_and_its_own_surrogate():
    model = models.Linear(num_outputs=2)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    params = model.init(jax.random.key(1), x[0])
    expected = forward(params, np.float64(x), None)
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    assert model.apply(params, x[0]).shape == (2,)
    assert model.surrogate(rho=3.0) is model


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_surrogate_converges_to_the_network_like_one_over_rho(name):
    model = models.MLP(hidden=(16, 8), num_outputs=2, activation=name)
    x = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(2), x[0])  # the surrogate shares them
    logits = np.asarray(jax.jit(model.apply)(params, x))

    def error(rho):
        value = jax.jit(model.surrogate(rho=rho).apply)(params, x)
        return np.max(np.abs(np.asarray(value) - logits))

    coarse, fine, finest = error(10.0), error(100.0), error(1000.0)
    assert 0 < fine < 0.2 * coarse and 0 < finest < 0.2 * fine
    assert finest < 5e-3


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "softplus", "leaky_softplus"])
def test_a_smooth_model_is_its_own_surrogate(name):
    model = models.MLP(activation=name, rho=7.0)
    assert model.surrogate(rho=2.0) is model
    assert activations.surrogate_name(name) == name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: activations.activation("elu"),
            "unknown activation 'elu'; known: gelu, ",
        ),
        (lambda: activations.surrogate_name("elu"), "unknown activation 'elu'"),
        (
            lambda: activations.activation("softplus", rho=0.0),
            "rho must be positive.*0.0",
        ),
        (lambda: scaled_softplus(-1.0), "rho must be positive.*-1.0"),
        (lambda: leaky_softplus(float("nan")), "rho must be positive.*nan"),
        (
            lambda: models.MLP(activation="swish").init(jax.random.key(0), jnp.ones(2)),
            "unknown activation 'swish'",
        ),
        (lambda: models.MLP(activation="swish").surrogate(rho=1.0), "'swish'"),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
