"""A trained model in a folder: written in one call, and found again in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.tree_util import SequenceKey

from r2et_jax.checks import as_folder, as_path
from r2et_jax.models import registry
from r2et_jax.training.checkpoint import load_model, save_model
from r2et_jax.types import Params

__all__ = ["Saved", "load", "save"]

_ARCHITECTURE = "architecture"
# Of parameters in lists and tuples, which are kept as dicts: how they stood.
_FORM, _TREE = "params_form", "tree"


class Saved(NamedTuple):
    """A model as it was saved.

    Attributes:
      model: Flax module, `model.apply(params, x)` gives the logits; or the function
        `apply(params, x)`. `r2et_jax.subject(model, params)` takes both.
      params: its parameters, NumPy arrays.
      description: JSON object, with the module's class and attributes, or the function,
        under "architecture" and the SHA-256 of the parameters under "params_sha256".
    """

    model: nn.Module | Callable
    params: Params
    description: dict[str, Any]


def save(
    folder: str | os.PathLike[str],
    model: nn.Module | Callable,
    params: Params,
    description: dict[str, Any] | None = None,
) -> None:
    """Write a model; it appears whole or not at all.

    Args:
      folder: where to write; a model that is there already is replaced.
      model: one of `r2et_jax.models`, or a Flax module of your own, whose class stands
        at the top of a module; or a function `apply(params, x)` at the top of a
        module. Both are named by their import path.
      params: its parameters, arrays in nested dicts, lists and tuples, or an array.
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
    folder = as_folder("folder", folder)
    architecture = registry.describe(model)
    told = dict(description or {})
    if told.setdefault(_ARCHITECTURE, architecture) != architecture:
        raise ValueError(
            f"the description is of {told[_ARCHITECTURE]}, the model is {architecture}"
        )
    told.pop(_FORM, None)
    form = _form_of(params)
    if form is not None:
        params, told = {_TREE: _as_dicts(params)}, {**told, _FORM: form}
    save_model(folder, params, told)


def load(folder: str | os.PathLike[str]) -> Saved:
    """Read what `save` wrote.

    A class or function of your own is found by its import path, if that was imported
    before.

    Args:
      folder: where `save` wrote.

    Returns:
      `Saved`.

    Raises:
      FileNotFoundError: if the folder holds no saved model.
      ValueError: for a folder that is no path; if what is there cannot be read, is not
        what was written, or does not name its architecture.

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
    params, description = load_model(as_path("folder", folder))
    if _ARCHITECTURE not in description:
        raise ValueError(f"the model in {folder} does not name its architecture")
    try:
        model = registry.build(description[_ARCHITECTURE])
    # What Flax makes of attributes of another kind is its own.
    except Exception as error:
        raise ValueError(
            f"the architecture of the model in {folder}: {error}"
        ) from error
    form = description.pop(_FORM, None)
    if form is not None:
        try:
            params = _in_form(params[_TREE], form)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"the parameters of the model in {folder} do not stand as its "
                f"{_FORM} says: {form!r}"
            ) from error
    return Saved(model, params, description)


def _form_of(params: Params) -> Any:
    """How lists and tuples stand in the parameters, as JSON; None without any."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not any(
        not path or any(isinstance(entry, SequenceKey) for entry in path)
        for path in paths
    ):
        return None
    return _describe(params, "params")


def _describe(tree: Any, where: str) -> Any:
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise ValueError(f"keys of {where} must be texts, got {key!r}")
        return {key: _describe(tree[key], f"{where}[{key!r}]") for key in tree}
    if type(tree) in (list, tuple):
        parts = [_describe(part, f"{where}[{i}]") for i, part in enumerate(tree)]
        return [type(tree).__name__, *parts]
    if not jax.tree_util.all_leaves([tree]):
        raise ValueError(
            f"{where} must be an array, a dict, a list or a tuple to be saved, got a "
            f"{type(tree).__name__}"
        )
    return None


def _as_dicts(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _as_dicts(part) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return {str(i): _as_dicts(part) for i, part in enumerate(tree)}
    return tree


def _in_form(tree: Any, form: Any) -> Any:
    if form is None:
        return tree
    if isinstance(form, Mapping):
        return {key: _in_form(tree[key], part) for key, part in form.items()}
    kind = {"list": list, "tuple": tuple}[form[0]]
    return kind(_in_form(tree[str(i)], part) for i, part in enumerate(form[1:]))
