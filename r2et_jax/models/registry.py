"""Modules as plain data and back, so that a stored model says what it is."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Mapping
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

_CLASS, _FUNCTION = "class", "function"
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_INTERNAL = ("parent", "name")  # fields that Flax adds to every module


def describe(module: nn.Module | Callable) -> Description:
    """The class and all attributes of a module, or a function's name, as JSON.

    A module among the attributes becomes a description of its own.

    Args:
      module: of a class in `MODELS`, or of one's own at the top of a module, which is
        named by its import path, "package.module:Net"; or a pure function
        `apply(params, x)` at the top of a module, by its import path.

    Returns:
      Its description: JSON, with the name of the class under "class", or of the
      function under "function".

    Raises:
      ValueError: for a class or function that is not found by its import path, and for
        an attribute that is no number, text, module or sequence of them.

    Example:
      >>> describe(Linear(num_outputs=3))
      {'class': 'Linear', 'num_outputs': 3}
    """
    if not isinstance(module, nn.Module):
        return {_FUNCTION: _path_of(module)}
    kind = type(module)
    name = kind.__name__
    if MODELS.get(name) is not kind:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _imported(name) is not kind:
            raise ValueError(
                f"{kind} is not found as {name}: expected one of {', '.join(MODELS)}, "
                "or a class at the top of a module that can be imported"
            )
    return {_CLASS: name} | {
        field: _plain(getattr(module, field), f"{kind.__name__}.{field}")
        for field in _attributes(kind)
    }


def build(description: Description) -> Any:
    """The module or function that a description was made of.

    An attribute that it leaves out has its default. A class or function of one's own
    must have been imported before: what a file names is not imported, as that would run
    it.

    Args:
      description: as `describe` gives it.

    Returns:
      The Flax module, or the function.

    Raises:
      ValueError: for a description without a class, an unknown class or attribute, a
        class or function that was not imported, or a class without an attribute that
        has no default.

    Example:
      >>> build({"class": "MLP", "hidden": [8, 8], "activation": "tanh"}).hidden
      (8, 8)
    """
    if isinstance(description, Mapping) and set(description) == {_FUNCTION}:
        return _function(description[_FUNCTION])
    if not isinstance(description, Mapping) or _CLASS not in description:
        raise ValueError(
            f"the description of a model needs an entry {_CLASS!r}, got {description!r}"
        )
    name = description[_CLASS]
    kind = _class(name)
    given = {key: value for key, value in description.items() if key != _CLASS}
    for key in given:
        check_in(f"attribute of {name}", key, _attributes(kind))
    try:
        return kind(**{key: _rich(value) for key, value in given.items()})
    except TypeError as error:
        raise ValueError(f"cannot build {name} from {given}: {error}") from error


def _path_of(function: Any) -> str:
    """Import path of a function `apply(params, x)`."""
    if not isinstance(function, types.FunctionType):
        raise ValueError(
            "a model that is saved must be a Flax Linen module or a function "
            f"apply(params, x) at the top of a module, got {function!r}"
        )
    name = f"{function.__module__}:{function.__qualname__}"
    if _at(name) is not function:
        raise ValueError(
            f"{function!r} is not found as {name}: a function that is saved must stand "
            "at the top of a module that can be imported, no lambda and no function "
            "inside of another one"
        )
    given = inspect.signature(function).parameters.values()
    needed = [p for p in given if p.default is p.empty and p.kind in _POSITIONAL]
    if len(needed) != 2:
        raise ValueError(f"a model that is saved must take (params, x), got {name}")
    return name


def _function(name: Any) -> Callable:
    function = _at(name) if isinstance(name, str) else None
    try:
        is_model = _path_of(function) == name
    except ValueError:
        is_model = False
    if not is_model:
        module = str(name).partition(":")[0]
        raise ValueError(
            f"the model is the function {name}, which is not there: import {module!r} "
            "first, and it must have that function apply(params, x)"
        )
    return function


def _class(name: Any) -> type[nn.Module]:
    if not isinstance(name, str) or ":" not in name:
        check_in("model", name, MODELS)
        return MODELS[name]
    module = _imported(name)
    if module is None:
        raise ValueError(
            f"the model is of the class {name}, which is not there: import "
            f"{name.partition(':')[0]!r} first, and it must have that Flax module"
        )
    return module


def _imported(name: str) -> type[nn.Module] | None:
    """The Flax module of an import path, where that is imported already."""
    value = _at(name)
    return value if isinstance(value, type) and issubclass(value, nn.Module) else None


def _at(name: str) -> Any:
    """What stands at an import path, where that is imported already, or None."""
    path, _, parts = name.partition(":")
    value: Any = sys.modules.get(path)
    for part in parts.split("."):
        value = getattr(value, part, None)
    return value


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
