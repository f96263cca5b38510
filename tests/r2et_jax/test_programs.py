"""Kinks of programs: which are found, what stands in for them, where they switch."""

import doctest

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import numerics, programs
from r2et_jax.programs import transform
from r2et_jax.programs.transform import crossing, has_kinks, kinks

X = jnp.array([0.7, -1.3, 2.4, -0.2], jnp.float32)
RHO = 4.0


def model(function):
    return lambda params, x: function(x)


def soft(x):
    """softplus_ρ in 64 bits."""
    return np.logaddexp(0, RHO * np.asarray(x, np.float64)) / RHO


def contents(function, x=X):
    return programs.describe(model(function), None, x)


def smoothed(function, x=X):
    return programs.smooth(model(function), rho=RHO)(None, x)


@jax.custom_vjp
def plain_relu(x):
    return jnp.maximum(x, 0)


plain_relu.defvjp(
    lambda x: (plain_relu(x), x), lambda x, g: (jnp.where(x > 0, g, 0.0),)
)


@jax.custom_vjp
def relu_by_product(x):
    return jnp.maximum(x, 0)


relu_by_product.defvjp(lambda x: (relu_by_product(x), x), lambda x, g: (g * (x > 0),))

x64 = np.asarray(X, np.float64)
FORMS = {
    "relu": (jax.nn.relu, soft(x64)),
    "custom vjp": (plain_relu, soft(x64)),
    "custom vjp, a product": (relu_by_product, soft(x64)),
    "remat": (jax.checkpoint(jax.nn.relu), soft(x64)),
    "maximum": (lambda x: jnp.maximum(x, 1), 1 + soft(x64 - 1)),
    "minimum": (lambda x: jnp.minimum(1, x), 1 - soft(1 - x64)),
    "two values": (
        lambda x: jnp.maximum(x, x[::-1]),
        x64[::-1] + soft(x64 - x64[::-1]),
    ),
    "leaky": (jax.nn.leaky_relu, 0.01 * x64 + 0.99 * soft(x64)),
    "leaky maximum": (lambda x: jnp.maximum(0.1 * x, x), 0.1 * x64 + 0.9 * soft(x64)),
    "leaky minimum": (lambda x: jnp.minimum(x, 3 * x), 3 * x64 - 2 / 3 * soft(3 * x64)),
    "where": (lambda x: jnp.where(x > 0, x, 0), soft(x64)),
    "where not": (lambda x: jnp.where(~(x > 0), 0, x), soft(x64)),
    "where leaky": (
        lambda x: jnp.where(x >= 0, x, 0.01 * x),
        0.01 * x64 + 0.99 * soft(x64),
    ),
    "where shifted": (
        lambda x: jnp.where(x <= 1, 2 * x - 1, x),
        x64 + (x64 - 1) - soft(x64 - 1),
    ),
    "where of two": (
        lambda x: jnp.where(x < x[::-1], x, x[::-1]),
        x64[::-1] - soft(x64[::-1] - x64),
    ),
    "where twice": (
        lambda x: jnp.where(x > 0, x, jnp.where(x > 0, 0, 0.1 * x)),
        0.1 * x64 + 0.9 * soft(x64),
    ),
    "product": (lambda x: x * (x > 0), soft(x64)),
    "select": (lambda x: jnp.select([x > 0], [x], 0 * x), soft(x64)),
    "select, leaky": (
        lambda x: jnp.select([x < -1, x < 0], [0 * x - 0.5, 0.5 * x], x),
        -0.5 + 0.5 * soft(x64 + 1) + 0.5 * soft(x64),
    ),
    "cond, one by one": (
        jax.vmap(lambda v: jax.lax.cond(v > 0, lambda u: u, lambda u: 0 * u, v)),
        soft(x64),
    ),
    "product of a curve": (
        lambda x: jnp.tanh(x) * (jnp.tanh(x) > 0.1) - 0.1 * (jnp.tanh(x) > 0.1),
        soft(np.tanh(x64) - 0.1),
    ),
    "product with numbers": (lambda x: jnp.where(x > 0, 1.0, 0.0) * x, soft(x64)),
    "product, leaky": (
        lambda x: x * (0.1 + 0.9 * (x >= 0)),
        0.1 * x64 + 0.9 * soft(x64),
    ),
    "product, shifted": (lambda x: (2 * x - 1) * (x > 0.5), 2 * soft(x64 - 0.5)),
    "product with the sign": (lambda x: x * jnp.sign(x), soft(x64) + soft(-x64)),
    "product with a step": (lambda x: x * jnp.heaviside(x, 0.5), soft(x64)),
    "pieces that meet": (
        lambda x: jnp.where(x > -1, x, -1) * (x < 2) + 2 * (x >= 2),
        -1 + soft(x64 + 1) - soft(x64 - 2),
    ),
    "band": (
        lambda x: jnp.where((x > -1) & (x < 1), 1 - jnp.abs(x), 0),
        soft(x64 + 1) - 2 * soft(x64) + soft(x64 - 1),
    ),
    "abs": (jnp.abs, soft(x64) + soft(-x64)),
    "where abs": (lambda x: jnp.where(x > 0, x, -x), soft(x64) + soft(-x64)),
    "maximum abs": (lambda x: jnp.maximum(x, -x), soft(x64) + soft(-x64)),
    "clamp": (
        lambda x: jax.lax.clamp(-1.0, x, 2.0),
        -1 + soft(x64 + 1) - soft(x64 - 2),
    ),
    "hard tanh": (
        jax.nn.hard_tanh,
        None,
    ),
    "max": (jnp.max, np.log(np.mean(np.exp(RHO * x64))) / RHO),
    "min": (jnp.min, -np.log(np.mean(np.exp(-RHO * x64))) / RHO),
    "prelu": (lambda x: jnp.where(x >= 0, x, jnp.sin(1.0) * x), None),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", FORMS)
def test_smooth_form_of_each_kink(name):
    function, right = FORMS[name]
    held = contents(function)
    assert held.kinks and not held.left
    if right is not None:
        assert np.allclose(smoothed(function), right, rtol=1e-5, atol=1e-6)
    sharp = programs.smooth(model(function), rho=1e5)(None, X)
    assert np.allclose(sharp, function(X), atol=1e-4)
    assert contents(lambda x: smoothed(function, x)).kinks == {}


POSITIVE = {
    "logsumexp": jax.nn.logsumexp,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logaddexp": lambda x: jnp.logaddexp(x, x[::-1]),
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "squareplus": jax.nn.squareplus,
    "careful softplus": numerics.softplus,
    "sigmoid": numerics.sigmoid,
    "unit_l2": numerics.unit_l2,
    "safe_norm": numerics.safe_norm,
    "|exp|": lambda x: jnp.abs(jnp.exp(x)),
    "maximum of squares": lambda x: jnp.maximum(x**2, 0),
    "sqrt of a floor": lambda x: jnp.sqrt(jnp.maximum(jnp.sum(x**2), -1)),
    "floor of a norm": lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-8),
    "guarded norm": lambda x: jnp.where(jnp.sum(x**2) > 1e-12, x / jnp.sum(x**2), 0),
    "clipped probabilities": lambda x: jnp.log(jnp.clip(jax.nn.softmax(x), 1e-7, 1)),
    "clamped probabilities": lambda x: jax.lax.clamp(1e-7, jax.nn.sigmoid(x), 1 - 1e-6),
    "maximum with -inf": lambda x: jnp.maximum(-jnp.inf, x),
    "|z|": lambda x: jnp.abs(jnp.fft.fft(x)),
    "stopped": lambda x: x * jax.lax.stop_gradient(jnp.max(jnp.abs(x))),
    "one entry": lambda x: jnp.max(x[:1]),
    "linear": lambda x: 2 * x + 1,
    "counts": lambda x: x / jnp.maximum(jnp.arange(4), 1).astype(x.dtype),
    "mask": lambda x: jnp.where(jnp.arange(4) > 1, x, 0),
    "index": lambda x: jnp.diagonal(x.reshape(2, 2)),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_smooth_functions_with_kinked_insides_stay(name):
    assert contents(POSITIVE[name]) == ({}, {}, 0)


@pytest.mark.parametrize("layer", [nn.LayerNorm(), nn.RMSNorm(), nn.GroupNorm(2)])
def test_variance_of_a_normalisation_is_no_kink(layer):
    params = layer.init(jax.random.key(0), X)
    assert programs.describe(layer.apply, params, X).kinks == {}


def test_ranges_do_not_hold_for_complex_numbers_and_wrapping_integers():
    def spectrum(x):
        z = jnp.fft.fft(x)
        return jnp.maximum(jnp.real(z * z), 0)

    def wrapped(x):
        return jnp.maximum(x, (jnp.uint8(3) - jnp.uint8(5)).astype(x.dtype))

    assert contents(spectrum).kinks == {"max": 1}
    assert contents(wrapped).kinks == {"max": 1}
    assert smoothed(wrapped)[0] >= 254


def test_layer_of_a_context_is_smoothed_with_the_model():
    def apply(params, x):
        weights, bias, context = params
        layers = [jax.nn.relu(weights @ v + bias) for v in (x, context)]
        return layers[0] @ layers[1]

    params = jnp.eye(4, dtype=X.dtype), X[::-1], -X
    right = soft(x64 + x64[::-1]) @ soft(-x64 + x64[::-1])
    mine = programs.smooth(apply, rho=RHO)(params, X)
    assert np.allclose(mine, right, rtol=1e-5)
    closed = programs.smooth(lambda _, x: apply(params, x), rho=RHO)(None, X)
    assert np.allclose(closed, right, rtol=1e-5)
    assert programs.describe(apply, params, X) == ({"max": 1}, {}, 4)
    assert not has_kinks(lambda p, x: apply(p, X) * x, params, X)


@pytest.mark.standard_promotion
def test_layer_of_a_context_is_smoothed_in_whichever_way_it_is_written():
    def apply(params, x):
        weights, bias, context = params
        inner = [weights @ v + bias for v in (x, context)]
        return (inner[0] * (inner[0] > 0)) @ (inner[1] * (inner[1] > 0))

    params = jnp.eye(4, dtype=X.dtype), X[::-1], -X
    right = soft(x64 + x64[::-1]) @ soft(-x64 + x64[::-1])
    mine = programs.smooth(apply, rho=RHO)(params, X)
    assert np.allclose(mine, right, rtol=1e-5)


def test_kinks_of_parameters_alone_stay():
    def apply(params, x):
        return jnp.maximum(x @ jnp.abs(params), 0)

    params = -jnp.eye(4, dtype=X.dtype)
    assert programs.describe(apply, params, X) == ({"max": 1}, {}, 4)
    mine = programs.smooth(apply, rho=RHO)(params, X)
    assert np.allclose(mine, soft(x64), rtol=1e-5)


LEFT = {
    "step": (lambda x: jnp.where(x > 0, 1.0, 0.0), {"gt": 1}),
    "any": (lambda x: jnp.where(jnp.any(x > 0), x, 0), {"select_n": 1}),
    "entry by comparison": (
        lambda x: jnp.stack([0 * x, x])[(x[0] > 0).astype(int)],
        {"gt": 1},
    ),
    "guard": (lambda x: jnp.where(x > 0, x, 1), {"select_n": 1}),
    "ramp that jumps": (lambda x: x * (x > 1), {"gt": 1}),
    "number of units": (lambda x: x * jnp.sum(x > 0), {"gt": 1}),
    "product of steps": (
        lambda x: jnp.sign(x) * jnp.where(x[::-1] > 0, 1.0, 0.0) + 0 * x,
        {"sign": 1},
    ),
    "steps of a product": (lambda x: x[::-1] * (x > 0), {"gt": 1}),
    "double where": (
        lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0),
        {"select_n": 1},
    ),
    "sort": (jnp.sort, {"sort": 1}),
    "argmax": (lambda x: x[jnp.argmax(x)], {"argmax": 1}),
    "sign": (jnp.sign, {"sign": 1}),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_smooth_form_is_told_and_stays(name):
    function, left = LEFT[name]
    assert contents(function) == ({}, left, 0)
    ((step, _),) = left.items()
    with pytest.warns(UserWarning, match=f"no smooth form is known .{step} at 1 place"):
        assert smoothed(function).tolist() == function(X).tolist()


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("strides", [(1, 2), (2, 2)])
def test_window_maximum(padding, strides):
    image = jax.random.normal(jax.random.key(1), (5, 6, 2), jnp.float32)

    def pool(x):
        return nn.max_pool(x, (3, 2), strides=strides, padding=padding)

    # ∞ outside: windows at the rim hold fewer values.
    values = np.asarray(image, np.float64)
    if padding == "SAME":
        shape = jax.eval_shape(pool, image).shape[:2]
        need = [
            max((n - 1) * s + k - m, 0)
            for n, s, k, m in zip(shape, strides, (3, 2), (5, 6), strict=True)
        ]
        rim = [(n // 2, n - n // 2) for n in need]
        values = np.pad(values, [*rim, (0, 0)], constant_values=-np.inf)
    views = np.lib.stride_tricks.sliding_window_view(values, (3, 2), axis=(0, 1))
    views = views[:: strides[0], :: strides[1]]
    inside = np.isfinite(views).sum(axis=(-1, -2))
    right = np.log(np.exp(RHO * views).sum(axis=(-1, -2)) / inside) / RHO

    @jax.jit
    def largest(image):
        forms = [
            programs.smooth(model(pool), rho=rho)(None, image) for rho in (RHO, 1e4)
        ]
        return *forms, pool(image), kinks(model(pool))(None, image)

    smooth, sharp, pooled, switches = largest(image)
    assert np.allclose(smooth, right, rtol=1e-5, atol=1e-6)
    assert np.allclose(sharp, pooled, atol=1e-3)
    assert switches.shape == (inside.sum(),)
    assert int((switches > 0).sum()) == inside.size  # one winner in each


def test_switches_are_what_the_model_compares():
    def apply(params, x):
        hidden = jax.nn.relu(params @ x)
        return jnp.clip(hidden, 1.0, 2.0) + jnp.max(hidden)

    weights = jax.random.normal(jax.random.key(0), (3, 4), jnp.float32)
    z = np.asarray(weights @ X)
    hidden = np.maximum(z, 0)
    others = [np.delete(hidden, i).max() for i in range(3)]
    switching = kinks(apply)(weights, X)
    assert np.allclose(switching[:3], z, rtol=1e-5)
    assert np.allclose(switching[3:6], hidden - 1, rtol=1e-5)
    assert np.allclose(switching[-3:], hidden - others, rtol=1e-5)


def test_crossing_gives_a_value_and_its_gradient():
    def apply(params, x):
        return jax.nn.relu(params @ x)

    weights = jax.random.normal(jax.random.key(0), (3, 4), jnp.float32)
    cross = crossing(apply)

    @jax.jit
    def over(h):
        z, w = cross(weights, X, h)
        moved = X - 1.01 * z * w / (w @ w)
        return z, w, kinks(apply)(weights, moved)

    before = weights @ X
    for h in range(3):
        z, w, after = over(jnp.array(h))
        assert np.allclose(z, before[h], rtol=1e-5)
        assert np.allclose(w, weights[h], rtol=1e-5)
        assert np.allclose(after[h], -0.01 * before[h], atol=1e-5)


def test_examples_in_the_docs():
    result = doctest.testmod(transform)
    assert result.attempted > 0 and result.failed == 0


@jax.custom_vjp
def straight_through(x):
    return jnp.clip(x, -1.0, 1.0)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


class guided:
    """A ReLU by name and value, whose derivative is another."""

    @jax.custom_vjp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defvjp(
        lambda x: (jnp.maximum(x, 0), x),
        lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0.0),),
    )


@jax.custom_jvp
def layer(w, x):
    return jax.nn.relu(w @ jnp.sin(x))


@layer.defjvp
def _layer_jvp(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    z, dz = jax.jvp(lambda w, x: w @ jnp.sin(x), (w, x), (dw, dx))
    return jax.nn.relu(z), jnp.where(z > 0, dz, 0)


def test_derivative_of_ones_own_that_does_not_jump_is_kept():
    assert contents(straight_through) == ({}, {}, 0)
    gradient = jax.grad(lambda x: smoothed(straight_through, x).sum())(X)
    assert gradient.tolist() == [1, 1, 1, 1]


def test_derivative_of_ones_own_that_is_another_is_told():
    assert contents(guided.relu) == ({}, {"relu": 1}, 0)


def test_kinked_layer_with_its_own_derivative():
    w = jax.random.normal(jax.random.key(2), (3, 4), jnp.float32)
    described = programs.describe(layer, w, X)
    assert described == ({"max": 1}, {}, 3)
    mine = jax.jit(lambda w, x: programs.smooth(layer, rho=RHO)(w, x))(w, X)
    assert np.allclose(mine, soft(w @ jnp.sin(X)), rtol=1e-5, atol=1e-6)


def test_branch_that_meets_on_one_side_and_jumps_further_on():
    def function(x):
        return jnp.where(x > 1, jnp.where(x > 2, x, 1), x)

    assert contents(function) == ({"select_n": 1}, {"select_n": 1}, 4)
    with pytest.warns(UserWarning, match="select_n at 1 place"):
        sharp = programs.smooth(model(function), rho=1e5)(None, X)
    assert np.allclose(sharp, function(X), atol=1e-4)
