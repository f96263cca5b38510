"""Scores against the plain softmax in float64."""

import doctest
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from r2et_jax import checks
from r2et_jax import score as scores

CLASSES = (1, 2, 3, 5)
FACTORIES = ("log_odds", "probability", "log_probability", "logit", "loss")


def test_docstring_examples_run():
    result = doctest.testmod(scores)
    assert result.attempted > 0 and result.failed == 0


def apply(params, x, /):
    w1, w2 = params
    return w2 @ jnp.tanh(w1 @ x)


def model(num_classes, seed=0, scale=1.5):
    rng = np.random.default_rng(seed)
    params = rng.normal(size=(6, 4)), scale * rng.normal(size=(num_classes, 6))
    return jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=4))


def two_classes_or_more(logits):
    """A single logit z stands for the classes [0, z]."""
    return np.concatenate([[0.0], logits]) if len(logits) == 1 else np.asarray(logits)


def reference(name, logits, target):
    if name == "logit":
        sign = 1 if target == 1 else -1
        return sign * logits[0] if len(logits) == 1 else logits[target]
    p = scipy.special.softmax(two_classes_or_more(logits))[target]
    return {
        "probability": p,
        "log_probability": np.log(p),
        "loss": -np.log(p),
        "log_odds": np.log(p) - np.log(1 - p),
    }[name]


@pytest.mark.parametrize("num_classes", CLASSES)
def test_values_and_gradients_equal_plain_softmax(num_classes):
    with jax.enable_x64(True):
        params, x = model(num_classes)
        logits = np.asarray(apply(params, x))
        targets = np.arange(max(num_classes, 2), dtype=np.int32)

        @jax.jit
        def compiled(params, x, targets):
            def all_of_them(target):
                return {
                    name: jax.value_and_grad(getattr(scores, name)(apply), argnums=1)(
                        params, x, target
                    )
                    for name in FACTORIES
                } | {"cross_entropy": scores.cross_entropy(apply(params, x), target)}

            return jax.vmap(all_of_them)(targets)

        result = jax.tree.map(np.asarray, compiled(params, x, targets))
    for target in targets:
        for name in FACTORIES:
            value = result[name][0][target]
            expected = reference(name, logits, target)
            np.testing.assert_allclose(value, expected, rtol=1e-10)
        label = result["cross_entropy"][target]
        np.testing.assert_allclose(label, reference("loss", logits, target))
        # Every gradient is that of the log-odds by a factor, positive but for the loss.
        p = reference("probability", logits, target)
        factors = {"probability": p * (1 - p), "log_probability": 1 - p, "loss": p - 1}
        of_log_odds = result["log_odds"][1][target]
        for name, factor in factors.items():
            gradient = result[name][1][target]
            np.testing.assert_allclose(gradient, factor * of_log_odds, rtol=1e-10)


def test_gradient_of_the_log_odds_equals_finite_differences():
    with jax.enable_x64(True):
        params, x = model(3)
        score = jax.jit(scores.log_odds(apply))
        gradient = np.asarray(jax.jit(jax.grad(score, argnums=1))(params, x, 2))
        step = 1e-6
        for i, e in enumerate(np.eye(4) * step):
            slope = (score(params, x + e, 2) - score(params, x - e, 2)) / (2 * step)
            np.testing.assert_allclose(slope, gradient[i], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, int])
def test_the_target_may_have_any_integer_type(dtype):
    for enable in (False, True):
        with jax.enable_x64(enable):
            z = jnp.array([1.0, 3.0, 5.0])
            for name in ("logit", "log_odds"):
                score = getattr(scores, name)(lambda z, x: z)
                value = score(z, z, dtype(1))
                expected = reference(name, np.float64(z), 1)
                np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
def test_one_logit_is_the_two_class_model_with_a_zero(name):
    with jax.enable_x64(True):
        params, x = model(1)

        def two(params, x, /):
            z = apply(params, x)
            return jnp.concatenate([jnp.zeros_like(z), z])

        def values(model):
            score = getattr(scores, name)(model)
            return [score(params, x, target) for target in (0, 1)]

        def compared():
            logits = apply(params, x), two(params, x)
            return (
                values(apply),
                values(two),
                [
                    (scores.predicted_class(z), scores.class_probabilities(z))
                    for z in logits
                ],
            )

        of_one, of_two, classes = jax.jit(compared)()
        if name == "logit":
            of_two[0] = -of_two[1]  # the logit 0 explains nothing
        np.testing.assert_allclose(of_one, of_two, rtol=1e-12)
        assert classes[0][0] == classes[1][0]
        np.testing.assert_allclose(classes[0][1], classes[1][1])


@pytest.mark.parametrize("num_classes", CLASSES)
def test_float32_keeps_the_gradient_of_saturated_inputs(num_classes):
    params, x = model(num_classes, scale=1.0)
    params = params[0], 12 * params[1]
    score = scores.probability(apply)
    gradients = jax.jit(jax.vmap(jax.grad(score, argnums=1), in_axes=(None, None, 0)))
    targets = np.arange(max(num_classes, 2), dtype=np.int32)
    single = gradients(params, x, targets)
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        wide, x64 = jax.tree.map(np.float64, (params, x))
        double = gradients(wide, x64, targets)
    p = jax.jit(lambda: scores.class_probabilities(apply(params, x)))()
    assert np.min(p) < 1e-6, "the test needs a saturated input"
    single, double = np.asarray(single, np.float64), np.asarray(double)
    assert np.all(single != 0)
    largest = np.max(np.abs(double), axis=1, keepdims=True)
    np.testing.assert_allclose(single / largest, double / largest, atol=3e-5)


@pytest.mark.parametrize("num_classes", [1, 2, 3])
@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_at_extreme_logits_stay_finite(name, num_classes):
    score = getattr(scores, name)(lambda scale, z: scale * z)
    gradients = jax.jit(jax.vmap(jax.grad(score, argnums=(0, 1)), in_axes=(None, 0, 0)))
    logits = np.float32([[300, -300, 0], [-1e4, 1e4, 1e4], [80, 0, -3e5]])
    for target in range(max(num_classes, 2)):
        z, targets = logits[:, :num_classes], np.full(3, target)
        of_scale, of_logits = gradients(jnp.float32(1.0), z, targets)
        assert np.all(np.isfinite(of_scale)) and np.all(np.isfinite(of_logits))


@pytest.mark.parametrize("num_classes", CLASSES)
def test_class_probabilities_and_predicted_class_of_batches(num_classes):
    logits = np.random.default_rng(1).normal(size=(2, 7, num_classes))
    rows = np.array([two_classes_or_more(z) for z in logits.reshape(-1, num_classes)])
    probabilities = jax.jit(scores.class_probabilities)(np.float32(logits))
    expected = scipy.special.softmax(rows, axis=1).reshape(2, 7, -1)
    np.testing.assert_allclose(probabilities, expected, rtol=2e-6)
    predicted = jax.jit(scores.predicted_class)(np.float32(logits))
    assert predicted.dtype == jnp.int32
    np.testing.assert_array_equal(predicted, rows.argmax(axis=1).reshape(2, 7))


def test_ties_of_the_prediction_go_to_the_lower_class():
    assert scores.predicted_class(jnp.array([0.0])) == 0
    assert scores.predicted_class(jnp.array([1.0, 2.0, 2.0])) == 1


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (), (0,)])
def test_logits_of_other_than_one_example_raise(name, shape):
    score = getattr(scores, name)(lambda params, x: jnp.zeros(shape))
    with pytest.raises(
        ValueError, match="one example.*got shape " + re.escape(str(shape))
    ):
        jax.eval_shape(score, (), jnp.zeros(2), 0)


@pytest.mark.parametrize("num_classes", CLASSES)
def test_probabilities_become_logits_of_the_same_log_odds(num_classes):
    params, x = model(num_classes)

    def probabilities(params, x):
        return scores.class_probabilities(apply(params, x))[-num_classes:]

    @jax.jit
    def odds_and_expected(targets):
        def of(model):
            score = jax.value_and_grad(scores.log_odds(model), argnums=1)
            return jax.vmap(lambda target: score(params, x, target))(targets)

        return of(scores.logits_of_probabilities(probabilities)), of(apply)

    odds, expected = odds_and_expected(np.arange(max(num_classes, 2)))
    for part in range(2):
        np.testing.assert_allclose(odds[part], expected[part], rtol=2e-4, atol=1e-5)


def test_saturated_probabilities_have_finite_logits_and_gradients():
    binary = scores.logits_of_probabilities(lambda w, x: jax.nn.sigmoid(w * x)[None])
    three = scores.logits_of_probabilities(
        lambda w, x: jax.nn.softmax(jnp.stack([w * x, -w * x, 0 * x]))
    )
    for convert in (binary, three):
        for w in (-200.0, 200.0):
            score = scores.log_odds(convert)
            value, slope = jax.value_and_grad(score, 1)(w, jnp.float32(1.0), 1)
            assert np.isfinite([value, slope]).all()


NO_CLASS = (3, -1, 1.7, np.array([0, 1, 0]), np.float32(1))
SCORES = (
    scores.log_odds, scores.probability, scores.log_probability, scores.logit,
    scores.loss,
)  # fmt: skip


@pytest.mark.parametrize("factory", SCORES)
@pytest.mark.parametrize("target", NO_CLASS)
def test_targets_that_are_no_class_are_refused(factory, target):
    score = factory(lambda w, x: w @ x)
    with pytest.raises(ValueError, match=r"target must be .* 0…2, got"):
        score(jnp.eye(3), jnp.arange(3.0), target)


@pytest.mark.parametrize("factory", SCORES)
@pytest.mark.parametrize(("num_logits", "target"), [(3, 3), (3, -1), (2, 2), (1, 2)])
def test_traced_targets_out_of_range_give_nan_throughout(factory, num_logits, target):
    score = factory(lambda w, x: w @ x)
    weights = jnp.eye(3)[:num_logits]
    value, slope = jax.jit(jax.value_and_grad(score, argnums=1))(
        weights, jnp.arange(3.0), target
    )
    assert jnp.isnan(value)
    assert jnp.isnan(slope).any()


def test_a_wide_index_does_not_wrap_into_range():
    with jax.enable_x64(True):
        score = jax.jit(scores.log_odds(lambda w, x: w @ x))
        x = jnp.arange(3.0)
        assert jnp.isnan(score(jnp.eye(3), x, np.int64(2**32 + 1)))
        assert score(jnp.eye(3), x, np.int64(1)) == score(jnp.eye(3), x, np.uint8(1))


class Normalised(nn.Module):
    """A layer whose normalisation keeps statistics beside the parameters."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


def test_flax_variables_with_batch_statistics_get_told_what_to_do():
    model, x = Normalised(), jnp.ones(4)
    variables = model.init(jax.random.key(0), x)

    def updating(variables, x):
        return model.apply(variables, x, mutable=["batch_stats"])

    for apply in (model.apply, updating):
        for refused in (
            lambda apply=apply: scores.log_odds(apply)(variables, x, 1),
            lambda apply=apply: checks.check_model(apply, variables, x),
        ):
            with pytest.raises(ValueError, match=r"adapters.linen.*'params': par"):
                refused()
    bound = lambda params, x: model.apply(  # noqa: E731, what the message says
        {"params": params, "batch_stats": variables["batch_stats"]}, x, train=False
    )
    assert jnp.isfinite(scores.log_odds(bound)(variables["params"], x, 1))
    with pytest.raises(ValueError, match=r"shape \[C\], got a tuple"):
        scores.logit(lambda w, x: (x, x))(None, x, 1)
