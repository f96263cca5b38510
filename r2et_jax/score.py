"""From logits to the scalar that is explained.

A model with C = 1 output is binary: its logit z stands for the class scores [0, z],
so that class 1 has the log-odds z and class 0 has −z.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax import context as context_lib
from r2et_jax.checks import check_class, check_no_batch_statistics
from r2et_jax.execution import hashable, kept
from r2et_jax.numerics import sigmoid, softplus
from r2et_jax.programs.transform import output_bounds
from r2et_jax.types import ApplyFn, Array, Params, ScoreFn

__all__ = [
    "class_probabilities",
    "log_odds",
    "log_probability",
    "logit",
    "logits_of_probabilities",
    "loss",
    "predicted_class",
    "probability",
]


def check_takes(subject: Any, x: Any) -> None:
    """Raise unless the model takes the inputs to logits; runs nothing.

    Args:
      subject: a `Subject`.
      x: inputs [m, ...], or a pytree of them.

    Raises:
      ValueError: as `context.check_takes`, and as `check_no_probabilities` unless the
        subject says that its outputs are logits.
    """
    context_lib.check_takes(subject, x)
    if subject.output == "auto":
        # Shapes alone: taking an entry of an array of JAX is a program, too.
        example, beside = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], leaf.dtype),
            (x, subject.context),
        )
        params = context_lib.in_context(subject.params, beside)
        check_no_probabilities(subject.apply, params, example)


def check_no_probabilities(apply: ApplyFn, params: Params, x: Any) -> None:
    """Raise for a model whose outputs lie in [0, 1] whatever its input; runs nothing.

    Args:
      apply: `apply(params, x) -> logits [C]` of one input.
      params: its parameters, of which only shapes and dtypes count, as of x.
      x: an input.

    Raises:
      ValueError: for probabilities in place of logits.
    """
    leaves, structure = jax.tree.flatten((params, x))
    shapes = tuple(
        jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for v in leaves
    )
    low, high = _bounds(hashable(apply), structure, shapes)
    if low >= 0 and high <= 1:
        raise ValueError(
            "apply must return logits, but its outputs lie in [0, 1] for every input, "
            "as probabilities do: pass subject(..., output='probabilities') to have "
            "them converted, or output='logits' if they are logits"
        )


def refusing_probabilities(apply: ApplyFn) -> ApplyFn:
    """The model itself; traced it raises as `check_no_probabilities` does."""

    def model(params, x, /):
        check_no_probabilities(apply, params, x)
        return apply(params, x)

    return model


@kept
def _bounds(apply, structure, shapes) -> tuple[float, float]:
    return output_bounds(apply, *jax.tree.unflatten(structure, shapes))


def _check_logits(logits: Array) -> None:
    if not hasattr(logits, "ndim"):
        raise ValueError(
            "apply must return the logits of one example, of shape [C], got a "
            f"{type(logits).__name__}"
        )
    if logits.ndim != 1 or logits.size == 0:
        raise ValueError(
            f"apply must return the logits of one example, of shape [C], got shape "
            f"{logits.shape}"
        )


def _logits(apply: ApplyFn, params: Params, x: Array) -> Array:
    try:
        logits = apply(params, x)
        _check_logits(logits)
    except Exception:  # of Flax, say, whose statistics cannot be written
        check_no_batch_statistics(params)
        raise
    return logits


def _is_target(logits: Array, target: Array) -> Array:
    # Both in one integer type, whichever the caller's index has.
    index = jnp.arange(logits.shape[0], dtype=jnp.int32)
    return index == jnp.asarray(target, jnp.int32)


def of_class(logits: Array, target: Array) -> Array:
    """The logits [C] of one example, if target is one of their classes.

    A target out of range that is traced makes them NaN by a factor, so that what is
    differentiated is NaN, too.

    Raises:
      ValueError: for logits of another shape, a target that is no single integer, and
        one out of range whose value is known.
    """
    _check_logits(logits)
    num_classes = max(logits.shape[0], 2)
    check_class("target", target, num_classes)
    if not isinstance(target, jax.core.Tracer):
        return logits
    wide = target.dtype.itemsize > 4  # beyond int32 an index would wrap into range
    index = target if wide else target.astype(jnp.int32)
    inside = (index >= 0) & (index < num_classes)
    return logits * jnp.where(inside, 1, jnp.nan).astype(logits.dtype)


def _class_log_odds(logits: Array, target: Array) -> Array:
    logits = of_class(logits, target)
    if logits.shape[0] == 1:
        return jnp.where(target == 1, logits[0], -logits[0])
    chosen = _is_target(logits, target)
    if logits.shape[0] == 2:
        return jnp.sum(jnp.where(chosen, logits, -logits))
    # Its exponential is 0, as that of −∞ is, but bounds take numbers alone.
    others = jnp.where(chosen, jnp.finfo(logits.dtype).min / 4, logits)
    return jnp.sum(jnp.where(chosen, logits, 0)) - jax.nn.logsumexp(others)


def log_odds(apply: ApplyFn) -> ScoreFn:
    """u_c = log p_c − log(1 − p_c) = z_c − log Σ_{j≠c} exp z_j.

    Its gradient is that of p_c over the positive factor p_c(1 − p_c): both rank the
    features alike, and this one does not saturate.

    Args:
      apply: model, `apply(params, x) -> logits [C]`.

    Returns:
      `score(params, x, target) -> scalar`, target a class index in 0…max(C, 2)−1.
      NaN, with NaN derivatives, for a traced index out of range.

    Raises:
      ValueError: when traced, for a target that is no single integer (such as a one-hot
        row), and for one out of range whose value is known.

    Example:
      >>> score = log_odds(lambda w, x: jnp.stack([0.0 * x, w * x]))
      >>> float(score(2.0, jnp.array(3.0), 1))
      6.0

    Source: R2ET (arXiv 2212.14106), where the probability is explained.
    """

    def score(params, x, target, /):
        return _class_log_odds(_logits(apply, params, x), target)

    return score


def probability(apply: ApplyFn) -> ScoreFn:
    """p_c = softmax(z)_c = σ(u_c), the published choice. See `log_odds`.

    Args:
      apply: `apply(params, x) -> z [C]`.

    Returns:
      `score(params, x, target) -> scalar`.

    Raises:
      ValueError: when traced, if the model does not return one axis of logits.

    Example:
      >>> apply = lambda params, x: params * x
      >>> print(f"{probability(apply)(1.0, jnp.array([2.0, 0.0]), 0):.3f}")
      0.881
    """

    def score(params, x, target, /):
        return sigmoid(_class_log_odds(_logits(apply, params, x), target))

    return score


def log_probability(apply: ApplyFn) -> ScoreFn:
    """log p_c = −log(1 + exp(−u_c)). See `log_odds`.

    Args:
      apply: `apply(params, x) -> z [C]`.

    Returns:
      `score(params, x, target) -> scalar`.

    Raises:
      ValueError: when traced, if the model does not return one axis of logits.

    Example:
      >>> apply = lambda params, x: params * x
      >>> print(f"{log_probability(apply)(1.0, jnp.array([2.0, 0.0]), 0):.3f}")
      -0.127
    """

    def score(params, x, target, /):
        return -softplus(-_class_log_odds(_logits(apply, params, x), target))

    return score


def logit(apply: ApplyFn) -> ScoreFn:
    """z_c; for a model with one logit z: z for class 1, −z for class 0.

    Args:
      apply: `apply(params, x) -> z [C]`.

    Returns:
      `score(params, x, target) -> scalar`.

    Raises:
      ValueError: when traced, if the model does not return one axis of logits.

    Example:
      >>> apply = lambda params, x: params * x
      >>> print(f"{logit(apply)(1.0, jnp.array([2.0, 0.0]), 0):.3f}")
      2.000
    """

    def score(params, x, target, /):
        logits = _logits(apply, params, x)
        if logits.shape[0] == 1:
            return _class_log_odds(logits, target)
        logits = of_class(logits, target)
        chosen = _is_target(logits, target)
        value = jnp.sum(jnp.where(chosen, logits, 0))
        # A target out of range chooses none of the logits, all of which are NaN then.
        return jnp.where(jnp.any(chosen), value, jnp.sum(logits))

    return score


def loss(apply: ApplyFn) -> ScoreFn:
    """Cross-entropy −log p_c with the target as the label. See `log_odds`.

    Args:
      apply: `apply(params, x) -> z [C]`.

    Returns:
      `score(params, x, target) -> scalar`.

    Raises:
      ValueError: when traced, if the model does not return one axis of logits.

    Example:
      >>> apply = lambda params, x: params * x
      >>> print(f"{loss(apply)(1.0, jnp.array([2.0, 0.0]), 0):.3f}")
      0.127
    """

    def score(params, x, target, /):
        return softplus(-_class_log_odds(_logits(apply, params, x), target))

    return score


def predicted_class(logits: Array) -> Array:
    """Index of the class with the largest logit; ties go to the lower index.

    A single logit z predicts class 1 where z > 0.

    Args:
      logits: [..., C], C ≥ 1.

    Returns:
      Classes, integers [...].

    Example:
      >>> print(predicted_class(jnp.array([[0.5], [-2.0]])))
      [1 0]
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def class_probabilities(logits: Array) -> Array:
    """softmax over the last axis; a single logit z gives [σ(−z), σ(z)].

    Args:
      logits: [..., C], C ≥ 1.

    Returns:
      Probabilities [..., max(C, 2)].

    Example:
      >>> print(class_probabilities(jnp.array([0.0])))
      [0.5 0.5]
    """
    if logits.shape[-1] == 1:
        return jnp.concatenate([sigmoid(-logits), sigmoid(logits)], axis=-1)
    return jax.nn.softmax(logits, axis=-1)


def cross_entropy(logits: Array, label: Array) -> Array:
    """−log p_label of one example, for C ≥ 1 logits."""
    return softplus(-_class_log_odds(logits, label))


def logits_of_probabilities(apply: ApplyFn) -> ApplyFn:
    """A model of class probabilities as one of logits: z_c = log p_c.

    One output p is the probability of class 1: z = log p − log(1 − p). Where a
    probability is 0 or 1 after rounding, its gradient is, too.

    Args:
      apply: `apply(params, x) -> p [C]`, C ≥ 1.

    Returns:
      `model(params, x) -> z [C]`.

    Raises:
      ValueError: when traced, if the model does not return one axis of probabilities.

    Example:
      >>> model = logits_of_probabilities(lambda w, x: jnp.array([0.5]))
      >>> float(model(None, None)[0])
      0.0
    """

    def model(params, x, /):
        p = apply(params, x)
        _check_logits(p)
        tiny = jnp.finfo(p.dtype).tiny
        if p.shape[0] == 1:
            return jnp.log(p + tiny) - jnp.log(1 - p + tiny)
        return jnp.log(p + tiny)

    return model


def of_batches(apply: ApplyFn) -> ApplyFn:
    """A model that takes batches alone, as one of single examples.

    Args:
      apply: `apply(params, x [m, ...]) -> [m, ...]`, row by row.

    Returns:
      `model(params, x) -> apply(params, x[None])[0]`; x may be a pytree of arrays.
    """

    def model(params, x, /):
        return apply(params, jax.tree.map(lambda leaf: leaf[None], x))[0]

    return model


def one_output(
    apply: ApplyFn, target: int | None = None, *, regression: bool = False
) -> ApplyFn:
    """A model with several outputs as one of the output that is explained.

    Args:
      apply: of a regression `apply(params, x) -> scalar or [C]`, else logits [C].
      target: the output, or the class, in 0…C−1; None where a regression has only one.
      regression: whether outputs are values, not logits.

    Returns:
      `model(params, x) -> [1]`: the value, or the log-odds of the class against all
      others.

    Raises:
      ValueError: when traced, for a target out of range, or none where there is a
        choice.
    """

    def model(params, x, /):
        outputs = apply(params, x)
        if not regression:
            return _class_log_odds(outputs, target)[None]
        if getattr(outputs, "ndim", None) not in (0, 1):
            shape = getattr(outputs, "shape", type(outputs).__name__)
            raise ValueError(
                f"a regression must return one value or values [C], got {shape}"
            )
        outputs = jnp.atleast_1d(outputs)
        count = outputs.shape[0]
        if target is None and count != 1:
            raise ValueError(
                f"of {count} outputs one is explained: say target=, one of "
                f"0…{count - 1}"
            )
        if target is not None and not 0 <= target < count:
            raise ValueError(f"target must be an output in 0…{count - 1}, got {target}")
        return outputs[target or 0][None]

    return model
