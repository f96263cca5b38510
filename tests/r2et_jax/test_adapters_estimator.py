"""scikit-learn's models from their weights, against their own predictions."""

import warnings

import jax
import numpy as np
import pytest
from sklearn import linear_model, pipeline, preprocessing, svm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

import r2et_jax as r2
from r2et_jax import adapters, models, score

pytestmark = pytest.mark.standard_promotion

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(60, 5)) * (1, 2, 3, 0.5, 1) + (0, 5, -3, 2, 1)
BINARY = (X[:, 0] + X[:, 1] - 5 > 0).astype(int)
THREE = np.digitize(X[:, 2] + X[:, 0], (-4, -1))
VALUES = X[:, 0] ** 2 + X[:, 3]


def fitted(estimator, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps do not converge
        return estimator.fit(X, y)


def network(cls=MLPClassifier, hidden=(6,), activation="relu"):
    return cls(
        hidden_layer_sizes=hidden, activation=activation, max_iter=5, random_state=0
    )


def scaled(scaler, last):
    return pipeline.make_pipeline(scaler, last)


LOGISTIC = linear_model.LogisticRegression
STANDARD = preprocessing.StandardScaler
CLASSIFIERS = {
    "logistic": (LOGISTIC(), BINARY),
    "multinomial": (LOGISTIC(), THREE),
    "discriminant": (LinearDiscriminantAnalysis(), THREE),
    "sgd": (linear_model.SGDClassifier(loss="log_loss", alpha=1.0), BINARY),
    "one_against_rest": (linear_model.SGDClassifier(loss="log_loss", alpha=1.0), THREE),
    "relu": (network(), BINARY),
    "relu_three": (network(hidden=(6, 4)), THREE),
    "logistic_units": (network(hidden=(6, 4), activation="logistic"), THREE),
    "tanh": (network(activation="tanh"), BINARY),
    "identity": (network(hidden=(6, 4), activation="identity"), THREE),
    "standard": (scaled(STANDARD(), network()), BINARY),
    "spread": (scaled(STANDARD(with_mean=False), network()), BINARY),
    "centred": (scaled(STANDARD(with_std=False), LOGISTIC()), BINARY),
    "minmax": (scaled(preprocessing.MinMaxScaler((-1, 3)), LOGISTIC()), THREE),
    "maxabs": (scaled(preprocessing.MaxAbsScaler(), LOGISTIC()), THREE),
    "robust": (scaled(preprocessing.RobustScaler(), network()), BINARY),
    "two_scalers": (
        pipeline.make_pipeline(
            preprocessing.RobustScaler(), "passthrough", STANDARD(), network()
        ),
        BINARY,
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_are_those_of_the_estimator(name):
    estimator, y = CLASSIFIERS[name]
    estimator = fitted(estimator, y)
    subject = adapters.sklearn(estimator)  # compared at inputs of its own
    logits = jax.vmap(subject.apply, (None, 0))(subject.params, X.astype(np.float32))
    expected = estimator.predict_proba(X)
    assert 0.03 < expected.std()  # saturated ones would tell little
    np.testing.assert_allclose(score.class_probabilities(logits), expected, atol=1e-4)
    assert subject.classes == tuple(map(str, np.unique(y)))


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (linear_model.Ridge(), VALUES),
        (linear_model.LinearRegression(fit_intercept=False), VALUES),
        (network(MLPRegressor), VALUES),
        (svm.LinearSVC(), THREE),
        (svm.SVC(kernel="linear"), BINARY),
        (linear_model.RidgeClassifier(), BINARY),
    ],
)
def test_other_outputs_are_those_of_the_estimator(estimator, y):
    estimator = fitted(estimator, y)
    subject = adapters.sklearn(estimator, X)
    values = jax.vmap(subject.apply, (None, 0))(subject.params, X.astype(np.float32))
    outputs = getattr(estimator, "decision_function", estimator.predict)(X)
    scale = np.abs(outputs).max()
    np.testing.assert_allclose(values, outputs.reshape(len(X), -1), atol=1e-4 * scale)
    assert subject.shape == (5,)
    regression = not hasattr(estimator, "classes_")
    assert subject.output == ("regression" if regression else "auto")


def test_one_of_several_outputs_of_a_regression():
    estimator = fitted(linear_model.Ridge(), X[:, :2] @ [[1, 2, 3], [0, 1, -1]])
    subject = adapters.sklearn(estimator, target=2)
    values = jax.vmap(subject.apply, (None, 0))(subject.params, X.astype(np.float32))
    np.testing.assert_allclose(values[:, 0], estimator.predict(X)[:, 2], atol=1e-3)


def test_gradients_are_in_the_units_of_x():
    plain = fitted(LOGISTIC(), BINARY)
    expected = np.abs(plain.coef_[0])
    maps = r2.explain(adapters.sklearn(plain), X.astype(np.float32))
    np.testing.assert_allclose(maps[3], expected / expected.sum(), rtol=1e-4)
    behind = fitted(scaled(STANDARD(), LOGISTIC()), BINARY)
    expected = np.abs(behind[-1].coef_[0] / behind[0].scale_)
    maps = r2.explain(adapters.sklearn(behind), X.astype(np.float32))
    np.testing.assert_allclose(maps[3], expected / expected.sum(), rtol=1e-4)


def test_names_come_along_and_certificates_find_the_layers():
    estimator = fitted(scaled(STANDARD(), network(activation="tanh")), BINARY)
    estimator[0].feature_names_in_ = np.array(list("abcde"), dtype=object)
    subject = adapters.sklearn(estimator)
    assert subject.names == tuple("abcde")
    assert adapters.sklearn(estimator, names=list("vwxyz")).names == tuple("vwxyz")
    net = subject.layers(subject.params)
    weight = estimator[-1].coefs_[0] / estimator[0].scale_[:, None]
    np.testing.assert_allclose(net.weight, weight, rtol=1e-5)
    again = adapters.sklearn(estimator)
    assert again.form == subject.form  # one module for each shape
    assert models.MLP((6,), 1, "tanh") == subject.apply.__self__


@pytest.mark.parametrize(
    ("estimator", "y", "message"),
    [
        (LOGISTIC(), None, "not fitted yet"),
        (
            RandomForestClassifier(n_estimators=2),
            BINARY,
            "form of RandomForestCl.*blac",
        ),
        (linear_model.PoissonRegressor(), BINARY, "other outputs than the original"),
        (
            linear_model.SGDClassifier(loss="modified_huber"),
            BINARY,
            "other outputs than the original",
        ),
        (svm.SVC(kernel="linear"), THREE, "other outputs than the original"),
        (network(), np.stack([BINARY, 1 - BINARY], 1), "one label, got a MLPClassif"),
        (network(MLPRegressor), X[:, :2], "one label, got a MLPRegressor of several"),
        (linear_model.Ridge(), X[:, :2], "one label, got a Ridge of several"),
        (
            scaled(preprocessing.PolynomialFeatures(), LOGISTIC()),
            BINARY,
            "no form of PolynomialFeatures before the last step, only of StandardSc",
        ),
        (
            scaled(preprocessing.MinMaxScaler(clip=True), LOGISTIC()),
            BINARY,
            "no form of MinMaxScaler .*without clip",
        ),
    ],
)
def test_estimators_without_an_exact_form_are_refused(estimator, y, message):
    estimator = estimator if y is None else fitted(estimator, y)
    with pytest.raises(ValueError, match=message):
        adapters.sklearn(estimator)


@pytest.mark.parametrize("kind", [int, bool, object, np.float16])
def test_numbers_of_any_kind_are_taken_as_floats(kind):
    """Counts, and the objects that a frame of floats and truth values makes."""
    estimator = fitted(LOGISTIC(), BINARY)
    subject = adapters.subject(estimator, X.astype(kind))
    assert subject.shape == (5,)
    if kind is object:
        x = np.array([[1, 0.5], [True, 2.5]], object)
        box = adapters.black_box(lambda rows: rows[:, 0], x)
        assert r2.explain(box, x[:1].astype(np.float32)).shape == (1, 2)


def test_inputs_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"inputs \[m, 5\], .* got shape \(60, 4\)"):
        adapters.sklearn(fitted(LOGISTIC(), BINARY), X[:, :4])
