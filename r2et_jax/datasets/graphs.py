"""Weighted graphs over fixed regions as vectors, one entry for each pair of regions."""

from __future__ import annotations

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
