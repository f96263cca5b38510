"""Modules as plain data and back, so that a stored model says what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from r2et_jax.checks import check_in
from r2et_jax.models.cnn import CNN
from r2et_jax.models.gcn import GCN
from r2et_jax.models.mlp import MLP, Linear, SkipMLP
from r2et_jax.models.resnet import ResNet9
from r2et_jax.models.siamese import Siamese

Description = dict[str, Any]

# A module that is to be stored and found again goes in here.
MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model
    for model in (CNN, GCN, MLP, Linear, ResNet9, Siamese, SkipMLP)
}

_CLASS = "class"
_INTERNAL = ("parent", "name")  # fields that Flax adds to every module


def describe(module: nn.Module) -> Description:
    """The class and all attributes of a module, as JSON.

    A module among the attributes becomes a description of its own.

    Args:
      module: of a class in `MODELS`.

    Returns:
      Its description: JSON, with the name of the class under "class".

    Raises:
      ValueError: for a class outside `MODELS`, and for an attribute that is no number,
        text, module or sequence of them.

    Example:
      >>> describe(Linear(num_outputs=3))
      {'class': 'Linear', 'num_outputs': 3}
    """
    name = type(module).__name__
    check_in("model", name, MODELS)
    if type(module) is not MODELS[name]:
        raise ValueError(f"{type(module)} is not the model {name!r}, {MODELS[name]}")
    return {_CLASS: name} | {
        field: _plain(getattr(module, field), f"{name}.{field}")
        for field in _attributes(MODELS[name])
    }


def build(description: Description) -> nn.Module:
    """The module that a description was made of.

    An attribute that it leaves out has its default.

    Args:
      description: as `describe` gives it.

    Returns:
      The Flax module.

    Raises:
      ValueError: for a description without a class, an unknown class or attribute, or
        one without an attribute that has no default.

    Example:
      >>> build({"class": "MLP", "hidden": [8, 8], "activation": "tanh"}).hidden
      (8, 8)
    """
    if not isinstance(description, Mapping) or _CLASS not in description:
        raise ValueError(
            f"the description of a model needs an entry {_CLASS!r}, got {description!r}"
        )
    name = description[_CLASS]
    check_in("model", name, MODELS)
    given = {key: value for key, value in description.items() if key != _CLASS}
    for key in given:
        check_in(f"attribute of {name}", key, _attributes(MODELS[name]))
    try:
        return MODELS[name](**{key: _rich(value) for key, value in given.items()})
    except TypeError as error:
        raise ValueError(f"cannot build {name} from {given}: {error}") from error


def _attributes(model: type[nn.Module]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(model)
        if field.init and field.name not in _INTERNAL
    ]


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{where} must be a number, text, a module or a sequence of them, got {value!r}"
    )


def _rich(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value)
    # Tuples, for modules to be hashable.
    return tuple(map(_rich, value)) if isinstance(value, list | tuple) else value
