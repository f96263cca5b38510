"""What a model returns in place of logits, and labels in place of classes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from tests.r2et_jax.test_bad_input import BALL, DATA, DOORS, KEY, WEIGHTS, X, linear

CLASSIFIERS = {
    "sigmoid": lambda w, x: jax.nn.sigmoid(w @ x)[None],
    "quotient": lambda w, x: 1 / (1 + jnp.exp(-(w @ x)))[None],
    "softmax": lambda w, x: jax.nn.softmax(jnp.stack([w @ x, x[0], 0 * x[1]])),
    "both": lambda w, x: jnp.stack([1 - (p := jax.nn.sigmoid(w @ x)), p]),
    "clipped": lambda w, x: jnp.clip(jax.nn.sigmoid(w @ x)[None], 1e-6, 1 - 1e-6),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"exact"}))
def test_probabilities_in_place_of_logits(door, name):
    subject = r2.subject(CLASSIFIERS[name], WEIGHTS)
    with pytest.raises(ValueError, match=r"in \[0, 1\] for every input, as probab"):
        DOORS[door](subject, X)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_of_which_one_class_is_explained(name):
    match = r"in \[0, 1\] for every input, as probab"
    with pytest.raises(ValueError, match=match):
        r2.explain(r2.subject(CLASSIFIERS[name], WEIGHTS, target=1), X)
    with pytest.raises(ValueError, match=match):
        r2.audit(CLASSIFIERS[name], WEIGHTS, X, k=2, target=1)
    said = r2.subject(CLASSIFIERS[name], WEIGHTS, target=1, output="logits")
    assert r2.explain(said, X).shape == X.shape


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_training_on_probabilities_in_place_of_logits(name):
    x, y = DATA
    given = {"num_epochs": 1, "key": KEY}
    goal = r2.objective("vanilla", CLASSIFIERS[name], k=2)
    with pytest.raises(ValueError, match=r"in \[0, 1\] for every input, as probab"):
        r2.train(goal, WEIGHTS, x, y, **given)
    said = r2.subject(CLASSIFIERS[name], None, output="logits")
    trained = r2.train(r2.objective("vanilla", said, k=2), WEIGHTS, x, y, **given)
    assert np.isfinite(trained).all()


@pytest.mark.standard_promotion
def test_logits_that_are_said_or_may_leave_the_unit_interval_pass():
    said = r2.subject(CLASSIFIERS["sigmoid"], WEIGHTS, output="logits")
    assert r2.explain(said, X).shape == X.shape
    assert r2.audit(said, X, k=2, evaluations=1000).asked.output == "logits"
    for end in (jnp.tanh, jnp.abs, jax.nn.relu):
        subject = r2.subject(lambda w, x, end=end: end(w @ x)[None], WEIGHTS)
        assert r2.explain(subject, X).shape == X.shape


@pytest.mark.parametrize("wide", [2**32, 2**32 + 1, -(2**32)])
def test_labels_that_would_wrap_into_range(wide):
    x, y = DATA
    y = np.where(np.arange(len(y)) == 1, wide, y.astype(np.int64))
    goal = r2.objective("vanilla", linear, k=2)
    with pytest.raises(ValueError, match=rf"class indices .*got \[{wide}\], .* beyond"):
        r2.train(goal, WEIGHTS, x, y, num_epochs=1, key=KEY)


def test_a_model_with_indices_of_its_features_passes():
    def apply(w, x):
        return ((jnp.arange(4.0) - x) ** 2 @ w)[None]

    assert r2.explain(r2.subject(apply, WEIGHTS), X).shape == X.shape


def test_inputs_without_a_ranking_have_no_thickness():
    models = {
        "nan": lambda w, x: jnp.sqrt(x[:1] - 10) * x.sum(),
        "constant": lambda w, x: 3.0 + 0 * x[:1],
    }
    for apply in models.values():
        thick = r2.thickness(r2.subject(apply, WEIGHTS), X, BALL, k=2, key=KEY)
        assert np.isnan(thick.mean).all() and np.isnan(thick.least).all()
    curved = r2.subject(lambda w, x: (w @ x**3)[None], WEIGHTS)
    ends = np.where(np.arange(6)[:, None] == 1, np.nan, X).astype(X.dtype)
    given = {"k": 2, "key": KEY, "distribution": "given"}
    with pytest.raises(ValueError, match="ends must be finite, .* 1 of 6 rows"):
        r2.thickness(curved, X, BALL, ends=ends, **given)
    images = X.reshape(6, 2, 2)
    flat = r2.subject(lambda w, x: (w @ x.ravel() ** 3)[None], WEIGHTS)
    with pytest.raises(ValueError, match=r"rows \[m, n\], got shape \(6, 2, 2\)"):
        r2.thickness(flat, images, BALL, k=2, key=KEY)


DRAWING = {
    "an array": lambda w, x: (w * np.random.normal(size=4).astype("f") @ x)[None],
    "a number": lambda w, x: (w @ x + np.float32(np.random.uniform()))[None],
    "a key": lambda w, x: (
        w @ x + jax.random.normal(jax.random.key(np.random.randint(99999)))
    )[None],
    "its shape": lambda w, x: (w[: next(LENGTHS)].sum() + w @ x)[None],
}
LENGTHS = itertools.cycle([1, 2, 3])


@pytest.mark.parametrize("name", DRAWING)
def test_a_model_that_is_another_one_each_time(name):
    with pytest.raises(ValueError, match="the same function each time, .*numpy.random"):
        r2.audit(DRAWING[name], WEIGHTS, X, k=2, evaluations=1000)


@pytest.mark.standard_promotion
def test_a_model_that_holds_arrays_keys_and_functions_is_the_same_each_time():
    def apply(w, x):
        noise = jax.random.normal(jax.random.key(3), (4,))
        held = jnp.asarray([0.5, np.nan, 1.0, 2.0], w.dtype)
        bent = jax.custom_jvp(lambda z: z)
        bent.defjvp(lambda p, t: (p[0], t[0]))
        return bent(w @ x + noise @ x + jnp.nansum(held))[None]

    report = r2.audit(apply, WEIGHTS, X, k=2, evaluations=1000)
    assert report.precision.shape == (6,)
