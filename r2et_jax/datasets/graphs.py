"""Weighted graphs over fixed regions as vectors, one entry for each pair of regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from r2et_jax.checks import check_count


def edge_index(num_nodes: int) -> np.ndarray:
    """The two regions of each entry: [n, 2], n = v(v−1)/2, rows (i, j) with i < j.

    The order is that of `np.triu_indices(v, 1)`: (0, 1), (0, 2), …, (0, v−1), (1, 2), …

    Args:
      num_nodes: v, at least 2.

    Returns:
      Pairs of region indices [n, 2].

    Raises:
      ValueError: fewer than two regions.

    Example:
      >>> edge_index(3).tolist()
      [[0, 1], [0, 2], [1, 2]]
    """
    check_count("num_nodes", num_nodes, minimum=2)
    return np.stack(np.triu_indices(num_nodes, 1), axis=1)


def num_nodes_of(num_edges: int) -> int:
    """The number of regions v with v(v−1)/2 = num_edges; ValueError if there is none.

    Example:
      >>> num_nodes_of(4005)
      90
    """
    check_count("num_edges", num_edges)
    v = (1 + math.isqrt(1 + 8 * num_edges)) // 2
    if v * (v - 1) // 2 != num_edges:
        raise ValueError(
            f"expected v(v−1)/2 entries of an upper triangle, got {num_edges}: "
            f"{v} regions have {v * (v - 1) // 2}"
        )
    return v


def upper_triangle(adjacency: np.ndarray) -> np.ndarray:
    """The entries above the diagonal, in the order of `edge_index`.

    Args:
      adjacency: [..., v, v]; what stands on and below the diagonal is not read.

    Returns:
      Vectors [..., v(v−1)/2].

    Raises:
      ValueError: not square.

    Example:
      >>> upper_triangle(np.array([[1, 2, 3], [2, 1, 4], [3, 4, 1]])).tolist()
      [2, 3, 4]
    """
    if adjacency.ndim < 2 or adjacency.shape[-1] != adjacency.shape[-2]:
        raise ValueError(
            f"adjacency must have shape [..., v, v], got {adjacency.shape}"
        )
    rows, columns = np.triu_indices(adjacency.shape[-1], 1)
    return adjacency[..., rows, columns]


def symmetric(x: np.ndarray) -> np.ndarray:
    """The symmetric matrices with zero diagonal that have x above the diagonal.

    Args:
      x: vectors [..., v(v−1)/2] in the order of `edge_index`.

    Returns:
      Matrices [..., v, v], of the dtype of x.

    Raises:
      ValueError: a length that is no v(v−1)/2.

    Example:
      >>> symmetric(np.array([2, 3, 4])).tolist()
      [[0, 2, 3], [2, 0, 4], [3, 4, 0]]
    """
    v = num_nodes_of(x.shape[-1])
    rows, columns = np.triu_indices(v, 1)
    result = np.zeros((*x.shape[:-1], v, v), x.dtype)
    result[..., rows, columns] = x
    result[..., columns, rows] = x
    return result


def edge_names(regions: Sequence[str]) -> tuple[str, ...]:
    """A name for each entry: the names of its two regions, joined by "--".

    Example:
      >>> edge_names(["a", "b", "c"])
      ('a--b', 'a--c', 'b--c')
    """
    return tuple(
        f"{first}--{second}"
        for i, first in enumerate(regions)
        for second in regions[i + 1 :]
    )
