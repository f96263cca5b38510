"""Explanations against derivatives by hand, explicit loops and finite differences."""

import doctest
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import saliency
from r2et_jax import score as scores

N = 5
KEY = jax.random.key(7)


def smooth(score, **options):
    options = {"num_samples": 6, "sigma": 0.3} | options
    explain = saliency.smooth_grad(score, **options)
    return functools.partial(explain, key=KEY)


EXPLAINERS = {
    "gradient": saliency.gradient,
    "gradient_times_input": saliency.gradient_times_input,
    "smooth_grad": smooth,
    "integrated_gradients": functools.partial(
        saliency.integrated_gradients, num_points=8
    ),
}
every_explainer = pytest.mark.parametrize("name", EXPLAINERS)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ["gradients", "grouped", "means", "occluding"])
def test_docstring_examples_run(name):
    module = importlib.import_module(f"r2et_jax.saliency.{name}")
    result = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp})
    assert result.attempted > 0 and result.failed == 0


def apply(params, x, /):
    return params["w2"] @ jnp.tanh(params["w1"] @ x + params["b"])


def network(seed=0, num_classes=1):
    rng = np.random.default_rng(seed)
    params = {
        "w1": rng.normal(size=(6, N)),
        "b": rng.normal(size=6),
        "w2": rng.normal(size=(num_classes, 6)),
    }
    return jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=N))


def logit_gradient(params, x):
    """∇ₓ of the network with one logit, by hand in NumPy."""
    w1, b, w2 = (np.asarray(params[name], np.float64) for name in ("w1", "b", "w2"))
    hidden = np.tanh(w1 @ np.asarray(x, np.float64) + b)
    return w1.T @ ((1 - hidden**2) * w2[0])


def unit(values):
    return values / values.sum()


def by_hand(name, params, x):
    """The explanation as loops over NumPy gradients, before the division."""
    x = np.asarray(x)
    if name == "gradient":
        return np.abs(logit_gradient(params, x))
    if name == "gradient_times_input":
        return np.abs(logit_gradient(params, x) * x)
    if name == "smooth_grad":
        noise = np.asarray(jax.random.normal(KEY, (6, N), x.dtype))
        maps = [np.abs(logit_gradient(params, x + 0.3 * delta)) for delta in noise]
        return np.mean(maps, axis=0)
    points = [(i + 0.5) / 8 for i in range(8)]
    return np.abs(x * np.mean([logit_gradient(params, t * x) for t in points], axis=0))


@every_explainer
def test_maps_equal_explicit_loops(name, float64):
    params, x = network()
    score = scores.log_odds(apply)

    @jax.jit
    def compiled(params, x, target):
        raw = EXPLAINERS[name](score, normalize=False)(params, x, target)
        return raw, EXPLAINERS[name](score)(params, x, target)

    expected = by_hand(name, params, x)
    for target in (0, 1):  # the sign of the log-odds does not matter
        raw, shares = compiled(params, x, target)
        np.testing.assert_allclose(raw, expected, rtol=1e-10)
        np.testing.assert_allclose(shares, unit(expected), rtol=1e-10)
        np.testing.assert_array_equal(np.argsort(shares), np.argsort(raw))


@every_explainer
def test_float32_agrees_with_float64(name):
    params, x = network()
    single = jax.jit(EXPLAINERS[name](scores.log_odds(apply)))(params, x, 1)
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        if name == "smooth_grad":  # the draws of the two types differ
            noise = np.float64(jax.random.normal(KEY, (6, N), jnp.float32))
            maps = [
                np.abs(logit_gradient(params, np.asarray(x) + 0.3 * d)) for d in noise
            ]
            expected = unit(np.mean(maps, axis=0))
        else:
            expected = unit(by_hand(name, params, x))
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize("score_name", ["probability", "log_probability", "logit"])
def test_gradient_equals_finite_differences(score_name, float64):
    params, x = network(num_classes=3)
    score = jax.jit(getattr(scores, score_name)(apply))
    explain = jax.jit(saliency.gradient(score, normalize=False))
    step = 1e-6
    for target in range(3):
        slopes = [
            (score(params, x + d, target) - score(params, x - d, target)) / (2 * step)
            for d in step * np.eye(N)
        ]
        value = explain(params, x, target)
        np.testing.assert_allclose(value, np.abs(slopes), rtol=1e-6, atol=1e-9)


def test_maps_of_a_linear_model():
    w, x = jnp.array([3.0, -1.0, 0.0, 2.0]), jnp.array([1.0, 2.0, 5.0, -1.0])
    score = scores.logit(lambda w, x: (w @ x)[None])
    expected = {
        "gradient": [3, 1, 0, 2],
        "gradient_times_input": [3, 2, 0, 2],
        "smooth_grad": [3, 1, 0, 2],
        "integrated_gradients": [3, 2, 0, 2],
    }
    for name, make in EXPLAINERS.items():
        value = jax.jit(make(score))(w, x, 1)
        np.testing.assert_allclose(value, unit(np.float64(expected[name])), atol=1e-6)


def test_log_odds_and_probability_have_one_normalised_gradient(float64):
    params, x = network(num_classes=3)
    maps = [
        jax.jit(saliency.gradient(make(apply)))(params, x, 2)
        for make in (scores.log_odds, scores.probability, scores.log_probability)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-10)
    np.testing.assert_allclose(maps[0], maps[2], rtol=1e-10)


# SmoothGrad


def test_smooth_grad_without_noise_is_its_base(float64):
    params, x = network()
    score = scores.log_odds(apply)
    for base in (saliency.gradient, saliency.gradient_times_input):
        limit = jax.jit(smooth(score, base=base, sigma=1e-9))(params, x, 1)
        expected = jax.jit(base(score))(params, x, 1)
        np.testing.assert_allclose(limit, expected, rtol=1e-7)


def test_smooth_grad_takes_the_magnitude_inside_the_mean(float64):
    # s = x²/2: the gradient x + δ changes its sign, and the mean of |x + δ| is not 0.
    score = lambda params, x, target: 0.5 * jnp.sum(x**2)  # noqa: E731
    noise = np.asarray(jax.random.normal(KEY, (6, 2), jnp.float64))
    value = smooth(score, normalize=False, sigma=2.0)((), jnp.zeros(2), 0)
    np.testing.assert_allclose(value, np.mean(np.abs(2.0 * noise), axis=0))


def test_smooth_grad_depends_on_its_key_alone():
    params, x = network()
    explain = jax.jit(saliency.smooth_grad(scores.log_odds(apply), num_samples=4))
    first = explain(params, x, 1, key=jax.random.key(0))
    again = explain(params, x, 1, key=jax.random.key(0))
    other = explain(params, x, 1, key=jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_smooth_grad_has_the_published_variance():
    # s = x²/2 at 0: E|δ| = σ√(2/π) with σ² = 0.5.
    score = lambda params, x, target: 0.5 * jnp.sum(x**2)  # noqa: E731
    explain = saliency.smooth_grad(score, num_samples=20_000, normalize=False)
    value = explain((), jnp.zeros(3), 0, key=KEY)
    np.testing.assert_allclose(value, np.sqrt(0.5 * 2 / np.pi), rtol=0.02)


# Integrated Gradients


def quadratic(seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(N, N))
    return (jnp.asarray(a + a.T), jnp.asarray(rng.normal(size=N))), rng.normal(size=N)


def quadratic_score(params, x, target, /):
    a, b = params
    return 0.5 * x @ a @ x + b @ x


@pytest.mark.parametrize(("num_points", "baseline"), [(1, 0.0), (7, -0.7)])
def test_integrated_gradients_of_a_quadratic_model(num_points, baseline, float64):
    (a, b), x = quadratic()
    origin = np.full(N, baseline)
    expected = (x - origin) * (a @ (x + origin) / 2 + b)
    options = {"num_points": num_points, "baseline": baseline}
    signed = saliency.integrated_gradients(quadratic_score, signed=True, **options)
    value = jax.jit(signed)((a, b), jnp.asarray(x), 0)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    explain = saliency.integrated_gradients(quadratic_score, **options)
    value = jax.jit(explain)((a, b), jnp.asarray(x), 0)
    np.testing.assert_allclose(value, unit(np.abs(expected)), rtol=1e-12)


def test_gradient_maps_of_a_quadratic_model(float64):
    (a, b), x = quadratic()
    g = a @ x + b
    explain = saliency.gradient(quadratic_score, normalize=False)
    np.testing.assert_allclose(explain((a, b), jnp.asarray(x), 0), np.abs(g))
    slopes = jax.jit(jax.jacfwd(explain, argnums=1))((a, b), jnp.asarray(x), 0)
    np.testing.assert_allclose(slopes, np.sign(g)[:, None] * a, rtol=1e-12)


def test_integrated_gradients_are_complete_to_second_order(float64):
    params, x = network(seed=3)
    score = scores.probability(apply)
    difference = score(params, x, 1) - score(params, jnp.zeros(N), 1)

    def defect(num_points):
        explain = saliency.integrated_gradients(
            score, num_points=num_points, signed=True
        )
        return float(jnp.sum(jax.jit(explain)(params, x, 1)) - difference)

    coarse, fine, finest = (defect(num_points) for num_points in (16, 32, 64))
    assert coarse / fine == pytest.approx(4, rel=0.1)
    assert fine / finest == pytest.approx(4, rel=0.1)
    assert abs(defect(1000)) < 1e-6


# Derivatives, zeros, shapes


@every_explainer
def test_maps_differentiate_in_params_and_inputs(name, float64):
    params, x = network(seed=4)
    explain = EXPLAINERS[name](scores.log_odds(apply))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=N))

    @jax.jit
    def value(params, x):
        return weights @ explain(params, x, 1)

    of_params, of_x = jax.jit(jax.grad(value, argnums=(0, 1)))(params, x)
    rng = np.random.default_rng(1)
    step = 1e-6
    for _ in range(3):
        direction = jax.tree.map(
            lambda a: jnp.asarray(rng.normal(size=a.shape)), params
        )
        towards = jnp.asarray(rng.normal(size=N))

        def at(t, direction=direction, towards=towards):
            moved = jax.tree.map(lambda a, d: a + t * d, params, direction)
            return value(moved, x + t * towards)

        slope = (at(step) - at(-step)) / (2 * step)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), of_params, direction)
        expected = sum(jax.tree.leaves(products)) + of_x @ towards
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-8)


@every_explainer
def test_zero_maps_stay_zero_with_zero_derivatives(name):
    params, x = network()
    params = params | {"w2": jnp.zeros_like(params["w2"])}  # a constant score
    explain = EXPLAINERS[name](scores.log_odds(apply))

    def value(params, x):
        values = explain(params, x, 1)
        return jnp.sum(values * jnp.arange(1.0, N + 1)), values

    slopes, values = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(params, x)
    np.testing.assert_array_equal(values, 0)
    for slope in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(slope, 0)


def test_products_with_a_zero_input_are_zero():
    params, _ = network()
    for name in ("gradient_times_input", "integrated_gradients"):
        explain = jax.jit(EXPLAINERS[name](scores.log_odds(apply)))
        values = explain(params, jnp.zeros(N), 1)
        np.testing.assert_array_equal(values, 0)


@every_explainer
def test_nan_in_the_gradient_shows_in_the_map(name):
    params, x = network()
    explain = jax.jit(EXPLAINERS[name](scores.log_odds(apply)))
    assert np.all(np.isnan(explain(params, x.at[2].set(jnp.nan), 1)))
    one_nan = {"w1": params["w1"], "b": params["b"].at[0].set(jnp.inf)}
    one_nan = one_nan | {"w2": params["w2"].at[0, 0].set(jnp.inf)}
    assert np.any(np.isnan(explain(one_nan, x, 1)))


LINEAR = scores.log_odds(lambda w, x: jnp.sum(jnp.tanh(w * x))[None])
PERMUTED = {
    name: jax.jit(EXPLAINERS[name](LINEAR))
    for name in EXPLAINERS
    if name != "smooth_grad"  # its noise is not permuted
}


@pytest.mark.parametrize("name", PERMUTED)
@given(order=st.permutations(range(N)), seed=st.integers(0, 100))
def test_permuted_features_have_a_permuted_map(name, order, seed):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(2, N)).astype(np.float32)
    order = np.array(order)
    value = PERMUTED[name](w[order], x[order], 1)
    np.testing.assert_allclose(value, PERMUTED[name](w, x, 1)[order], rtol=1e-5)


@every_explainer
def test_channels_are_summed_after_the_magnitude(name):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)
    score = scores.log_odds(lambda w, x: jnp.sum(jnp.tanh(w * x))[None])
    whole = jax.jit(EXPLAINERS[name](score, normalize=False))(w, x, 1)
    assert whole.shape == (3, 2, 4)
    for axis in (0, -1) if name == "gradient" else (-1,):
        values = jax.jit(EXPLAINERS[name](score, channel_axis=axis))(w, x, 1)
        expected = np.asarray(whole).sum(axis=axis)
        np.testing.assert_allclose(values, unit(expected), rtol=1e-5)


@every_explainer
def test_pixels_of_a_flat_image_sum_their_channels_in_any_order(name):
    rng = np.random.default_rng(6)
    w, x = rng.normal(size=(2, 5 * 3)).astype(np.float32)
    score = scores.log_odds(lambda w, x: jnp.sum(jnp.tanh(w * x))[None])
    explain = jax.jit(saliency.of_pixels(3, EXPLAINERS[name])(score))
    rows = jax.jit(EXPLAINERS[name](lambda w, x, c: score(w, x.ravel(), c)))
    expected = np.asarray(rows(w, x.reshape(5, 3), 1)).sum(axis=1)
    value = explain(w, x, 1)
    np.testing.assert_allclose(value, unit(expected), rtol=1e-5)
    if name == "smooth_grad":  # its noise is not permuted
        return
    order = np.concatenate([3 * i + rng.permutation(3) for i in range(5)])
    np.testing.assert_allclose(explain(w[order], x[order], 1), value, rtol=1e-5)


def test_explanations_of_pixels_are_kept_and_of_one_channel_are_the_base():
    assert saliency.of_pixels(1) is saliency.gradient
    assert saliency.of_pixels(3) is saliency.of_pixels(3)
    base = saliency.gradient_times_input
    assert saliency.of_pixels(3, base) is not saliency.of_pixels(3)
    explain = saliency.of_pixels(3)(scores.log_odds(apply))
    for x in (jnp.zeros(5), jnp.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"flat image of 3 channels, got shape"):
            explain(network()[0], x, 1)
    with pytest.raises(ValueError, match="channels must be .* got 0"):
        saliency.of_pixels(0)


@every_explainer
def test_maps_over_a_batch(name):
    params, _ = network()
    x = np.random.default_rng(5).normal(size=(3, N)).astype(np.float32)
    targets = np.int32([0, 1, 1])
    explain = EXPLAINERS[name](scores.log_odds(apply))
    batched = jax.jit(jax.vmap(explain, in_axes=(None, 0, 0)))(params, x, targets)
    explain_one = jax.jit(explain)
    assert batched.shape == (3, N)
    for row, x_row, target in zip(batched, x, targets, strict=True):
        np.testing.assert_allclose(row, explain_one(params, x_row, target), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: saliency.smooth_grad(s, num_samples=0), "num_samples.*got 0"),
        (lambda s: saliency.smooth_grad(s, sigma=0.0), "sigma must be positive.*0.0"),
        (lambda s: saliency.smooth_grad(s, sigma=-1.0), "sigma must be positive.*-1.0"),
        (lambda s: saliency.integrated_gradients(s, num_points=0), "num_points.*got 0"),
        (lambda s: saliency.smooth_grad(s, chunk_size=0), "chunk_size.*got 0"),
        (lambda s: saliency.integrated_gradients(s, chunk_size=1.5), "chunk_size.*1.5"),
        (lambda s: saliency.expected_gradients(s, baselines=0, num_samples=0), "got 0"),
    ],
)
def test_static_mistakes_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make(scores.log_odds(apply))
