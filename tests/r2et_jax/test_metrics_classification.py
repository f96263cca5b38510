"""AUC against scikit-learn; accuracy and changes of prediction by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from r2et_jax import metrics
from r2et_jax.metrics.classification import prediction_shift, roc_auc_ranked

ranked = jax.jit(roc_auc_ranked)


@given(st.sampled_from([2, 30]).flatmap(
    lambda m: st.tuples(
        st.lists(st.integers(0, 1), min_size=m - 2, max_size=m - 2),
        st.lists(st.integers(-4, 4), min_size=m, max_size=m),
    )
))  # fmt: skip
def test_ranked_auc_equals_sklearn_with_ties(sample):
    labels, scores = np.array([0, 1, *sample[0]]), np.float32(sample[1])
    expected = roc_auc_score(labels, scores)
    np.testing.assert_allclose(ranked(labels, scores), expected, atol=1e-6)
    assert metrics.roc_auc(labels, scores) == expected


def test_ranked_auc_keeps_its_precision_on_many_inputs():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.24
    scores = (rng.normal(size=20_000) + labels).astype(np.float32)
    expected = roc_auc_score(labels, scores)
    value = ranked(labels.astype(np.int32), scores)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    with jax.enable_x64(True):
        value = ranked(labels.astype(int), np.float64(scores))
    np.testing.assert_allclose(value, expected, atol=1e-12)


def test_ranked_auc_maps_over_models():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 50)
    scores = rng.normal(size=(3, 50)).astype(np.float32)
    scores[2, 7] = np.nan
    value = jax.vmap(ranked, in_axes=(None, 0))(labels, scores)
    expected = [*(roc_auc_score(labels, s) for s in scores[:2]), np.nan]
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class(label):
    labels, scores = np.full(4, label), np.arange(4, dtype=np.float32)
    assert np.isnan(roc_auc_ranked(labels, scores))
    with pytest.raises(ValueError, match="both classes 0 and 1"):
        metrics.roc_auc(labels, scores)


def test_auc_mistakes_raise():
    labels, scores = np.array([0, 1, 1]), np.array([0.1, np.nan, 0.3])
    with pytest.raises(ValueError, match="got 1 that are not"):
        metrics.roc_auc(labels, scores)
    with pytest.raises(ValueError, match="both classes 0 and 1"):
        metrics.roc_auc(labels + 1, np.arange(3.0))
    with pytest.raises(ValueError, match="same shape"):
        metrics.roc_auc(labels, scores[:2])
    with pytest.raises(ValueError, match="same shape"):
        roc_auc_ranked(labels, scores[:2])
    with pytest.raises(ValueError, match=r"shape \[m\]"):
        roc_auc_ranked(labels[None], scores[None])


@given(st.sampled_from([2, 4]), st.integers(0, 1000), st.booleans())
def test_auc_of_several_classes_equals_sklearn(num_classes, seed, tied):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(24) % num_classes)
    logits = rng.normal(size=(24, num_classes))
    if tied:
        logits = logits[rng.integers(0, 8, 24)]
    # Of two classes scikit-learn wants the second one's probability.
    shares = softmax(logits, axis=1)
    expected = roc_auc_score(
        labels, shares[:, 1] if num_classes == 2 else shares, multi_class="ovr"
    )
    np.testing.assert_allclose(metrics.roc_auc(labels, logits), expected, atol=1e-9)
    value = ranked(labels, logits.astype(np.float32))
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_auc_of_several_classes_leaves_out_those_without_an_input():
    rng = np.random.default_rng(2)
    labels, logits = np.array([0, 2, 2, 0, 4]), rng.normal(size=(5, 5))
    odds = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True) - np.exp(logits))
    expected = np.mean([roc_auc_score(labels == c, odds[:, c]) for c in (0, 2, 4)])
    np.testing.assert_allclose(metrics.roc_auc(labels, logits), expected)
    value = ranked(labels, logits.astype(np.float32))
    np.testing.assert_allclose(value, expected, atol=1e-6)
    # Shares of saturated inputs are all 1, and yet one is surer than the other.
    sure = np.array([[900.0, 0.0, 0.0], [800.0, 0.0, 0.0], [700.0, 0.0, 0.0]])
    assert metrics.roc_auc(np.array([0, 0, 1]), sure) == 1
    assert ranked(np.array([0, 0, 1]), np.float32(sure)) == 1


def test_auc_mistakes_of_several_classes_raise():
    labels, logits = np.array([0, 1, 2]), np.eye(3, dtype=np.float32)
    for wrong in (labels + 1, 0 * labels):
        with pytest.raises(ValueError, match="two or more of the classes 0…2"):
            metrics.roc_auc(wrong, logits)
    assert np.isnan(ranked(0 * labels, logits))
    broken = logits.copy()
    broken[1, 0] = np.nan
    assert np.isnan(ranked(labels, broken))
    with pytest.raises(ValueError, match="got 1 that are not"):
        metrics.roc_auc(labels, broken)
    for wrong in (logits[:2], logits[:, :1]):
        with pytest.raises(ValueError, match="same shape"):
            metrics.roc_auc(labels, wrong)
        with pytest.raises(ValueError, match="same shape"):
            roc_auc_ranked(labels, wrong)


def test_accuracy():
    logits = jnp.array([[1.0, 3.0, 2.0], [4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(metrics.accuracy(jnp.array([1, 0, 0]), logits), 2 / 3)
    broken = logits.at[0, 0].set(jnp.nan)
    np.testing.assert_allclose(metrics.accuracy(jnp.array([0, 0, 2]), broken), 2 / 3)
    binary = jnp.array([[0.5], [-0.5], [0.0]])  # a tie goes to class 0
    assert metrics.accuracy(jnp.array([1, 0, 0]), binary) == 1
    with pytest.raises(ValueError, match="same first axis"):
        metrics.accuracy(jnp.array([1, 0]), logits)
    with pytest.raises(ValueError, match=r"shape \[m, C\]"):
        metrics.accuracy(jnp.array([1, 0, 1]), logits[0])


def test_sensitivity_counts_changes_and_broken_logits_apart():
    clean = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    perturbed = jnp.array(
        [[0.0, 1.0], [0.6, 0.5], [0.0, 1.0], [jnp.nan, 1.0], [jnp.inf, 0.0]]
    )
    result = metrics.sensitivity(clean, perturbed)
    np.testing.assert_allclose(result.mean, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.stderr, 1 / 3, rtol=1e-6)
    assert (result.n, result.num_nonfinite) == (3, 2)


def test_one_logit_is_two_classes():
    clean = jnp.array([[2.0], [-1.0], [0.5], [-3.0]])
    perturbed = jnp.array([[-1.0], [-2.0], [0.1], [0.2]])
    two = [jnp.concatenate([0 * z, z], axis=1) for z in (clean, perturbed)]
    for metric in (metrics.sensitivity, prediction_shift):
        np.testing.assert_allclose(metric(clean, perturbed), metric(*two), rtol=1e-6)
    assert metrics.sensitivity(clean, perturbed).mean == 0.5
    p, q = 1 / (1 + np.exp(-clean)), 1 / (1 + np.exp(-perturbed))
    shift = prediction_shift(clean, perturbed).mean
    np.testing.assert_allclose(shift, np.mean(np.abs(p - q)), rtol=1e-6)


def test_prediction_shift_is_that_of_the_clean_class():
    rng = np.random.default_rng(2)
    clean, perturbed = rng.normal(size=(2, 5, 3)).astype(np.float32)
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (clean, perturbed))
    rows, classes = np.arange(5), clean.argmax(1)
    expected = np.mean(np.abs(p[rows, classes] - q[rows, classes]))
    result = prediction_shift(clean, perturbed)
    np.testing.assert_allclose(result.mean, expected, rtol=1e-5)
    perturbed[1, 2] = np.nan
    assert prediction_shift(clean, perturbed).num_nonfinite == 1


def test_any_of_several_classifications_may_change():
    clean = np.ones((3, 2, 1), np.float32)
    perturbed = np.float32([[[1], [1]], [[1], [-1]], [[-1], [-1]]])
    result = metrics.sensitivity(clean, perturbed)
    np.testing.assert_allclose(result.mean, 2 / 3, rtol=1e-6)
    gap = 1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(1))
    shift = prediction_shift(clean, perturbed)
    np.testing.assert_allclose(shift.mean, gap * (0 + 0.5 + 1) / 3, rtol=1e-6)


def test_classifications_of_different_numbers_of_classes_are_a_tuple():
    pair = jnp.array([[1.0], [1.0], [-1.0], [1.0]])
    single = jnp.array([[0.0, 1.0, 2.0]] * 4)
    moved = pair.at[0].set(-1.0), single.at[1, 0].set(3.0)
    result = metrics.sensitivity((pair, single), moved)
    np.testing.assert_allclose(result.mean, 0.5)
    assert (result.n, result.num_nonfinite) == (4, 0)
    # Broken in one of them is broken, even where the other has changed.
    broken = moved[0], moved[1].at[0, 2].set(jnp.nan)
    result = metrics.sensitivity((pair, single), broken)
    np.testing.assert_allclose(result.mean, 1 / 3, rtol=1e-6)
    assert (result.n, result.num_nonfinite) == (3, 1)
    for clean, perturbed in (((), ()), ((pair, single), (pair,))):
        with pytest.raises(ValueError, match="as many classifications"):
            metrics.sensitivity(clean, perturbed)


def test_sensitivity_maps_over_models_and_a_batch_of_one():
    clean = np.ones((4, 1, 2), np.float32) * np.float32([1, 0])
    perturbed = clean[..., ::-1]
    result = jax.vmap(metrics.sensitivity)(clean, perturbed)
    np.testing.assert_array_equal(result.mean, np.ones(4))
    np.testing.assert_array_equal(result.n, np.ones(4))
    assert np.isnan(result.stderr).all()


def test_logit_mistakes_raise():
    for metric in (metrics.sensitivity, prediction_shift):
        with pytest.raises(ValueError, match="same shape"):
            metric(jnp.ones((3, 2)), jnp.ones((3, 1)))
        with pytest.raises(ValueError, match=r"shape \[m, C\]"):
            metric(jnp.ones(3), jnp.ones(3))


def test_logits_and_labels_of_any_width():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    for labels in (np.array([0, 0]), np.array([0, 0], np.uint8)):
        assert metrics.accuracy(labels, logits) == 0.5
        with jax.enable_x64(True):
            assert metrics.accuracy(labels, logits).dtype == jnp.float64
    with jax.enable_x64(True):
        for metric in (metrics.sensitivity, prediction_shift):
            assert metric(logits, -logits).mean.dtype == jnp.float64
