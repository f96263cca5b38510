"""Black boxes: any predict function of NumPy arrays, which has no gradients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import saliency
from r2et_jax.adapters.program import some_inputs
from r2et_jax.checks import as_array
from r2et_jax.subject import Subject, subject
from r2et_jax.types import Array


def black_box(
    predict: Callable[[np.ndarray], Any],
    x: Array,
    *,
    explainer: Callable[..., Any] | None = None,
    baseline: Array | float | None = None,
    **options: Any,
) -> Subject:
    """Any predict function as a subject without gradients.

    It is explained by occlusion, and attacked by random draws and by evolution, which
    see its outputs alone: gradients might find more. Each explanation takes n + 1
    predictions, and an attack as many for each of its evaluations: begin with few. A
    process calls it by several threads at a time.

    Args:
      predict: `predict(x [m, ...]) -> [m, C] or [m]` of NumPy arrays, row by row and
        the same at each call, such as an estimator's `predict_proba`.
      x: some inputs [m, ...], on which it is tried; integers are taken as floats.
      explainer: a factory of explanations that take no gradients; by default
        `saliency.occlusion` with the baseline.
      baseline: what a feature is set to when it is taken away, one number or one for
        each; by default its mean over x.
      **options: of `r2et_jax.subject`: names, groups, classes, output …

    Returns:
      `Subject`, whose `form.differentiable` is False. What asks for gradients of it
      raises a ValueError.

    Raises:
      ValueError: for no function, outputs that are not [m, C] or [m] numbers, that
        change from call to call or with the rows beside them.

    Example:
      >>> def rule(x):
      ...     return np.where(x[:, :1] > 0, 2.0, -1.0)
      >>> made = black_box(rule, np.array([[1.0, 5.0], [-1.0, 4.0]]))
      >>> from r2et_jax.subject import explain
      >>> explain(made, np.array([[1.0, 5.0]], np.float32)).tolist()
      [[1.0, 0.0]]
    """
    if isinstance(predict, type) or not callable(predict):
        raise ValueError(
            "predict must be a function of NumPy arrays, predict(x [m, ...]) -> [m, C] "
            f"or [m], got {predict!r}"
        )
    tried = some_inputs(x, integers=True)
    outputs = _outputs(predict, tried)
    alone = np.concatenate([_outputs(predict, row[None]) for row in tried])
    if not np.allclose(outputs, alone, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError(
            "predict must give each input its own output, the same at each call, got "
            f"{outputs[0]} in a batch and {alone[0]} alone for x[0]"
        )
    shape = tried.shape[1:]
    if explainer is None:
        if baseline is None:
            baseline = as_array(x).astype(float).mean(axis=0)
        explainer = _occluding(tuple(np.ravel(np.asarray(baseline, float)).tolist()))
    program = BlackBox(predict, shape, outputs.shape[1])
    options = {"shape": shape, "differentiable": False, **options}
    return subject(program, (), explainer=explainer, **options)


@dataclasses.dataclass(frozen=True)
class BlackBox:
    """`apply(params, x) -> [C]` of one input by a call of the host.

    Attributes:
      predict: `predict(x [m, ...]) -> [m, C] or [m]` of NumPy arrays.
      shape: of one input.
      num_outputs: C.
    """

    predict: Callable[[np.ndarray], Any]
    shape: tuple[int, ...]
    num_outputs: int

    def __call__(self, params: Any, x: Array, /) -> Array:
        del params
        if x.shape != self.shape:
            raise ValueError(f"x must have shape {self.shape}, got {x.shape}")
        return _predicted(self, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _predicted(box: BlackBox, x: Array) -> Array:
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32

    def call(x):
        x = np.asarray(x)
        rows = x.reshape(-1, *box.shape)
        outputs = _outputs(box.predict, rows)
        leading = x.shape[: x.ndim - len(box.shape)]
        return outputs.reshape(*leading, box.num_outputs).astype(dtype)

    out = jax.ShapeDtypeStruct((box.num_outputs,), dtype)
    return jax.pure_callback(call, out, x, vmap_method="expand_dims")


@_predicted.defjvp
def _refuse(box, primals, tangents):
    raise ValueError(
        "a black box has no gradients: explain it by saliency.occlusion, attack it by "
        "'random' or 'strongest', which searches at random; a model with gradients is "
        "for the other functions of r2et_jax.adapters"
    )


def _outputs(predict: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Its outputs as floats [m, C]."""
    try:
        outputs = np.asarray(predict(x))
    except Exception as error:
        raise ValueError(
            f"predict does not take inputs of shape {x.shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if outputs.ndim not in (1, 2) or len(outputs) != len(x) or not outputs.size:
        raise ValueError(
            f"predict must return [m, C] or [m] for m = {len(x)} inputs, got shape "
            f"{outputs.shape}"
        )
    if outputs.dtype.kind not in "biuf":
        raise ValueError(
            f"predict must return numbers, got dtype {outputs.dtype}: of labels take "
            "the probabilities"
        )
    return outputs.reshape(len(x), -1).astype(float)


@functools.lru_cache
def _occluding(baseline: tuple[float, ...]):
    """One factory for each baseline, by which compiled programs are found again."""
    value = baseline[0] if len(baseline) == 1 else baseline
    return functools.partial(saliency.occlusion, baseline=value)
