"""scikit-learn's networks and linear models, as JAX functions of their weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import score
from r2et_jax.adapters.program import examined, some_inputs
from r2et_jax.checks import check_adapter
from r2et_jax.models import MLP, Linear
from r2et_jax.subject import Subject
from r2et_jax.types import Array

# Shift and scale of scalers, x ↦ (x − shift)/scale; None for neither.
_SCALERS = {
    "StandardScaler": lambda fit: (fit.mean_ if fit.with_mean else None, fit.scale_),
    "RobustScaler": lambda fit: (fit.center_, fit.scale_),
    "MaxAbsScaler": lambda fit: (None, fit.scale_),
    "MinMaxScaler": lambda fit: (-fit.min_ / fit.scale_, 1 / fit.scale_),
}
_NETWORKS = ("MLPClassifier", "MLPRegressor")
_INSTEAD = (
    "r2et_jax.adapters.black_box(estimator.predict_proba, x, output='probabilities') "
    "takes any estimator, and searches at random"
)
# Inputs that the converted model is compared on where no x is given.
_PROBES = 8


def sklearn(estimator: Any, x: Array | None = None, **options: Any) -> Subject:
    """A scikit-learn network or linear model as a subject, exact from its weights.

    `MLPClassifier` and `MLPRegressor`, and what predicts by `coef_` and `intercept_`:
    logistic and linear regression, ridge, a linear SVM … . Scalers before it in a
    `Pipeline` are a part of the model: features are explained in the units of x. The
    result is an `MLP` or `Linear` of `r2et_jax.models`, so that certificates find its
    layers.

    Args:
      estimator: fitted.
      x, **options: as in `adapters.linen`; integers are taken as floats. The names of
        features and classes are the estimator's, unless others are given.

    Returns:
      `Subject`: of the logits of `predict_proba`; without probabilities, of
      `decision_function`; of the prediction in a regression.

    Raises:
      ValueError: for another estimator, one that is not fitted, several labels at once,
        or outputs that are not those of its weights.

    Example:
      >>> from sklearn.linear_model import LogisticRegression
      >>> x = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
      >>> made = sklearn(LogisticRegression().fit(x, [0, 1, 1]), x)
      >>> made.classes
      ('0', '1')
    """
    check_adapter("sklearn", estimator)
    from sklearn.utils.validation import check_is_fitted

    *scalers, last = [estimator]
    if type(estimator).__name__ == "Pipeline":
        *scalers, last = [step for _, step in estimator.steps]
    check_is_fitted(last)
    weights, biases, activation = _layers(last)
    for scaler in reversed(scalers):
        weights[0], biases[0] = _behind(scaler, weights[0], biases[0])
    num_features = len(weights[0])
    if x is None:  # where the units of the first layer bend
        bend = np.linalg.lstsq(weights[0].T, -biases[0], rcond=None)[0]
        scale = np.abs(weights[0]).mean(axis=1) * num_features
        draws = np.random.default_rng(0).normal(size=(_PROBES, num_features))
        x = bend + draws / np.where(scale > 0, scale, 1)
    else:
        if np.shape(x)[1:] != (num_features,):
            raise ValueError(
                f"x must be inputs [m, {num_features}], as the estimator takes, got "
                f"shape {np.shape(x)}"
            )
        x = some_inputs(x, integers=True)
    regression = not hasattr(last, "classes_")
    if np.ndim(_of_arrays(estimator.predict)(x)) != 1:
        if not regression or options.get("target") is None:
            raise ValueError(
                f"adapters.sklearn takes one label, got a {type(last).__name__} of "
                "several; of a regression say which, target="
            )
    module, params = _module(weights, biases, activation)
    original, view = estimator.predict, None
    if hasattr(estimator, "predict_proba"):
        original, view = estimator.predict_proba, score.class_probabilities
        if type(last).__name__ == "SGDClassifier" and weights[-1].shape[1] > 1:
            module = _one_against_rest(module)
    elif hasattr(estimator, "decision_function"):
        original = estimator.decision_function
    if hasattr(estimator, "feature_names_in_"):
        options.setdefault("names", tuple(map(str, estimator.feature_names_in_)))
    if regression:
        options.setdefault("output", "regression")
    else:
        options.setdefault("classes", tuple(map(str, last.classes_)))
    return examined(module, params, x, _of_arrays(original), view=view, **options)


def _of_arrays(predict: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """A prediction of arrays also where the estimator was fitted on named columns."""

    def of_arrays(x):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*valid feature names.*")
            return predict(x)

    return of_arrays


def _layers(last: Any) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """Weights [in, out], biases [out] and the activation of what ends a pipeline."""
    if type(last).__name__ in _NETWORKS:
        return list(last.coefs_), list(last.intercepts_), last.activation
    if not (hasattr(last, "coef_") and hasattr(last, "intercept_")):
        raise ValueError(
            f"adapters.sklearn has no form of {type(last).__name__}: {_INSTEAD}"
        )
    weight = last.coef_.toarray() if hasattr(last.coef_, "toarray") else last.coef_
    weight = np.atleast_2d(np.asarray(weight, float)).T
    bias = np.broadcast_to(np.asarray(last.intercept_, float), weight.shape[1:])
    return [weight], [bias], "identity"


def _behind(scaler: Any, weight: np.ndarray, bias: np.ndarray):
    """The first layer of a model that sees x through a scaler, as one of x itself."""
    if scaler is None or isinstance(scaler, str):  # passthrough
        return weight, bias
    name = type(scaler).__name__
    if name not in _SCALERS or getattr(scaler, "clip", False):
        raise ValueError(
            f"adapters.sklearn has no form of {name} before the last step, only of "
            f"{', '.join(_SCALERS)} without clip: {_INSTEAD}"
        )
    shift, scale = _SCALERS[name](scaler)
    weight = weight if scale is None else weight / scale[:, None]
    return weight, bias if shift is None else bias - shift @ weight


def _module(weights, biases, activation):
    """The same function as a module of `models`, and its parameters."""
    if activation == "identity":  # layers without activation are one
        while len(weights) > 1:
            *weights, weight, last = weights
            *biases, bias, last_bias = biases
            weights, biases = [*weights, weight @ last], [*biases, bias @ last]
            biases[-1] = biases[-1] + last_bias
    if activation == "logistic":  # σ(z) = ½ + ½ tanh(z/2)
        for i in range(len(weights) - 1):
            weights[i], biases[i] = weights[i] / 2, biases[i] / 2
            weights[i + 1] = weights[i + 1] / 2
            biases[i + 1] = biases[i + 1] + weights[i + 1].sum(axis=0)
        activation = "tanh"
    num_outputs = weights[-1].shape[1]
    hidden = tuple(weight.shape[1] for weight in weights[:-1])
    dtype = jax.dtypes.canonicalize_dtype(float)
    layers = {
        f"Dense_{i}": {"kernel": jnp.asarray(w, dtype), "bias": jnp.asarray(b, dtype)}
        for i, (w, b) in enumerate(zip(weights, biases, strict=True))
    }
    return _of_shape(hidden, num_outputs, activation), {"params": layers}


@functools.lru_cache
def _of_shape(hidden, num_outputs, activation):
    """One module for all models of a shape, by which compiled programs are found."""
    return MLP(hidden, num_outputs, activation) if hidden else Linear(num_outputs)


@functools.lru_cache
def _one_against_rest(module: Linear):
    """Logits of the probabilities σ(z_c)/Σ σ(z_j) of binary models, one each class."""

    def apply(params, x, /):
        return jax.nn.log_sigmoid(module.apply(params, x))

    return apply
