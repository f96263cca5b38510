"""A trained model in a folder: written in one call, and found again in one call."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import flax.linen as nn

from r2et_jax.models import registry
from r2et_jax.training.checkpoint import load_model, save_model
from r2et_jax.types import Params

__all__ = ["Saved", "load", "save"]

_ARCHITECTURE = "architecture"


class Saved(NamedTuple):
    """A model as it was saved.

    Attributes:
      model: Flax module; `model.apply(params, x)` gives the logits.
      params: its parameters, NumPy arrays.
      description: JSON object, with the module's class and attributes under
        "architecture" and the SHA-256 of the parameters under "params_sha256".
    """

    model: nn.Module
    params: Params
    description: dict[str, Any]


def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    params: Params,
    description: dict[str, Any] | None = None,
) -> None:
    """Write a model; it appears whole or not at all.

    Args:
      folder: where to write; a model that is there already is replaced.
      model: one of `r2et_jax.models`, or a Flax module of your own, whose class stands
        at the top of a module: it is named by its import path.
      params: its parameters, arrays in nested dicts.
      description: JSON object: configuration, choices, metrics.

    Raises:
      ValueError: for a model that cannot be described, parameters with NaN or
        infinities, a description of another architecture, or a folder whose
        description.json is damaged.

    Example:
      >>> import tempfile, jax, numpy as np
      >>> from r2et_jax.models import MLP
      >>> model = MLP(hidden=(4,))
      >>> params = model.init(jax.random.key(0), np.zeros(3))
      >>> folder = tempfile.mkdtemp()
      >>> save(folder, model, params, {"method": "vanilla"})
      >>> load(folder).description["method"]
      'vanilla'
    """
    architecture = registry.describe(model)
    told = (description or {}).get(_ARCHITECTURE, architecture)
    if told != architecture:
        raise ValueError(f"the description is of {told}, the model is {architecture}")
    save_model(folder, params, {**(description or {}), _ARCHITECTURE: architecture})


def load(folder: str | os.PathLike[str]) -> Saved:
    """Read what `save` wrote.

    A model of your own is found by its import path, if that was imported before.

    Args:
      folder: where `save` wrote.

    Returns:
      `Saved`.

    Raises:
      FileNotFoundError: if the folder holds no saved model.
      ValueError: if what is there cannot be read, is not what was written, or does not
        name its architecture.

    Example:
      >>> import tempfile, jax, numpy as np
      >>> from r2et_jax.models import MLP
      >>> model = MLP(hidden=(4,))
      >>> folder = tempfile.mkdtemp()
      >>> save(folder, model, model.init(jax.random.key(0), np.zeros(3)))
      >>> model, params, description = load(folder)
      >>> model.apply(params, np.ones(3)).shape
      (1,)
    """
    params, description = load_model(folder)
    if _ARCHITECTURE not in description:
        raise ValueError(f"the model in {folder} does not name its architecture")
    try:
        model = registry.build(description[_ARCHITECTURE])
    # What Flax makes of attributes of another kind is its own.
    except Exception as error:
        raise ValueError(
            f"the architecture of the model in {folder}: {error}"
        ) from error
    return Saved(model, params, description)
