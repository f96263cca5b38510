"""Top sets whose size differs from input to input, as of graphs of few edges.

Attacks and rankings take one k. Inputs of one size are therefore measured together, and
what was found of them is put back in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

# Fields of attacks' results whose last axis is that of the inputs, and those without.
_LAST = frozenset({"member_precision", "curve"})
_SHARED = frozenset({"curve_evaluations", "left_out"})


def by_size(sizes: np.ndarray, run: Callable[[int, Any], Any]) -> Any:
    """Measure the inputs of each size together.

    Args:
      sizes: k of every input [m].
      run: `run(k, rows)`, what is found of the inputs at these rows: an array or a
        tuple of arrays with them on the first axis, or the result of an attack.

    Returns:
      The same of all inputs; NumPy arrays where there is more than one size.
    """
    different = np.unique(sizes)
    if different.size == 1:
        return run(int(different[0]), slice(None))
    rows = [np.flatnonzero(sizes == k) for k in different]
    of_size = [run(int(k), at) for k, at in zip(different, rows, strict=True)]
    return _joined(of_size, np.argsort(np.concatenate(rows)))


def top_sets(maps: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Maps [m, n] without what is not in the top set of each: 0 there.

    Ties go to the lower index; what is not finite stays, for the map to be left out.
    """
    order = np.argsort(-maps, axis=1, kind="stable")
    places = np.arange(maps.shape[1])[None, :] < sizes[:, None]
    kept = np.zeros(maps.shape, bool)
    np.put_along_axis(kept, order, places, axis=1)
    return np.where(kept | ~np.isfinite(maps), maps, 0)


def _joined(of_size: Sequence[Any], back: np.ndarray) -> Any:
    first = of_size[0]
    if not isinstance(first, tuple):
        return np.concatenate([np.asarray(leaf) for leaf in of_size])[back]
    if not hasattr(first, "_fields"):
        return tuple(_joined(parts, back) for parts in zip(*of_size, strict=True))
    values = {}
    for name in first._fields:
        parts = [getattr(part, name) for part in of_size]
        if name in _SHARED or not jax.tree.leaves(parts[0]):
            values[name] = parts[0]
        elif name in _LAST:
            whole = np.concatenate([np.asarray(leaf) for leaf in parts], axis=-1)
            values[name] = whole[..., back]
        else:
            values[name] = _joined(parts, back)
    return type(first)(**values)
