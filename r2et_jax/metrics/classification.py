"""Whether the classes are told apart, and whether a perturbation changes them.

Logits are [m, C]; C == 1 is a binary model with one logit z, the same as two classes
with the logits [0, z]. A tie goes to the lower class.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_same_shape
from r2et_jax.metrics._arrays import as_floats, check_axes
from r2et_jax.metrics.agreement import average_ranks
from r2et_jax.metrics.summary import Summary, mean_and_stderr
from r2et_jax.score import class_probabilities, predicted_class


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, by scikit-learn, on the host.

        AUC = P(score of a positive > score of a negative) + ½ P(equal)

    With C ≥ 2 classes the mean over the classes of each against all others (macro,
    one against the rest), a class being scored by its log-odds
    z_c − log Σ_{j≠c} e^{z_j}: ordered as its probability, and not saturated. A class of
    which there is no input is left out of the mean, so that a part of a test set has
    an AUC too.

    Args:
      labels: classes [m]: 0 or 1, or 0…C−1 with logits.
      scores: real numbers [m], larger for class 1, logits or probabilities; or the
        logits [m, C] of C ≥ 2 classes.

    Returns:
      Number in [0, 1].

    Raises:
      ValueError: if the shapes differ or are not [m] and [m] or [m, C], a label is
        neither 0 nor 1 (of C classes: not among 0…C−1), only one class is present, or a
        score is not finite (`roc_auc_ranked` gives nan).

    Example:
      >>> roc_auc(np.array([0, 1, 1]), np.array([0.1, 0.9, 0.4]))
      1.0

    Source: Hanley and McNeil 1982; of several classes what scikit-learn calls macro
      and ovr.
    """
    from sklearn.metrics import roc_auc_score

    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    _check_scores(labels, scores)
    classes, several = np.unique(labels), scores.ndim == 2
    if not several and not np.array_equal(classes, [0, 1]):
        raise ValueError(f"labels must hold both classes 0 and 1, got {classes}")
    if several and (classes.size < 2 or not np.isin(classes, _classes(scores)).all()):
        raise ValueError(
            f"labels must hold two or more of the classes 0…{scores.shape[1] - 1}, "
            f"got {classes}"
        )
    num_nonfinite = int(np.sum(~np.isfinite(scores)))
    if num_nonfinite:
        raise ValueError(f"scores must be finite, got {num_nonfinite} that are not")
    if not several:
        return float(roc_auc_score(labels, scores))
    odds = _log_odds(scores, np)
    return float(np.mean([roc_auc_score(labels == c, odds[:, c]) for c in classes]))


def roc_auc_ranked(labels: ArrayLike, scores: ArrayLike) -> Array:
    """Area under the ROC curve from average ranks: traceable, O(m log m).

        AUC = ½ + (mean rank of the positives − (m + 1)/2) / n₋

    Of C ≥ 2 classes the mean over those that are present, as in `roc_auc`. Maps over
    models: `jax.vmap(roc_auc_ranked, in_axes=(None, 0))`.

    Args:
      labels: classes [m], 0 or 1 (everything but 1 counts as negative), or 0…C−1.
      scores: real numbers [m], larger for class 1, or the logits [m, C] of C ≥ 2
        classes.

    Returns:
      Scalar in [0, 1]; nan if one class alone is present or a score is nan.

    Raises:
      ValueError: if the shapes differ or are not [m] and [m] or [m, C].

    Example:
      >>> print(roc_auc_ranked(jnp.array([0, 1, 1]), jnp.array([0.1, 0.9, 0.4])))
      1.0

    Source: Hanley and McNeil 1982 (the Mann–Whitney statistic).
    """
    labels, (scores,) = jnp.asarray(labels), as_floats(scores)
    _check_scores(labels, scores)
    if scores.ndim == 2:
        # A nan among the logits makes all odds of its input nan.
        odds = _log_odds(scores, jnp)
        member = labels == jnp.asarray(_classes(scores), labels.dtype)[:, None]
        areas = jax.vmap(_auc)(member, odds.T)
        return jnp.mean(areas, where=jnp.any(member, axis=1))
    return _auc(labels == 1, scores)


def _auc(positive: Array, scores: Array) -> Array:
    """From average ranks, of two classes."""
    positive = positive.astype(scores.dtype)
    num_positive = jnp.sum(positive)
    num_negative = positive.shape[0] - num_positive
    # Ranks less their mean: the sum of raw ranks would round in float32.
    centred = average_ranks(scores) - (positive.shape[0] + 1) / 2
    mean = jnp.sum(positive * centred) / jnp.maximum(num_positive, 1.0)
    auc = jnp.clip(0.5 + mean / jnp.maximum(num_negative, 1.0), 0.0, 1.0)
    defined = (num_positive > 0) & (num_negative > 0) & ~jnp.any(jnp.isnan(scores))
    return jnp.where(defined, auc, jnp.nan)


def _check_scores(labels, scores) -> None:
    check_axes("labels", labels, "m")
    if scores.ndim == 2 and scores.shape[1] > 1:
        check_same_shape("labels", labels, "scores of each class", scores[:, 0])
    else:
        check_same_shape("labels", labels, "scores", scores)


def _classes(scores):
    return np.arange(scores.shape[1])


def _log_odds(logits, numpy):
    """z_c − log Σ_{j≠c} exp z_j of every class [m, C], by NumPy or jax.numpy."""
    is_class = np.eye(logits.shape[1], dtype=bool)
    others = numpy.where(is_class, -np.inf, logits[:, None, :])
    top = numpy.max(others, axis=-1, keepdims=True)
    rest = numpy.log(numpy.sum(numpy.exp(others - top), axis=-1)) + top[..., 0]
    return logits - rest


def accuracy(labels: ArrayLike, logits: ArrayLike) -> Array:
    """Share of inputs whose predicted class is the label.

        (1/m) Σ 1[argmax z(x) = y]

    Args:
      labels: classes [m], integers in 0…max(C, 2)−1.
      logits: [m, C].

    Returns:
      Scalar in [0, 1]; an input with a logit that is not finite counts as wrong.

    Raises:
      ValueError: if `logits` is not [m, C] or `labels` not [m].

    Example:
      >>> print(accuracy(jnp.array([1, 1]), jnp.array([[2.0], [-1.0]])))
      0.5
    """
    (logits,), labels = as_floats(logits), jnp.asarray(labels).astype(jnp.int32)
    check_axes("logits", logits, "m, C")
    check_axes("labels", labels, "m")
    if labels.shape[0] != logits.shape[0]:
        raise ValueError(
            "logits and labels must have the same first axis, got "
            f"{logits.shape} and {labels.shape}"
        )
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    correct = (predicted_class(logits) == labels) & finite
    return jnp.mean(correct.astype(logits.dtype))


def sensitivity(
    clean_logits: ArrayLike | tuple[ArrayLike, ...],
    perturbed_logits: ArrayLike | tuple[ArrayLike, ...],
    *,
    units: ArrayLike | None = None,
) -> Summary:
    """Share of inputs of which any predicted class changed.

        (1/m) Σ 1[argmax z(x) ≠ argmax z(x′)]

    Args:
      clean_logits: [m, C], or [m, R, C] for R classifications of one input, which is
        changed if any of them is. Those of different numbers of classes are a tuple of
        arrays [m, C_r] (a Siamese model: of the pair and of its members).
      perturbed_logits: logits of the same shapes at the perturbed inputs.
      units: the input of each row [m], see `mean_and_stderr`.

    Returns:
      `Summary` with a mean in [0, 1] over the inputs all of whose logits are finite;
      the others are counted in `num_nonfinite`, neither as changed nor as unchanged.

    Raises:
      ValueError: if the shapes or numbers of classifications differ, there is none, or
        an array has fewer than two axes.

    Example:
      >>> result = sensitivity(jnp.array([[1.0], [2.0]]), jnp.array([[-1.0], [1.0]]))
      >>> print(result.mean, result.num_nonfinite)
      0.5 0

    Source: R2ET (arXiv 2212.14106), of constrained attacks.
    """
    if not isinstance(clean_logits, tuple):
        clean_logits, perturbed_logits = (clean_logits,), (perturbed_logits,)
    if not len(clean_logits) == len(perturbed_logits) > 0:
        raise ValueError(
            "clean_logits and perturbed_logits must have as many classifications, at "
            f"least one, got {len(clean_logits)} and {len(perturbed_logits)}"
        )
    ends = zip(clean_logits, perturbed_logits, strict=True)
    changed = jnp.stack([_class_changed(*_logit_pair(*pair)) for pair in ends])
    return mean_and_stderr(jnp.max(changed, axis=0), units=units)


def _class_changed(clean: Array, perturbed: Array) -> Array:
    """Per input [m] 1 where a class is another one, NaN where a logit is not finite."""
    changed = predicted_class(clean) != predicted_class(perturbed)
    changed = jnp.any(changed.reshape(changed.shape[0], -1), axis=1)
    return _where_finite(changed.astype(clean.dtype), clean, perturbed)


def prediction_shift(
    clean_logits: ArrayLike,
    perturbed_logits: ArrayLike,
    *,
    units: ArrayLike | None = None,
) -> Summary:
    """Mean change of the probability of the class predicted at the clean input.

        (1/m) Σ |p_c(x) − p_c(x′)|,   c = argmax z(x)

    For two classes it does not matter which one is taken.

    Args:
      clean_logits: [m, C], or [m, R, C] for R classifications of one input, of which
        the mean is taken.
      perturbed_logits: as `clean_logits` [m, C] or [m, R, C], at the perturbed inputs.
      units: the input of each row [m], see `mean_and_stderr`.

    Returns:
      `Summary` with a mean in [0, 1] over the inputs all of whose logits are finite;
      the others are counted in `num_nonfinite`.

    Raises:
      ValueError: if the shapes differ or have fewer than two axes.

    Example:
      >>> shift = prediction_shift(jnp.array([[100.0]]), jnp.array([[0.0]]))
      >>> print(shift.mean)
      0.5
    """
    clean, perturbed = _logit_pair(clean_logits, perturbed_logits)
    shift = jnp.abs(class_probabilities(clean) - class_probabilities(perturbed))
    classes = predicted_class(clean)[..., None]
    shift = jnp.take_along_axis(shift, classes, axis=-1)
    shift = jnp.mean(shift.reshape(shift.shape[0], -1), axis=1)
    return mean_and_stderr(_where_finite(shift, clean, perturbed), units=units)


def _logit_pair(clean: ArrayLike, perturbed: ArrayLike) -> tuple[Array, Array]:
    clean, perturbed = as_floats(clean, perturbed)
    check_same_shape("clean_logits", clean, "perturbed_logits", perturbed)
    if clean.ndim < 2:
        raise ValueError(f"logits must have the shape [m, C], got {clean.shape}")
    return clean, perturbed


def _where_finite(values: Array, clean: Array, perturbed: Array) -> Array:
    """`values` [m], NaN for the inputs of which a logit is not finite."""
    finite = jnp.isfinite(clean) & jnp.isfinite(perturbed)
    finite = jnp.all(finite.reshape(finite.shape[0], -1), axis=1)
    return jnp.where(finite, values, jnp.nan)
