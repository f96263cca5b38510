"""Keras 3 models on the JAX backend, with running averages and without dropout."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from r2et_jax.adapters.program import Fixed, Program, examined, some_inputs
from r2et_jax.checks import check_adapter
from r2et_jax.subject import Subject
from r2et_jax.types import Array

# Last activations, which say what the outputs are.
_PROBABILITIES = ("sigmoid", "softmax")


def keras(model: Any, x: Array | None = None, **options: Any) -> Subject:
    """A Keras 3 model on the JAX backend as a subject, by its `stateless_call`.

    The trainable variables are the parameters; all else is fixed. Where the last layer
    is a sigmoid or a softmax, the outputs are taken as probabilities.

    Args:
      model: a model of one input and one output, with weights.
      x, **options: as in `adapters.linen`.

    Returns:
      `Subject`.

    Raises:
      ValueError: for another model or a class, another backend, a model without weights
        yet, or an input that the model does not take to [C].

    Example:
      >>> import r2et_jax as r2
      >>> examined = r2.adapters.keras(model, x)  # doctest: +SKIP
      >>> maps = r2.explain(examined, x)  # doctest: +SKIP
    """
    check_adapter("keras", model)
    import keras as library

    backend = getattr(library.backend, "backend", lambda: "tensorflow")()
    if backend != "jax":
        raise ValueError(
            f"adapters.keras takes models on the JAX backend, got one on {backend!r}: "
            "set os.environ['KERAS_BACKEND'] = 'jax' before keras is imported, and "
            "load the model again"
        )
    if not model.built:
        raise ValueError(
            "the Keras model has no weights yet: call it on inputs first, or build it"
        )
    last = _last_activation(model)
    if last in _PROBABILITIES:
        options.setdefault("output", "probabilities")
    params, fixed = (
        [jnp.asarray(variable.value) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    program = Program(_predict, model, Fixed(fixed), True)

    def original(x):
        return np.asarray(model(x, training=False))

    x = None if x is None else some_inputs(x)
    return examined(program, params, x, original, **options)


def _last_activation(model: Any) -> str | None:
    layers = getattr(model, "layers", None)
    activation = getattr(layers[-1], "activation", None) if layers else None
    return getattr(activation, "__name__", None)


def _predict(model, fixed, params, inputs):
    return model.stateless_call(params, fixed, inputs, training=False)[0]
