"""The rule of each elementwise primitive against dense sampling, and its mutations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from r2et_jax.bounds import bound, box, elementwise
from r2et_jax.bounds.elementwise import ELEMENTWISE
from r2et_jax.bounds.jets import Jet, Truth


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def _chosen(which, x):
    return jnp.where(which, x, 0.5 * x)


# Primitive -> a function that is made of it, and where its argument may be.
FUNCTIONS = {
    "abs": (jnp.abs, -2, 2),
    "add": (lambda x: jnp.exp(x) + jnp.sin(x), -2, 2),
    "add_any": (jax.grad(lambda x: jnp.sum(x * jnp.tanh(x))), -2, 2),
    "and": (lambda x: _chosen((x > 0) & (x < 1), x), -2, 2),
    "asinh": (jnp.arcsinh, -3, 3),
    "atan": (jnp.arctan, -3, 3),
    "cbrt": (jnp.cbrt, -2, 2),
    "ceil": (lambda x: jnp.ceil(x), -2, 2),
    "clamp": (lambda x: jnp.exp(lax.clamp(-0.5, x, 1.0)), -2, 2),
    "convert_element_type": (lambda x: (x > 0.3).astype(x.dtype), -2, 2),
    "copy": (lambda x: jnp.exp(jnp.copy(x) * x), -1, 1),
    "cos": (jnp.cos, -7, 7),
    "cosh": (jnp.cosh, -2, 2),
    "div": (lambda x: jnp.exp(x) / (2 + jnp.tanh(x)), -2, 2),
    "eq": (lambda x: _chosen(jnp.sign(x) == 1, x), -2, 2),
    "erf": (lax.erf, -3, 3),
    "erfc": (lax.erfc, -3, 3),
    "exp": (jnp.exp, -3, 3),
    "exp2": (jnp.exp2, -3, 3),
    "expm1": (jnp.expm1, -3, 3),
    "floor": (lambda x: jnp.floor(x), -2, 2),
    "ge": (lambda x: _chosen(x >= 0.2, x), -2, 2),
    "gt": (lambda x: _chosen(x > 0.2, x), -2, 2),
    "integer_pow": (lambda x: lax.integer_pow(x, 3), -2, 2),
    "is_finite": (lambda x: _chosen(jnp.isfinite(x), jnp.exp(x)), -2, 2),
    "le": (lambda x: _chosen(x <= 0.2, x), -2, 2),
    "log": (jnp.log, 0.1, 3),
    "log1p": (jnp.log1p, -0.8, 3),
    "logistic": (jax.nn.sigmoid, -6, 6),
    "lt": (lambda x: _chosen(x < 0.2, x), -2, 2),
    "max": (lambda x: jnp.maximum(jnp.exp(x), 1.5), -2, 2),
    "min": (lambda x: jnp.minimum(jnp.exp(x), 1 - x), -2, 2),
    "mul": (lambda x: jnp.sin(x) * jnp.exp(x), -2, 2),
    "ne": (lambda x: _chosen(jnp.sign(x) != 1, x), -2, 2),
    "neg": (lambda x: jnp.exp(x) * -jnp.exp(x), -1, 1),
    "not": (lambda x: _chosen(~(x > 0), x), -2, 2),
    "or": (lambda x: _chosen((x < 0) | (x > 1), x), -2, 2),
    "pow": (lambda x: x**1.7, 0.1, 2),
    "round": (lambda x: jnp.round(x), -2, 2),
    "rsqrt": (lax.rsqrt, 0.1, 3),
    "select_n": (lambda x: jnp.where(x > 0.4, x**2, 0.3 - x), -2, 2),
    "sign": (lambda x: jnp.exp(x) * jnp.sign(x), -2, 2),
    "sin": (jnp.sin, -7, 7),
    "sinh": (jnp.sinh, -2, 2),
    "sqrt": (jnp.sqrt, 0.05, 3),
    "square": (lambda x: jnp.square(jnp.sin(x)), -2, 2),
    "stop_gradient": (lambda x: jnp.exp(lax.stop_gradient(x) * x), -1, 1),
    "sub": (lambda x: jnp.exp(x) - jnp.sin(x), -2, 2),
    "tanh": (jnp.tanh, -3, 3),
    "xor": (lambda x: _chosen((x < 0) ^ (x > 1), x), -2, 2),
}
# Chains that models are made of: the width of the lines over that of the best ones.
CHAINS = {
    "softplus": (lambda x: jax.nn.softplus(3 * x) / 3, -2, 2),
    "gelu": (jax.nn.gelu, -3, 3),
    "gelu, exact": (lambda x: jax.nn.gelu(x, approximate=False), -3, 3),
    "derivative of gelu": (jax.grad(lambda x: jax.nn.gelu(x).sum()), -3, 3),
    "silu": (jax.nn.silu, -3, 3),
    "leaky relu": (jax.nn.leaky_relu, -2, 2),
    "relu6": (lambda x: jax.nn.relu6(3 * x), -1, 3),
    "elu": (jax.nn.elu, -2, 2),
    "derivative of tanh": (jax.grad(lambda x: jnp.tanh(x).sum()), -2, 2),
}


def intervals(least, most, *, shape, seed=0):
    """Intervals of many widths, some of a single point."""
    rng = np.random.default_rng(seed)
    widths = (most - least) * rng.choice([0, 1e-6, 0.01, 0.1, 0.5, 1.0], shape)
    low = least + rng.random(shape) * (most - least - widths)
    return low, low + widths


def checked(fn, low, high):
    """By how much samples leave the lines and the interval; gap, range and best gap."""
    share = np.linspace(0, 1, 301).reshape(-1, *(1,) * low.ndim)
    points = low + share * (high - low)
    values = np.asarray(jax.jit(jax.vmap(fn))(jnp.asarray(points)))

    def ends(low, high):
        made = bound(fn, box(low, high))
        slope = made.linear.reshape(low.size, low.size)
        noise = jnp.abs(made.noise).sum(axis=0) + made.box
        return made.center, jnp.diag(slope), noise, made.interval()

    center, slope, noise, (least, most) = jax.tree.map(
        np.asarray, jax.jit(ends)(jnp.asarray(low), jnp.asarray(high))
    )
    middle = low + (high - low) / 2
    line = center + slope.reshape(low.shape) * (points - middle)
    outside = np.abs(values - line) - noise
    beyond = np.maximum(least - values, values - most)
    # The smallest gap of two parallel lines, of many slopes.
    chords = np.linspace(-1, 1, 201)[:, None]
    flat = values.reshape(len(values), -1), points.reshape(len(points), -1)
    steep = np.abs(np.diff(flat[0], axis=0)).max(0) / np.maximum(
        np.diff(flat[1], axis=0).max(0), 1e-300
    )
    tilted = flat[0] - (chords * steep)[:, None] * flat[1]
    best = (tilted.max(1) - tilted.min(1)).min(0).reshape(low.shape)
    return max(outside.max(), beyond.max()), 2 * noise, best


def test_every_rule_has_a_function():
    assert set(FUNCTIONS) == set(ELEMENTWISE)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_rule(name):
    fn, least, most = FUNCTIONS[name]
    shape = [(11,), (3, 4), (2, 2, 3)][len(name) % 3]
    low, high = intervals(least, most, shape=shape, seed=len(name))
    excess, _, _ = checked(fn, low, high)
    assert excess <= 1e-12


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_chain_is_bounded_as_one_function(name):
    fn, least, most = CHAINS[name]
    low, high = intervals(least, most, shape=(13,), seed=3)
    excess, gap, best = checked(fn, low, high)
    assert excess <= 1e-12
    # Wide intervals have few cells for all that happens in them.
    short = high - low <= 0.5
    assert np.all(gap[short] <= 1.5 * best[short] + 1e-9)
    assert np.all(gap <= 2 * best + 1e-9)


def _too_small(rule):
    """The rule with a tenth of its width missing, on either side."""

    def mutant(taken, params):
        made = rule(taken, params)
        ends = [made.ends, made.slope]
        for n, part in enumerate(ends):
            if part is not None and part.shape[0] == 2:
                middle = (part[:1] + part[1:]) / 2
                ends[n] = middle + 0.8 * (part - middle)
        return Jet(*ends, True)

    return mutant


COMPARED = {"eq", "ge", "gt", "le", "lt", "ne"}
LOGICAL = {"and", "not", "or", "xor"}
# Whose mutant is no fault: they pass on what they get, and their arguments' width is
# also that of the result.
_PASSED_ON = {"is_finite", "copy", "stop_gradient"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - _PASSED_ON - COMPARED - LOGICAL)
)
def test_unsound_rule_is_caught(name, monkeypatch):
    fn, least, most = FUNCTIONS[name]
    low, high = intervals(least, most, shape=(12,), seed=5)
    low[:3], high[:3] = least, most
    monkeypatch.setitem(elementwise.ELEMENTWISE, name, _too_small(ELEMENTWISE[name]))
    excess, _, _ = checked(fn, low, high)
    assert excess > 1e-9


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_comparison_is_sure_where_every_pair_agrees(name):
    grid = np.array([-1.0, 0.0, 1.0, 2.0])
    ends = [(p, q) for p in grid for q in grid if p <= q]
    a, b = (np.array(x).T for x in zip(*itertools.product(ends, ends), strict=True))
    rule, compare = ELEMENTWISE[name], getattr(np, _NUMPY[name])
    made = rule([Jet(jnp.asarray(a), None), Jet(jnp.asarray(b), None)], {})
    share = np.linspace(0, 1, 13)
    p, q = (x[0] + share[:, None] * (x[1] - x[0]) for x in (a, b))
    seen = compare(p[:, None], q[None])
    np.testing.assert_array_equal(np.asarray(made.surely)[0], seen.all(axis=(0, 1)))
    np.testing.assert_array_equal(np.asarray(made.maybe)[0], seen.any(axis=(0, 1)))


_NUMPY = {
    "eq": "equal",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "lt": "less",
    "ne": "not_equal",
}


@pytest.mark.parametrize("name", sorted(LOGICAL))
def test_logic_of_three_values_holds_both_cases(name):
    cases = [(False, False), (False, True), (True, True)]  # surely, maybe
    for first in cases:
        for second in cases[: 1 if name == "not" else 3]:
            pair = [Truth(*(np.array(x) for x in case)) for case in (first, second)]
            taken = pair[:1] if name == "not" else pair
            made = ELEMENTWISE[name]([jax.tree.map(jnp.asarray, t) for t in taken], {})
            values = [
                getattr(np, f"logical_{name}")(*choice)
                for choice in itertools.product(
                    *(sorted({bool(x) for x in t}) for t in taken)
                )
            ]
            assert (bool(made.surely), bool(made.maybe)) == (all(values), any(values))
