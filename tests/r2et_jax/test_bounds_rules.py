"""The rules of primitives that are not elementwise against dense sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from r2et_jax.bounds import Policy, ball, bound, box, products, switches
from r2et_jax.bounds.linear_steps import LINEAR
from r2et_jax.bounds.rules import RULES
from r2et_jax.programs.steps import program_of
from tests.bounds_sampling import violation


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 6))
KERNEL = RNG.standard_normal((2, 2, 1, 2))
PREDICATE = RNG.random(6) < 0.5


def _image(x):
    return jnp.concatenate([x, x[:3] * x[3:]]).reshape(1, 3, 3, 1)


def _conv(image, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(
        image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def _window_max(x, function=lax.max, start=-np.inf, padding="VALID"):
    return lax.reduce_window(x, start, function, (1, 2, 2, 1), (1, 1, 1, 1), padding)


def _windowed(padding):
    def fn(x):
        image = jnp.tanh(x @ W).reshape(1, 2, 3, 1)
        return _window_max(image, padding=padding)

    return fn


def _scanned(x):
    def turn(carry, row):
        carry = jnp.tanh(carry + row @ jnp.asarray(W))
        return carry, carry[:2]

    rows = jnp.stack([x, 2 * x, -x])
    return lax.scan(turn, x, rows, reverse=True)[1]


# A title, the primitives that it is about, the function of a vector of 6.
CASES = {
    "add and sub": ("add sub neg", lambda x: (x + W[0]) - (x @ W) + -x),
    "broadcast": ("broadcast_in_dim mul", lambda x: x[:, None] * W),
    "concatenate": ("concatenate", lambda x: jnp.concatenate([x, W[0], x[::-1]])),
    "convolution": (
        "conv_general_dilated",
        lambda x: _conv(_image(x), KERNEL, window_strides=(2, 1)),
    ),
    "dilated convolution": (
        "conv_general_dilated",
        lambda x: _conv(_image(x), KERNEL, rhs_dilation=(2, 2)),
    ),
    "transposed convolution": (
        "conv_general_dilated",
        lambda x: _conv(
            _image(x), KERNEL, lhs_dilation=(2, 2), padding=((1, 1), (1, 0))
        ),
    ),
    "convolution of two": (
        "conv_general_dilated",
        lambda x: _conv(_image(x), jnp.sin(x[:4]).reshape(2, 2, 1, 1)),
    ),
    "cumulative sum": ("cumsum", lambda x: jnp.cumsum(x @ W)),
    "division": ("div", lambda x: (x @ W) / (4 + x)),
    "dot": ("dot_general", lambda x: jnp.tanh(x) @ W),
    "dot of two": (
        "dot_general",
        lambda x: jnp.tanh(x).reshape(2, 3) @ (x @ W).reshape(3, 2),
    ),
    "dynamic slice": (
        "dynamic_slice dynamic_update_slice",
        lambda x: lax.dynamic_update_slice(x, lax.dynamic_slice(x, (1,), (2,)), (3,)),
    ),
    "equal to the largest": (
        "eq reduce_max",
        jax.grad(lambda x: jnp.sum(jnp.max((x @ W).reshape(2, 3), axis=1) ** 2)),
    ),
    "gather": ("gather", lambda x: x[jnp.array([0, 5, 2, 2])]),
    "greater": ("gt select_n", lambda x: jnp.where(x @ W > x, x * x, x @ W)),
    "log sum exp": ("reduce_max exp log", lambda x: jax.nn.logsumexp(x @ W)[None]),
    "lower": (
        "lt and or not",
        lambda x: jnp.where(~((x < x @ W) & (x < 1) | (x > 0)), x, -x),
    ),
    "larger": ("max", lambda x: jnp.maximum(x @ W, jnp.sin(x))),
    "smaller": ("min", lambda x: jnp.minimum(x @ W, jnp.sin(x))),
    "clamp": ("clamp", lambda x: lax.clamp(-jnp.abs(x), x @ W, jnp.abs(x))),
    "norm": ("sqrt reduce_sum", lambda x: x / jnp.sqrt(1 + jnp.sum(x * x))),
    "pad": ("pad", lambda x: lax.pad(x @ W, 0.5, [(1, 2, 1)])),
    "product": ("mul", lambda x: (x @ W) * jnp.sin(x)),
    "reduce max": ("reduce_max", lambda x: jnp.max((x @ W).reshape(2, 3), axis=0)),
    "reduce min": ("reduce_min", lambda x: jnp.min((x @ W).reshape(2, 3), axis=1)),
    "scatter": ("scatter", lambda x: jnp.zeros(8).at[jnp.array([1, 7])].set(x[:2])),
    "scatter add": (
        "scatter-add",
        lambda x: jnp.ones(4).at[jnp.array([1, 3, 1])].add((x @ W)[:3]),
    ),
    "scan": ("scan", _scanned),
    "select by a known mask": (
        "select_n",
        lambda x: jnp.where(PREDICATE, jnp.sin(x), x @ W),
    ),
    "softmax": ("reduce_max exp div", lambda x: jax.nn.softmax(x @ W)),
    "split": ("split stack", lambda x: jnp.stack(jnp.split(x @ W, 3))[::-1]),
    "squeeze": ("squeeze", lambda x: lax.expand_dims(x[2:3], (0,))[0, 0]),
    "transpose": ("transpose reshape rev", lambda x: x.reshape(2, 3).T[::-1]),
    "window max": ("reduce_window_max", _windowed("VALID")),
    "window max, padded": ("reduce_window_max", _windowed("SAME")),
    "window min": (
        "reduce_window_min",
        lambda x: _window_max(_image(x), lax.min, np.inf),
    ),
    "window sum": (
        "reduce_window_sum",
        lambda x: _window_max(_image(x), lax.add, 0.0),
    ),
    "derivative of window max": (
        "select_and_scatter_add",
        jax.grad(lambda x: jnp.sum(jnp.sin(_window_max(_image(x))))),
    ),
    "exclusive or": ("xor", lambda x: jnp.where((x > x @ W) ^ (x > 0), x, 2.0)),
    "all": ("reduce_and", lambda x: jnp.where(jnp.all(x > W[0]), x, -x)),
}
# Bounds over samples: random points hardly reach a corner of what is possible.
WIDTH = 4


def names_in(fn):
    program = program_of(jax.make_jaxpr(fn)(np.zeros(6)), lambda *_: True)
    return {step.name for step in program.steps}


@pytest.mark.parametrize("title", sorted(CASES))
def test_rule(title):
    names, fn = CASES[title]
    assert set(names.split()) <= names_in(fn)
    x = np.random.default_rng(len(title)).standard_normal(6)
    if len(title) % 2:
        domain = ball(x, 0.1)
    else:
        domain = box(x - 0.05, x + 0.1)
    excess, width, seen = violation(fn, domain)
    assert excess <= 1e-12
    assert width <= WIDTH * seen + 1e-12


def test_every_rule_has_a_case():
    seen = set().union(*(names_in(fn) for _, fn in CASES.values()))
    structural = {"copy", "stop_gradient", "tile", "unstack", "convert_element_type"}
    compared = {"ne", "le", "ge", "reduce_or"}  # as their twins
    assert set(RULES) | LINEAR <= seen | structural | compared | {"add_any"}


MUTANTS = {
    "product": products,
    "dot of two": products,
    "greater": switches,
    "larger": switches,
    "reduce max": switches,
    "derivative of window max": switches,
}


@pytest.mark.slow
@pytest.mark.parametrize("title", sorted(MUTANTS))
def test_unsound_rule_is_caught(title, monkeypatch):
    module = MUTANTS[title]
    right = module.shifted

    def shrunk(space, form, low, high):
        middle, radius = (low + high) / 2, (high - low) / 2
        return right(space, form, middle - 0.3 * radius, middle + 0.3 * radius)

    _, fn = CASES[title]
    domain = ball(np.zeros(6), 1.0)
    assert violation(fn, domain)[0] <= 1e-12
    monkeypatch.setattr(module, "shifted", shrunk)
    monkeypatch.setattr(module, "clipped", lambda form, low, high: form)
    assert violation(fn, domain)[0] > 1e-6


def test_a_square_has_no_negative_part():
    domain = ball(np.zeros(6), 0.1)
    lower = jax.jit(lambda d: bound(lambda x: (x @ W) * (x @ W), d).lower())
    assert np.all(np.asarray(lower(domain)) >= -1e-300)


def test_products_by_squares_are_narrower():
    def fn(x):
        return (x @ W) * (x @ W.T)

    domain = ball(np.zeros(6), 0.5)
    widths = [
        violation(fn, domain, policy=Policy(quadratic=quadratic))[1]
        for quadratic in (True, False)
    ]
    assert widths[0] < 0.8 * widths[1]


def test_a_partner_that_does_not_move_stays_known():
    # What does not move beside the input makes no symbols, as in a model of pairs.
    def fn(x):
        both = jnp.stack([x, jnp.ones(6)])
        first, second = jnp.tanh(both[0] @ W), jnp.tanh(both[1] @ W)
        # Twice, as noise that one entry has alone ends as its box.
        return jnp.concatenate([first * second, first * second])

    made = jax.eval_shape(lambda d: bound(fn, d), ball(np.zeros(6), 0.1))
    assert made.noise.shape[0] == 6


def test_a_maximum_may_be_that_of_an_entry_that_is_not_the_largest_at_the_center():
    scale = jnp.array([1.0, 2.0])

    def fn(x):
        return jnp.stack([jnp.max(x * scale), x[0]])

    made = bound(fn, ball(jnp.array([0.1, 0.0]), 1.0))
    low, high = made.interval()
    # Of max(x₀, 2x₁), and of its lead on x₀, by hand.
    assert high[0] >= 2 and low[0] <= 0.1 - 2 / np.sqrt(5)
    lead = made.combined(jnp.array([[0, 1]]), jnp.array([[1.0, -1.0]]))
    assert np.sqrt(5) - 0.1 <= lead.upper()[0] < 6 and -1 < lead.lower()[0] <= 0
