"""The training, validation and test part of what a user gives to `harden`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.audit.layout import Layout, as_rows, is_tree
from r2et_jax.checks import as_array
from r2et_jax.datasets import Dataset
from r2et_jax.datasets.splitting import equal_rows, stratified_split

PARTS = ("train", "valid", "test")
_EXPECTED = (
    "data must be a datasets.Dataset, a pair (x, y) of arrays, batches of such pairs, "
    "as of a DataLoader, or a mapping of train, and where they are there valid and "
    "test, to any of the latter two"
)
# What an iterable of batches may hold: more is endless, or does not fit into memory.
_MOST_BATCHES, _MOST_BYTES = 2**18, 2**32


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
        return self.at(slice(count))

    def at(self, rows: Any) -> Part:
        """The examples at some indices."""
        return jax.tree.map(lambda leaf: leaf[rows], self)

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
    """The parts of a `Dataset`, of given parts, or of examples that are split here.

    Raises:
      ValueError: for anything else, labels that are no integers or not as many as the
        inputs, inputs of several shapes, batches without an end.
    """
    names = data.columns if isinstance(data, Dataset) else None
    if isinstance(data, Dataset):
        given = {name: tuple(getattr(data, name)) for name in PARTS}
    elif isinstance(data, Mapping):
        if not {"train"} <= set(data) <= set(PARTS):
            raise ValueError(f"{_EXPECTED}, got a mapping of {sorted(map(str, data))}")
        given = data
    else:
        given = {"data": data}
    made = {name: _part(name, part, channel_axis) for name, part in given.items()}
    layout, train = made.pop("data" if "data" in made else "train")
    parts = {"train": train}
    for name, (other, part) in made.items():
        if other != layout:
            raise ValueError(
                f"{name} must hold inputs as train does, of shape {layout.shapes}, got "
                f"{other.shapes}"
            )
        parts[name] = part
    parts |= _split(train, [name for name in PARTS if name not in parts])
    labels = np.unique(parts["train"].y)
    if len(labels) < 2:
        raise ValueError(
            "data must hold training examples of at least two classes, got "
            f"{labels.tolist()} alone"
        )
    return Examples(*(parts[name] for name in PARTS), layout, names)


def _split(part: Part, absent: list[str]) -> dict[str, Part]:
    """15 % of the examples for each absent part; equal inputs stay in one part."""
    if not absent:
        return {}
    rows = stratified_split(part.y, groups=equal_rows(part.x))
    rows = dict(zip(PARTS, rows, strict=True))
    back = [rows[name] for name in PARTS if name not in absent]
    rows["train"] = np.concatenate(back)
    return {name: part.at(rows[name]) for name in ("train", *absent)}


def _part(name: str, part: Any, channel_axis) -> tuple[Layout, Part]:
    if _is_pair(part):
        return _pair(name, *part, channel_axis)
    batches = part
    if inspect.isfunction(part) or inspect.ismethod(part):
        if inspect.signature(part).parameters:
            raise ValueError(
                f"{name} must be batches, or a function of no arguments that returns "
                f"them, got {part!r}"
            )
        batches = part()
    if hasattr(batches, "shape") or isinstance(batches, str | bytes | Mapping):
        raise ValueError(f"{_EXPECTED}, got {name} = a {type(part).__name__}")
    return _gathered(name, _in_turn(name, batches), channel_axis)


def _is_pair(part: Any) -> bool:
    """Whether it is (x, y), and no list of two batches that are pairs themselves."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        return False
    return not all(
        isinstance(entry, tuple | list) and len(entry) == 2 and np.ndim(entry[1])
        for entry in part
    )


def _in_turn(name: str, batches: Any) -> Iterator[Any]:
    if isinstance(batches, Iterable):
        return iter(batches)
    # As Keras's datasets and torch's, which need not end where one goes on.
    if hasattr(batches, "__getitem__") and hasattr(batches, "__len__"):
        return map(batches.__getitem__, range(len(batches)))
    raise ValueError(f"{_EXPECTED}, got {name} = a {type(batches).__name__}")


def _gathered(name: str, batches: Iterator[Any], channel_axis) -> tuple[Layout, Part]:
    """All examples of batches, in an order that does not hang on that of the batches.

    So a loader that shuffles gives the same search again, which goes on after a kill.
    """
    parts, layout, size = [], None, 0
    for i, batch in enumerate(batches):
        where = f"{name}, batch {i}"
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = type(batch).__name__
            kind += f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise ValueError(
                f"{where} must be a pair (x, y), got a {kind}: give "
                "((inputs, labels) for … in loader)"
            )
        if np.ndim(batch[1]) == 0:
            raise ValueError(
                f"{where} must hold inputs [m, ...] and labels [m], got one label: of "
                "single examples make batches, as by a DataLoader"
            )
        its_layout, part = _pair(where, *batch, channel_axis)
        if layout is not None and its_layout != layout:
            raise ValueError(
                f"{where} must hold inputs as batch 0 does, of shape {layout.shapes}, "
                f"got {its_layout.shapes}"
            )
        layout, size = its_layout, size + 2 * part.x.nbytes
        parts.append(part)
        if size > _MOST_BYTES or i >= _MOST_BATCHES:
            raise ValueError(
                f"{name} must end and fit into memory, got {i + 1} batches, "
                f"{size / 2**30:.2g} GiB, and more: take some of it, as "
                "itertools.islice does"
            )
    if not parts:
        raise ValueError(
            f"{name} must hold at least one batch (x, y), got none: an iterator that "
            "was used up before?"
        )
    part = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    rows = np.concatenate([part.x, part.y[:, None]], axis=1, dtype=part.x.dtype)
    order = np.argsort(rows.view(np.dtype((np.void, rows.strides[0])))[:, 0])
    # Not sorted, since the first ones stand for all.
    return layout, part.at(np.random.default_rng(0).permutation(order))


def _pair(name: str, x: Any, y: Any, channel_axis) -> tuple[Layout, Part]:
    try:
        layout, rows = as_rows(x, channel_axis)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    y = as_array(y)
    if y.shape != (len(rows),) or y.dtype.kind not in "iub":
        raise ValueError(
            f"{name}: y must be {len(rows)} class indices, integers [m], got "
            f"{y.dtype} of shape {y.shape}"
        )
    x = jax.tree.map(as_array, x) if is_tree(x) else as_array(x)
    return layout, Part(x, rows, y.astype(np.int32))
