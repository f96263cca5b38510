"""Closed forms in logit space against dense Hessians, float64."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import score as scores
from r2et_jax.curvature.logit_space import (
    OUTPUT_KINDS,
    output_hessian,
    piecewise_linear_spectral_norm,
)

SIZE = 6


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def leaky(params, x, /):
    hidden = x.reshape(-1)
    for weight, bias in params[:-1]:
        hidden = jax.nn.leaky_relu(weight @ hidden + bias)
    return params[-1][0] @ hidden + params[-1][1]


def init(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(b, a)) * 1.5 / np.sqrt(a), rng.normal(size=b) * 0.3)
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def vector(seed, shape=(2, 3)):
    return np.random.default_rng(seed).normal(size=shape)


def _identity(params, logits, /):
    return logits


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_output_hessian_matches_differentiation_of_the_score(kind):
    score = getattr(scores, kind)(_identity)

    @jax.jit
    def compute(all_logits, target):
        formed = [output_hessian(kind, logits, target) for logits in all_logits]
        dense = [jax.hessian(score, 1)(None, logits, target) for logits in all_logits]
        return formed, dense

    all_logits = [2 * vector(size, (size,)) for size in (1, 2, 3)]
    for target in range(3):
        pairs = list(zip(*compute(all_logits, target), strict=True))
        # The last class exists for three logits alone.
        for formed, dense in pairs[2:] if target == 2 else pairs:
            assert formed.shape == dense.shape
            np.testing.assert_allclose(formed, dense, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(formed, formed.T)


_output_hessian = jax.jit(output_hessian, static_argnums=0)


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_one_logit_is_two_with_the_first_at_zero(kind):
    for target in (0, 1):
        binary = _output_hessian(kind, np.array([1.3]), target)
        two = _output_hessian(kind, np.array([0.0, 1.3]), target)
        np.testing.assert_allclose(binary[0, 0], two[1, 1], rtol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("kind", ["loss", "probability"])
def test_saturation_does_not_cancel_in_float32(kind, num_classes):
    for sign in (1.0, -1.0):
        logits = np.zeros(num_classes)
        logits[-1] = sign * 60.0
        for target in range(max(num_classes, 2)):
            exact = _output_hessian(kind, logits, target)
            low = _output_hessian(kind, logits.astype(np.float32), target)
            assert low.dtype == jnp.float32
            np.testing.assert_allclose(low, exact, rtol=1e-4, atol=1e-37)
            assert low[-1, -1] != 0


@pytest.mark.parametrize(
    ("kind", "num_classes"),
    [("probability", 1), ("probability", 8), ("loss", 3), ("log_odds", 8)],
)
def test_spectral_norm_matches_dense(kind, num_classes):
    # Eight classes on six features: more logits than G can have rank.
    params, x = init((SIZE, 7, 5, num_classes)), vector(1)
    score = getattr(scores, kind)(leaky)
    norm = piecewise_linear_spectral_norm(leaky, kind=kind)

    @jax.jit
    def compute(target):
        dense = jax.hessian(score, 1)(params, x, target).reshape(SIZE, SIZE)
        return norm(params, x, target), dense

    for target in range(max(num_classes, 2))[:3]:
        computed, dense = compute(target)
        np.testing.assert_allclose(
            computed, np.linalg.norm(dense, 2), rtol=1e-9, atol=1e-15
        )


@pytest.mark.parametrize(("kind", "num_classes"), [("probability", 3), ("loss", 1)])
def test_parameter_gradient_matches_central_differences(kind, num_classes):
    sizes = (SIZE, 7, num_classes)
    params, x, step = init(sizes), vector(1), init(sizes, seed=7)

    def along(t):
        moved = jax.tree.map(lambda p, s: p + t * s, params, step)
        return piecewise_linear_spectral_norm(leaky, kind=kind)(moved, x, 1)

    along = jax.jit(along)
    numeric = (along(1e-6) - along(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-6)


def _linear(weights, x, /):
    return weights @ x


@pytest.mark.parametrize("kind", ["loss", "probability", "logit"])
def test_gradient_is_finite_where_eigenvalues_coincide(kind):
    norm = piecewise_linear_spectral_norm(_linear, kind=kind)
    norm = jax.jit(jax.value_and_grad(norm))
    for weights in (np.eye(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((1, 3))):
        value, slope = norm(weights, np.zeros(3), 0)
        assert np.isfinite(value) and np.all(np.isfinite(slope))
        if not np.any(weights):
            assert value == 0 and not np.any(slope)
    # Uniform probabilities and J = I: S has the eigenvalue 1/3 twice.
    if kind == "loss":
        value, slope = norm(np.eye(3), np.zeros(3), 0)
        np.testing.assert_allclose(value, 1 / 3, rtol=1e-12)
        # The value is homogeneous of degree 2 in J.
        np.testing.assert_allclose(np.trace(slope), 2 / 3, rtol=1e-12)


def test_gradient_in_the_input_and_batches_by_vmap():
    params, xs = init((SIZE, 7, 3)), vector(3, (4, 2, 3))
    norm = piecewise_linear_spectral_norm(leaky)

    def of_x(x, target):
        return norm(params, x, target)

    targets = np.array([0, 1, 2, 0])
    batch, slopes = jax.jit(jax.vmap(jax.value_and_grad(of_x)))(xs, targets)
    single = jax.jit(of_x)
    direction = vector(9)
    for x, target, value, slope in zip(xs, targets, batch, slopes, strict=True):
        np.testing.assert_allclose(single(x, target), value, rtol=1e-10)
        numeric = single(x + 1e-6 * direction, target)
        numeric = (numeric - single(x - 1e-6 * direction, target)) / 2e-6
        np.testing.assert_allclose(jnp.vdot(slope, direction), numeric, rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK is CPU's")
def test_lapack_gets_one_matrix_at_a_time():
    """A batch of them can wait for ever beside another program's."""
    norm = piecewise_linear_spectral_norm(leaky)
    params, batch = init((6, 5, 3)), vector(0, (4, 2, 3))
    run = jax.jit(jax.vmap(norm, (None, 0, None)))
    program = run.lower(params, batch, 0).compile().as_text()
    batch_dims = re.findall(r'"lapack_\w+".*?num_batch_dims="(\d+)"', program)
    assert batch_dims and set(batch_dims) == {"0"}


def test_a_saturated_float32_model_keeps_its_curvature():
    norm = jax.jit(jax.value_and_grad(piecewise_linear_spectral_norm(_linear)))
    for num_classes in (1, 2):
        weights = np.zeros((num_classes, 4), np.float32)
        weights[-1] = 15.0
        value, slope = norm(weights, np.ones(4, np.float32), 1)
        np.testing.assert_allclose(value, np.exp(-60.0) * 30 * 30, rtol=1e-4)
        assert np.all(np.isfinite(slope)) and np.any(slope != 0)


def test_bad_arguments_name_the_value_received():
    with pytest.raises(ValueError, match="'entropy'.*log_odds.*probability"):
        output_hessian("entropy", jnp.zeros(2), 0)
    with pytest.raises(ValueError, match="'entropy'.*log_odds.*probability"):
        piecewise_linear_spectral_norm(leaky, kind="entropy")
    with pytest.raises(ValueError, match=r"logits must have 1 axes.*\(2, 2\)"):
        output_hessian("loss", jnp.zeros((2, 2)), 0)


_norm = jax.jit(piecewise_linear_spectral_norm(leaky, kind="log_probability"))


@hypothesis.given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_scales_with_the_square_of_the_jacobian(seed, factor):
    with jax.enable_x64(True):
        (weight, bias), last = init((SIZE, 7, 3), seed)
        x = vector(seed + 1)
        plain = _norm([(weight, bias), last], x, 0)
        # The same hidden units at the point x/factor: equal logits, larger Jacobian.
        scaled = _norm([(factor * weight, bias), last], x / factor, 0)
        np.testing.assert_allclose(scaled, factor**2 * plain, rtol=1e-9)


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
@pytest.mark.parametrize("num_logits", [1, 3])
def test_targets_that_are_no_class_have_no_hessian(kind, num_logits):
    logits = jnp.linspace(0.3, 1, num_logits)
    for target in (3, -1, 0.5, np.array([0, 1, 0])):
        with pytest.raises(ValueError, match="target must be .* got"):
            output_hessian(kind, logits, target)
    traced = jax.jit(lambda target: output_hessian(kind, logits, target))
    assert jnp.all(jnp.isnan(traced(3)))
    assert jnp.all(jnp.isfinite(traced(1)))
