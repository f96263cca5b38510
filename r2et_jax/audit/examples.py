"""The training, validation and test part of what a user gives to `harden`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.audit.layout import Layout, as_rows
from r2et_jax.datasets import Dataset
from r2et_jax.datasets.splitting import equal_rows, stratified_split

PARTS = ("train", "valid", "test")
_EXPECTED = (
    "data must be a datasets.Dataset, a pair (x, y) of arrays, which is split, or a "
    "mapping of train, valid and test to such pairs"
)


class Part(NamedTuple):
    """Some examples.

    Attributes:
      given: inputs [m, ...] in their own shape, an array or a pytree of arrays.
      x: the same in rows [m, n].
      y: labels [m], integers.
    """

    given: Any
    x: np.ndarray
    y: np.ndarray

    def first(self, count: int | None) -> Part:
        """The first examples, or all of them."""
        return jax.tree.map(lambda leaf: leaf[:count], self)

    @property
    def sha256(self) -> str:
        """Of the inputs and the labels."""
        digest = hashlib.sha256()
        for array in (self.x, self.y):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class Examples(NamedTuple):
    """The three parts, and how one input is laid out in a row."""

    train: Part
    valid: Part
    test: Part
    layout: Layout
    names: tuple[str, ...] | None


def examples(data: Any, channel_axis: int | str | None) -> Examples:
    """The parts of a `Dataset`, of given parts, or of arrays that are split here.

    Raises:
      ValueError: for anything else, labels that are no integers or not as many as the
        inputs, and inputs of several shapes.
    """
    names = data.columns if isinstance(data, Dataset) else None
    if isinstance(data, Dataset):
        parts = {name: tuple(getattr(data, name)) for name in PARTS}
    elif isinstance(data, Mapping):
        if set(data) != set(PARTS):
            raise ValueError(f"{_EXPECTED}, got a mapping of {sorted(map(str, data))}")
        parts = {name: data[name] for name in PARTS}
    elif type(data) is tuple and len(data) == 2:
        parts = _split(*data, channel_axis)
    else:
        raise ValueError(f"{_EXPECTED}, got a {type(data).__name__}")
    made, layouts = {}, {}
    for name, part in parts.items():
        if not isinstance(part, tuple | list) or len(part) != 2:
            raise ValueError(f"{_EXPECTED}, got {name} = a {type(part).__name__}")
        layouts[name], made[name] = _part(name, *part, channel_axis)
    labels = np.unique(made["train"].y)
    if len(labels) < 2:
        raise ValueError(
            "data must hold training examples of at least two classes, got "
            f"{labels.tolist()} alone"
        )
    layout = layouts["train"]
    for name, other in layouts.items():
        if other != layout:
            raise ValueError(
                f"{name} must hold inputs as train does, of shape {layout.shapes}, got "
                f"{other.shapes}"
            )
    return Examples(*(made[name] for name in PARTS), layout, names)


def _part(name, x, y, channel_axis) -> tuple[Layout, Part]:
    try:
        layout, rows = as_rows(x, channel_axis)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    y = np.asarray(y)
    if y.shape != (len(rows),) or y.dtype.kind not in "iub":
        raise ValueError(
            f"{name}: y must be {len(rows)} class indices, integers [m], got "
            f"{y.dtype} of shape {y.shape}"
        )
    x = jax.tree.map(np.asarray, x) if isinstance(x, dict | tuple) else np.asarray(x)
    return layout, Part(x, rows, y.astype(np.int32))


def _split(x, y, channel_axis) -> dict[str, tuple[Any, np.ndarray]]:
    """70, 15 and 15 % of the examples; equal inputs stay in one part."""
    _, part = _part("data", x, y, channel_axis)
    rows = stratified_split(part.y, groups=equal_rows(part.x))
    return {
        name: (jax.tree.map(lambda leaf, at=at: leaf[at], part.given), part.y[at])
        for name, at in zip(PARTS, rows, strict=True)
    }
