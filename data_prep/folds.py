"""Graphs kept as pickled folds: {"train": {"X": [m, v²], "y": [m]}, "test": …}."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep import restricted_pickle
from data_prep.graph_table import GraphTable, class_numbers


def read(contents: Mapping[str, bytes]) -> GraphTable:
    """Pool the graphs of all folds and parts, copies included.

    Args:
      contents: pickles by file name, read as NumPy arrays and nothing else.

    Returns:
      A `GraphTable`; regions are named region_0, region_1, …

    Raises:
      ValueError: another layout, or a pickle that holds anything but arrays.
    """
    matrices, labels = [], []
    for file, content in contents.items():
        fold = restricted_pickle.loads(content, file)
        if not isinstance(fold, dict) or not {"train", "test"} <= set(fold):
            raise ValueError(
                f"{file}: expected a dict with the keys train and test, got "
                f"{_described(fold)}"
            )
        for part in ("train", "test"):
            x, y = _part(fold[part], f"{file}, {part}")
            matrices.append(x)
            labels.append(y)
    sizes = sorted({x.shape[1] for x in matrices})
    if len(sizes) > 1:
        raise ValueError(f"expected the same regions everywhere, got {sizes} regions")
    regions = tuple(f"region_{i}" for i in range(sizes[0]))
    return GraphTable(np.concatenate(matrices), np.concatenate(labels), regions)


def _part(part: Any, place: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for key in ("X", "y"):
        if not isinstance(part, dict) or not isinstance(part.get(key), np.ndarray):
            raise ValueError(
                f"{place}: expected a dict with the arrays X and y, got "
                f"{_described(part)}"
            )
        arrays.append(part[key])
    x, y = arrays
    v = math.isqrt(math.prod(x.shape[1:]))
    if x.ndim not in (2, 3) or x.shape[1:] not in ((v * v,), (v, v)) or v < 2:
        raise ValueError(f"{place}: X must have shape [m, v²], got {x.shape}")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise ValueError(f"{place}: X must hold real numbers, got {x.dtype}")
    y = y.reshape(-1)
    if y.shape[0] != x.shape[0]:
        raise ValueError(
            f"{place}: y must hold {x.shape[0]} integers, got {y.dtype} of shape "
            f"{y.shape}"
        )
    labels = class_numbers(y, f"{place}: y")
    return x.reshape(-1, v, v).astype(np.float64), labels


def _described(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(reprlib.repr(key).strip("'") for key in list(value)[:8])
        return f"a dict with the keys {keys or '(none)'}"
    return f"a {type(value).__name__}"
