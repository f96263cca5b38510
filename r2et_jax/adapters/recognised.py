"""One entry for models of all libraries."""

from __future__ import annotations

from typing import Any

from r2et_jax.adapters.equinox_module import equinox
from r2et_jax.adapters.estimator import sklearn
from r2et_jax.adapters.flax_linen import linen
from r2et_jax.adapters.flax_nnx import nnx
from r2et_jax.adapters.keras_model import keras
from r2et_jax.adapters.program import some_inputs
from r2et_jax.adapters.torch_module import torch
from r2et_jax.checks import adapter_of, check_no_module
from r2et_jax.subject import Subject
from r2et_jax.subject import subject as plain_subject

_ADAPTERS = {
    "equinox": equinox,
    "keras": keras,
    "linen": linen,
    "nnx": nnx,
    "sklearn": sklearn,
    "torch": torch,
}


def subject(model: Any, *given: Any, **options: Any) -> Subject:
    """A model of any library as a subject, by the adapter of its kind.

    The kind is recognised by the classes that the model derives from.

    Args:
      model: a module of Flax Linen, NNX, Equinox, Keras 3 or PyTorch, a scikit-learn
        estimator, or a function `apply(params, x)` of one input.
      *given: some inputs x [m, ...], on which the model is tried; before them, of a
        Linen module its variables, and of a function its parameters.
      **options: of the adapter, and of `r2et_jax.subject`.

    Returns:
      `Subject`.

    Raises:
      ValueError: for no model, a class, or another number of arguments, and what the
        adapter raises.

    Example:
      >>> import numpy as np
      >>> from sklearn.linear_model import LinearRegression
      >>> x = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 1.0]])
      >>> subject(LinearRegression().fit(x, [0.0, 1.0, 1.0]), x).shape
      (2,)
    """
    kind = adapter_of(model)
    if kind is None:
        if not callable(model) or isinstance(model, type):
            check_no_module("model", model)
            raise ValueError(
                "model must be a module, an estimator or a function, got a "
                f"{type(model).__name__}"
            )
        if len(given) not in (1, 2):
            raise ValueError(
                "a function is given as subject(apply, params, x), got "
                f"{len(given)} arguments after it; one of NumPy arrays is for "
                "adapters.black_box"
            )
        if len(given) == 2:
            tried = some_inputs(given[1], integers=True)
            options.setdefault("shape", tried.shape[1:])
        return plain_subject(model, given[0], **options)
    least = int(kind == "linen")
    if not least <= len(given) <= least + 1:
        expected = "(module, variables, x)" if least else "(model, x)"
        raise ValueError(
            f"a {type(model).__name__} is given as subject{expected}, got {len(given)} "
            "arguments after it"
        )
    return _ADAPTERS[kind](model, *given, **options)
