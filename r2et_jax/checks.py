"""Checks of static arguments, shared by every floor of the library."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_array(x: Any) -> np.ndarray:
    """What others hand over as arrays, as one of NumPy.

    Also a tensor of torch that takes part in a gradient or holds bfloat16, and an array
    of objects that are numbers all, as of a frame of floats and truth values.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    array = np.asarray(x)
    plain = int | float | np.integer | np.floating | np.bool_
    if array.dtype == object and all(isinstance(cell, plain) for cell in array.flat):
        return array.astype(float)
    return array


def check_k(k: int, num_features: int) -> None:
    """Raise unless k is an integer in 1…n−1, so that a border between ranks exists."""
    if not is_integer(k):
        raise ValueError(f"k must be an integer, got {k!r} of type {type(k).__name__}")
    if not 1 <= k <= num_features - 1:
        raise ValueError(
            f"k must lie in 1…n−1 = 1…{num_features - 1} for n = {num_features} "
            f"features, got k = {k}"
        )


def check_positive(name: str, value: float) -> None:
    """Raise unless value is a finite number above zero; a traced one is let pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if not (_is_finite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_nonnegative(name: str, value: float) -> None:
    """Raise unless value is a finite number of at least zero."""
    if not (_is_finite(value) and value >= 0):
        raise ValueError(f"{name} must be nonnegative and finite, got {value!r}")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value) and not isinstance(value, bool | np.bool_)
    except TypeError:  # a text, None, an array of several numbers
        return False


def check_count(name: str, value: int, *, minimum: int = 1) -> None:
    """Raise unless value is an integer of at least `minimum`."""
    if not is_integer(value) or value < minimum:
        raise ValueError(
            f"{name} must be an integer of at least {minimum}, got {value!r}"
        )


def is_integer(value: Any) -> bool:
    """Whether value is one integer of Python, NumPy or JAX, and no truth value."""
    try:
        operator.index(value)
    except TypeError:  # an array of several has `__index__`, too
        return False
    return not isinstance(value, bool)


def as_path(name: str, path: Any) -> Path:
    """The path that a text or a path is; a ValueError for anything else."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name} must be a path, got {_described(path)}")
    return Path(path)


def as_folder(name: str, path: Any) -> Path:
    """The path of a folder that is there or may be made."""
    folder = as_path(name, path)
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ValueError(f"{name} must be a folder, got the file {part}")
    return folder


def check_in(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise unless value is one of `known`, which the message lists."""
    # An array is in nothing, and would not say so.
    if not isinstance(value, Hashable) or value not in known:
        names = ", ".join(sorted(str(item) for item in known))
        raise ValueError(f"unknown {name} {value!r}; known: {names}")


def check_key(key: Any) -> None:
    """Raise unless key is one key of `jax.random`."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        single = key.shape == ()
    else:  # the raw form of older programs
        single = dtype == np.uint32 and key.shape == (2,)
    if not single:
        raise ValueError(f"key must be one key, such as jax.random.key(0), got {key!r}")


def feature_indices(
    name: str, features: Any, num_features: int | None = None
) -> tuple[int, ...]:
    """Indices of features, from a sequence of them or from a boolean mask [n].

    Args:
      name: of the argument, for messages.
      features: indices in 0…n−1, none twice, or a mask [n].
      num_features: n, or None where it is not known.

    Returns:
      The indices as Python integers, in the order given.

    Raises:
      ValueError: for anything else: names, fractions, a mask of another length, a mask
        of zeros and ones that is not boolean and so repeats an index.

    Example:
      >>> feature_indices("frozen", [False, True, True])
      (1, 2)
    """
    expected = f"{name} must be indices of features or a boolean mask [n]"
    if hasattr(features, "dtype"):
        features = np.asarray(features).tolist()
    if isinstance(features, str) or not isinstance(features, Iterable):
        raise ValueError(f"{expected}, got {features!r}")
    items = list(features)
    if is_mask(items):
        if num_features not in (None, len(items)):
            raise ValueError(
                f"{expected} with n = {num_features}, got a mask of {len(items)}"
            )
        return tuple(i for i, item in enumerate(items) if item)
    for item in items:
        if isinstance(item, str):
            raise ValueError(
                f"{expected}, got the name {item!r}: give its index, as "
                f"columns.index({item!r}) of a list of all names"
            )
        if is_mask([item]) or not hasattr(item, "__index__"):
            raise ValueError(f"{expected}, got {item!r} among them")
    indices = tuple(int(item) for item in items)
    last = "n−1" if num_features is None else num_features - 1
    beyond = math.inf if num_features is None else num_features
    wrong = sorted({i for i in indices if not 0 <= i < beyond})
    if wrong:
        raise ValueError(f"{name}: feature indices must lie in 0…{last}, got {wrong}")
    twice = sorted({i for i in indices if indices.count(i) > 1})
    if twice:
        raise ValueError(f"{expected}, got {twice[0]} twice; a mask must be boolean")
    return indices


def is_mask(features: Any) -> bool:
    """Whether these are truth values alone, and at least one: a mask [n]."""
    if hasattr(features, "dtype"):
        return features.dtype == bool and features.ndim == 1
    if isinstance(features, str) or not isinstance(features, Collection):
        return False
    kinds = bool, np.bool_
    return len(features) > 0 and all(isinstance(item, kinds) for item in features)


def check_ndim(name: str, array: Any, ndim: int) -> None:
    """Raise unless the array has the given number of axes."""
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} axes for one example, got shape {array.shape}; "
            "batch with jax.vmap"
        )


def check_same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
    """Raise unless both arrays have the same shape."""
    if array.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} must have the same shape, got {array.shape} and "
            f"{other.shape}"
        )


# Library -> the class that its models derive from, and the adapter that takes them.
_LIBRARIES = {
    "flax.linen": ("Module", "linen"),
    "flax.nnx": ("Module", "nnx"),
    "equinox": ("Module", "equinox"),
    "keras": ("Layer", "keras"),
    "torch": ("Module", "torch"),
    "sklearn": ("BaseEstimator", "sklearn"),
}


def adapter_of(model: Any) -> str | None:
    """Name of the adapter for a model object of another library, or None.

    It is recognised by the classes that it derives from; no library is imported.
    """
    library = _library_of(model)
    return None if library is None else _LIBRARIES[library][1]


def _library_of(model: Any) -> str | None:
    for cls in type(model).__mro__:
        for library, (base, _) in _LIBRARIES.items():
            if cls.__name__ == base and f"{cls.__module__}.".startswith(f"{library}."):
                return library
    return None


def check_model(apply: Any, params: Any, x: Any) -> int:
    """Raise unless `apply(params, x)` takes one input x to logits [C]; runs nothing.

    Returns:
      C.
    """
    check_no_module("params", params)
    if not callable(apply):
        check_no_module("apply", apply)
        raise ValueError(
            "apply must be a function, apply(params, x) -> logits [C], got "
            f"{_described(apply)}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _is_numeric(leaf):
            raise ValueError(
                "params must be a pytree of arrays, got "
                f"{_described(leaf)} at params{jax.tree_util.keystr(path)}"
            )
    logits = shape_of_outputs(apply, params, x)
    if isinstance(logits, tuple):  # (logits, updates) of a mutable apply
        check_no_batch_statistics(params)
    if getattr(logits, "ndim", None) != 1 or logits.shape[0] < 1:
        raise ValueError(
            "apply must take one input to logits of shape [C], got "
            f"{getattr(logits, 'shape', type(logits).__name__)} for an input of shape "
            f"{x.shape}"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"apply must return logits, which are floats, got dtype {logits.dtype}"
        )
    return logits.shape[0]


def shape_of_outputs(apply: Any, params: Any, x: Any) -> Any:
    """What `apply(params, x)` returns, abstractly; a ValueError where it raises."""
    try:
        return jax.eval_shape(apply, params, x)
    except Exception as error:
        check_no_module("apply", apply)
        check_no_module("params", params)
        check_no_batch_statistics(params)
        shapes = jax.tree.map(jnp.shape, x)
        message = f"the model does not take an input of shape {shapes}: {error}"
        if isinstance(error, KeyError) or params is None:
            message += f"; its params are a {type(params).__name__}"
            if isinstance(params, dict):
                message += f" of {sorted(map(str, params))}"
        if isinstance(error, jax.errors.TracerBoolConversionError):
            message = (
                "the model must not branch on the values of an input, as `if` does: "
                "take jax.numpy.where or jax.lax.cond, or r2et_jax.adapters.black_box("
                "predict, x)"
            )
        if isinstance(error, jax.errors.TracerArrayConversionError):
            first = str(error).partition("\n")[0]
            message = (
                "the model must be a function of JAX, which hands no numbers to NumPy "
                "or another library: take jax.numpy, or r2et_jax.adapters.black_box("
                f"predict, x) for a function of NumPy arrays; {first}"
            )
        raise ValueError(message) from error


def check_key_bound(explain: Any) -> None:
    """Raise for an explanation that draws and has no key yet."""
    try:
        key = inspect.signature(explain).parameters.get("key")
    except (TypeError, ValueError):  # of a callable that tells nothing
        return
    if key is not None and key.default is key.empty:
        raise ValueError(
            "explainer must have its key bound where it draws: give a factory that "
            "fixes it, such as lambda score, **options: functools.partial(explainer("
            "score, **options), key=key)"
        )


def check_no_module(name: str, value: Any) -> None:
    """Raise for a model object of a library whose parameters stand inside of it."""
    if isinstance(value, type):
        raise ValueError(
            f"{name} must not be a class, got {value.__name__} itself: make an "
            f"instance of it, {value.__name__}(...)"
        )
    library = _library_of(value)
    if library is None:
        return
    adapter = _LIBRARIES[library][1]
    instead = f"r2et_jax.adapters.{adapter}(model), which makes a subject of it"
    if adapter == "linen":
        instead = "apply = model.apply and params = model.init(key, x)"
    raise ValueError(
        f"{name} must not be a module, got a {type(value).__name__} of {library}: "
        f"pass {instead}"
    )


def check_adapter(adapter: str, model: Any) -> None:
    """Raise unless model is an object of the library that the adapter is for."""
    bases = {of: (base, library) for library, (base, of) in _LIBRARIES.items()}
    base, library = bases[adapter]
    if isinstance(model, type):
        check_no_module(f"the model of adapters.{adapter}", model)
    actual = adapter_of(model)
    if actual == adapter:
        return
    instead = ""
    if actual is not None:
        instead = f": it is for r2et_jax.adapters.{actual}"
    elif callable(model):
        instead = (
            ": a function apply(params, x) is for r2et_jax.subject, one of NumPy "
            "arrays for r2et_jax.adapters.black_box"
        )
    raise ValueError(
        f"adapters.{adapter} takes a {base} of {library}, got a "
        f"{type(model).__name__} of {type(model).__module__}{instead}"
    )


def is_linen(model: Any) -> bool:
    """Whether model is a Flax Linen module, which has `init` and `apply`."""
    return adapter_of(model) == "linen"


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | float | complex):
        return True
    dtype = getattr(leaf, "dtype", None)
    return (
        dtype is not None
        and dtype != np.dtype(object)
        and not isinstance(dtype, np.dtypes.StrDType)
    )


def _described(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def check_class(name: str, value: Any, num_classes: int) -> None:
    """Raise unless value is one class index; a traced one may be out of range."""
    shape = getattr(value, "shape", None)
    if shape is None:
        shape = np.shape(value)
    if shape != ():
        raise ValueError(
            f"{name} must be one class index in 0…{num_classes - 1}, got shape "
            f"{shape}; of a one-hot row take the argmax, and batch with jax.vmap"
        )
    dtype = np.dtype(value.dtype if hasattr(value, "dtype") else type(value))
    if dtype.kind not in "iub":
        raise ValueError(
            f"{name} must be an integer, one class index in 0…{num_classes - 1}, got "
            f"{value if isinstance(value, jax.core.Tracer) else repr(value)} of dtype "
            f"{dtype}"
        )
    if isinstance(value, jax.core.Tracer):
        return
    if not 0 <= int(value) < num_classes:
        raise ValueError(
            f"{name} must be a class index in 0…{num_classes - 1}, got {int(value)}"
        )


def check_no_batch_statistics(params: Any) -> None:
    """Raise for a dict of Flax variables that holds statistics beside parameters."""
    if isinstance(params, Mapping) and {"params", "batch_stats"} <= set(params):
        raise ValueError(
            "params must hold parameters alone, got Flax variables with batch_stats: "
            "r2et_jax.adapters.linen(model, variables, x) makes a subject that uses "
            "the running averages, or bind them, apply = lambda params, x: "
            "model.apply({'params': params, 'batch_stats': variables['batch_stats']}, "
            "x, train=False), and pass variables['params']"
        )


def check_labels(name: str, labels: Any, num_examples: int, num_classes: int) -> None:
    """Raise unless labels are one class index for each example; see `check_class`."""
    known = not isinstance(labels, jax.core.Tracer)
    if known:
        labels = np.asarray(labels)
    expected = f"{name} must be {num_examples} class indices in 0…{num_classes - 1}"
    if labels.shape != (num_examples,):
        hint = "; of one-hot rows take the argmax" if labels.ndim == 2 else ""
        raise ValueError(f"{expected}, got shape {labels.shape}{hint}")
    if np.dtype(labels.dtype).kind not in "iub":
        raise ValueError(f"{expected}, integers, got dtype {labels.dtype}")
    if known:
        wrong = np.unique(labels[(labels < 0) | (labels >= num_classes)])
        if wrong.size:
            raise ValueError(f"{expected}, got {wrong[:5].tolist()}")


def check_finite(name: str, array: Any) -> None:
    """Raise for rows [m, ...] with NaN or an infinity; traced ones are let pass."""
    if isinstance(array, jax.core.Tracer) or not jnp.issubdtype(
        array.dtype, jnp.inexact
    ):
        return
    finite = jnp.isfinite if isinstance(array, jax.Array) else np.isfinite
    if bool(finite(array).all()):
        return
    rows = ~np.isfinite(np.asarray(array)).reshape(len(array), -1).all(axis=1)
    raise ValueError(
        f"{name} must be finite, got NaN or infinity in {rows.sum()} of {len(rows)} "
        f"rows, the first of them {np.flatnonzero(rows)[0]}"
    )


def check_weights(name: str, weights: Any) -> None:
    """Raise unless weights are finite and at least 0; traced ones are let pass."""
    if isinstance(weights, jax.core.Tracer):
        return
    values = np.asarray(weights)
    if not np.all((values >= 0) & (values < np.inf)):
        raise ValueError(f"{name} must be finite and at least 0, got {values.tolist()}")
