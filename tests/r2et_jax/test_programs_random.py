"""Laws of smooth stand-ins and switches, on random piecewise-linear programs."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from r2et_jax import programs
from r2et_jax.programs import transform
from r2et_jax.programs.transform import crossing, kinks

N = 3
FEW = settings.default.max_examples // 3  # each is compiled

OPERATIONS = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jax.nn.relu6(x + 0.5),
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.2),
    "abs": jnp.abs,
    "maximum": lambda x: jnp.maximum(x, x[::-1] - 0.3),
    "minimum": lambda x: jnp.minimum(0.7, 2 * x),
    "multiples": lambda x: jnp.maximum(-0.4 * x, 1.1 * x),
    "clip": lambda x: jnp.clip(x, -0.6, 0.8),
    "clamp": lambda x: jax.lax.clamp(-0.5, x, 0.9),
    "where": lambda x: jnp.where(x <= 0.2, 3 * x, x + 0.4),
    "product": lambda x: (x - 0.2) * jnp.where(x > 0.2, 1.0, 0.0),
    "signed": lambda x: x * jnp.sign(x) - 0.5 * x,
    "nested": lambda x: jnp.where(x > 0.9, 0.9, jnp.where(x < -0.7, -0.7, x)),
    "max": lambda x: x - jnp.max(x),
    "min": lambda x: x + jnp.min(x, keepdims=True),
    "windows": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (2,), (1,), "SAME"
    ),
    "scan": lambda x: jax.lax.scan(
        lambda c, u: (jax.nn.relu(c + u), c), jnp.zeros((), x.dtype), x
    )[1],
    "residual": lambda x: x + jax.nn.relu(0.3 - x),
}
PROGRAMS = st.tuples(
    st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=3),
    st.integers(0, 2**16),
)


def built(recipe):
    """A model of layers, its params (a matrix for each), and two inputs."""
    names, seed = recipe
    rng = np.random.default_rng(seed)
    params = jnp.asarray(rng.normal(size=(len(names), N, N)))
    ends = jnp.asarray(rng.normal(size=(2, N)))

    def apply(params, x):
        for name, matrix in zip(names, params, strict=True):
            x = OPERATIONS[name](matrix @ x)
        return x @ jnp.arange(1.0, N + 1)

    return apply, params, ends


@pytest.fixture(autouse=True)
def in_64_bits():
    with jax.enable_x64(True):
        yield


@settings(max_examples=FEW)
@given(PROGRAMS)
def test_tends_to_the_model_as_the_sharpness_grows(recipe):
    apply, params, ends = built(recipe)
    sharp = jax.vmap(lambda x: programs.smooth(apply, rho=1e7)(params, x))(ends)
    assert np.allclose(sharp, jax.vmap(lambda x: apply(params, x))(ends), atol=1e-4)
    soft = programs.smooth(apply, rho=5.0)
    assert programs.describe(apply, params, ends[0]).left == {}
    assert programs.describe(soft, params, ends[0])[:2] == ({}, {})


@settings(max_examples=FEW)
@given(PROGRAMS)
def test_stand_in_is_smooth(recipe):
    """Its gradient is that of its values, also across the kinks of the model."""
    apply, params, (first, last) = built(recipe)
    soft = programs.smooth(apply, rho=3.0)

    def along(t):
        return soft(params, first + t * (last - first))

    ts = jnp.linspace(0, 1, 401)
    values, slopes = jax.vmap(jax.value_and_grad(along))(ts)
    # Simpson's rule over every pair of intervals; a kink would cost O(h), not O(h⁴).
    h = 1 / 400
    rises = h / 3 * (slopes[:-2:2] + 4 * slopes[1:-1:2] + slopes[2::2])
    error = jnp.max(jnp.abs(values[2::2] - values[:-2:2] - rises))
    assert error <= 1e-5 * (1 + jnp.max(jnp.abs(slopes)))


@settings(max_examples=FEW)
@given(PROGRAMS)
def test_gradient_is_constant_where_no_sign_changes(recipe):
    apply, params, (first, last) = built(recipe)

    def at(t):
        x = first + t * (last - first)
        gradient = jax.grad(lambda x: apply(params, x))(x)
        return kinks(apply)(params, x) > 0, gradient

    signs, gradients = jax.vmap(at)(jnp.linspace(0, 1, 60))
    kept = jnp.all(signs[1:] == signs[:-1], axis=1)
    jumps = jnp.max(jnp.abs(gradients[1:] - gradients[:-1]), axis=1)
    assert jnp.max(jnp.where(kept, jumps, 0)) <= 1e-9 * jnp.max(jnp.abs(gradients))


@settings(max_examples=FEW)
@given(PROGRAMS)
def test_move_across_the_nearest_switch_changes_its_sign(recipe):
    apply, params, (x, _) = built(recipe)
    switches = kinks(apply)
    z, w = switches(params, x), jax.jacobian(switches, argnums=1)(params, x)
    norms = np.linalg.norm(w, axis=1)
    distances = np.where(norms > 1e-9, np.abs(z) / np.maximum(norms, 1e-9), np.inf)
    assume(np.isfinite(distances.min()))
    # A unit's own switch stands before those that its death would change.
    h = int(np.flatnonzero(distances <= distances.min() * (1 + 1e-9))[0])
    value, gradient = crossing(apply)(params, x, h)
    assert np.allclose(value, z[h]) and np.allclose(gradient, w[h])
    beyond = x - (1 + 1e-5) * value * gradient / (gradient @ gradient)
    assert np.isclose(switches(params, beyond)[h], -1e-5 * z[h], rtol=1e-3)


def _step(b, t):
    return jnp.where(b > t, 1.0, 0.0)


LEAVES = {
    "x": lambda x: x,
    "2x": lambda x: 2 * x,
    "x-1": lambda x: x - 1,
    "-x": lambda x: -x,
    "half": lambda x: 0 * x + 0.5,
}
JOINTS = {
    "product": lambda a, b, t: a * _step(b, t),
    "two products": lambda a, b, t: a * _step(b, t) + b * (1 - _step(b, t)),
    "where": lambda a, b, t: jnp.where(b <= t, a, b),
    "band": lambda a, b, t: jnp.where((a > t) & (b < 1.5), a, b),
    "sign": lambda a, b, t: a * jnp.sign(b),
    "sum": lambda a, b, t: a + t * b,
    "maximum": lambda a, b, t: jnp.maximum(a, t) - b,
    "bent": lambda a, b, t: jnp.tanh(a) + b,
}
TREES = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda part: st.tuples(
        st.sampled_from(sorted(JOINTS)), part, part, st.sampled_from([-1.0, 0.0, 0.5])
    ),
    max_leaves=5,
)


def grown(tree, x):
    if isinstance(tree, str):
        return LEAVES[tree](x)
    name, a, b, t = tree
    return JOINTS[name](grown(a, x), grown(b, x), t)


@settings(max_examples=2 * FEW)
@given(TREES)
def test_functions_put_together_from_pieces(tree):
    """Straight through they are themselves; what is treated is near, without jumps."""

    def apply(params, x):
        return grown(tree, x)

    def values(f, x):
        return jax.jit(lambda x: jax.jvp(lambda x: f(None, x), (x,), (ones,)))(x)

    x = jnp.linspace(-3.0123, 3.0171, 1201)
    ones = jnp.ones_like(x)
    left = programs.describe(apply, None, x).left
    right = values(apply, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is left
        mine = values(transform.straight_through(apply, rho=4.0), x)
        sharp = values(programs.smooth(apply, rho=1e7), x)
    for got, expected in zip(mine, right, strict=True):
        assert np.allclose(got, expected, atol=1e-6)
    jump = np.abs(np.diff(right[0])).max() - np.abs(right[1]).max() * 6.03 / 1200
    event("jumps" if left else "is treated")
    if not left:
        assert jump < 0.05
        assert np.allclose(sharp[0], right[0], atol=1e-5)
        assert np.allclose(sharp[1], right[1], atol=1e-3)
