"""Graphs over shared regions as read from raw files, and what they must meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Entries of all matrices together: 0.5 GB. A short text can name any number of regions,
# of which each makes a row and a column in every graph.
MOST_ENTRIES = 2**26
MOST_CLASS = 2**31  # of a number of a class, node or region, either sign
# Of a graph's largest edge: what rounding may tell apart.
_ASYMMETRY = 1e-6


class GraphTable(NamedTuple):
    """Graphs of one raw data set.

    Attributes:
      adjacency: [m, v, v] float64; the diagonal tells nothing.
      labels: [m] int64 as the file has them, two values or more.
      regions: v distinct names.
    """

    adjacency: np.ndarray
    labels: np.ndarray
    regions: tuple[str, ...]


class RawGraph(NamedTuple):
    """One sparse graph of a text file.

    Attributes:
      place: file and line, for messages.
      nodes: the region of each node.
      edges: (node, node, weight), nodes counted from 0.
      label: the class.
    """

    place: str
    nodes: Sequence[str]
    edges: Sequence[tuple[int, int, float]]
    label: int


def from_sparse(graphs: Sequence[RawGraph], what: str) -> GraphTable:
    """Line sparse graphs up over the regions that any of them names.

    Args:
      graphs: the graphs; a region that a graph does not name has no edges there.
      what: the file, for messages.

    Returns:
      A `GraphTable`, regions sorted by the number in their names.

    Raises:
      ValueError: a region twice in one graph, an edge from a node to itself, an edge
        with two weights, more than `MOST_ENTRIES` entries.
    """
    if not graphs:
        raise ValueError(f"{what} holds no graphs")
    regions = sorted({name for graph in graphs for name in graph.nodes}, key=_by_number)
    if len(graphs) * len(regions) ** 2 > MOST_ENTRIES:
        raise ValueError(
            f"{what}: {len(graphs)} graphs over {len(regions)} regions have more than "
            f"{MOST_ENTRIES} entries, expected fewer regions"
        )
    index = {name: i for i, name in enumerate(regions)}
    adjacency = np.zeros((len(graphs), len(regions), len(regions)))
    for matrix, graph in zip(adjacency, graphs, strict=True):
        if len(set(graph.nodes)) != len(graph.nodes):
            twice = next(n for n in graph.nodes if list(graph.nodes).count(n) > 1)
            raise ValueError(
                f"{graph.place}: region {twice!r} twice, expected each at most once"
            )
        written: dict[tuple[int, int], float] = {}
        for a, b, weight in graph.edges:
            i, j = sorted((index[graph.nodes[a]], index[graph.nodes[b]]))
            if i == j:
                raise ValueError(
                    f"{graph.place}: an edge from {graph.nodes[a]!r} to itself"
                )
            if written.setdefault((i, j), weight) != weight:
                raise ValueError(
                    f"{graph.place}: edge {graph.nodes[a]!r}, {graph.nodes[b]!r} has "
                    f"the weights {written[i, j]} and {weight}"
                )
            matrix[i, j] = matrix[j, i] = weight
    labels = np.array([graph.label for graph in graphs])
    return GraphTable(adjacency, labels, tuple(regions))


def checked(table: GraphTable, what: str) -> GraphTable:
    """Return the table; raise unless it is square, finite and symmetric."""
    adjacency, labels, regions = table
    if adjacency.ndim != 3 or adjacency.shape[1] != adjacency.shape[2]:
        raise ValueError(
            f"{what}: adjacency must have shape [m, v, v], got {adjacency.shape}"
        )
    if labels.shape != adjacency.shape[:1]:
        raise ValueError(
            f"{what}: expected {adjacency.shape[0]} labels, one for each graph, got "
            f"shape {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what}: labels must be integers, got {labels.dtype}")
    if len(set(regions)) != adjacency.shape[1] or len(regions) != adjacency.shape[1]:
        raise ValueError(
            f"{what}: expected {adjacency.shape[1]} distinct region names, got "
            f"{len(regions)}, {len(set(regions))} of them distinct"
        )
    if not np.isfinite(adjacency).all():
        graph, i, j = np.argwhere(~np.isfinite(adjacency))[0]
        raise ValueError(
            f"{what}: graph {graph}, entry ({i}, {j}) is {adjacency[graph, i, j]}, "
            "expected a finite number"
        )
    difference = np.abs(adjacency - adjacency.transpose(0, 2, 1))
    off = ~np.eye(adjacency.shape[1], dtype=bool)
    largest = np.abs(adjacency).max(axis=(1, 2), initial=0, where=off, keepdims=True)
    if np.any(difference > _ASYMMETRY * largest):
        graph, i, j = np.argwhere(difference > _ASYMMETRY * largest)[0]
        raise ValueError(
            f"{what}: graph {graph} must be symmetric, got "
            f"{adjacency[graph, i, j]} at ({i}, {j}) and {adjacency[graph, j, i]} at "
            f"({j}, {i})"
        )
    return table


def distinct(table: GraphTable, what: str) -> GraphTable:
    """Keep the first of graphs with equal entries; raise if their labels differ."""
    first: dict[bytes, int] = {}
    upper = np.triu_indices(len(table.regions), 1)
    for i, matrix in enumerate(table.adjacency):
        # Rounding so that a copy saved with other digits is still one.
        edges = matrix[upper]
        largest = np.abs(edges).max(initial=0) or 1.0
        key = (np.round(edges / largest, 6) + 0.0).tobytes() + f"{largest:.6g}".encode()
        earlier = first.setdefault(key, i)
        if table.labels[earlier] != table.labels[i]:
            raise ValueError(
                f"{what}: graphs {earlier} and {i} are equal, but their labels are "
                f"{table.labels[earlier]} and {table.labels[i]}"
            )
    rows = np.array(sorted(first.values()))
    return table._replace(adjacency=table.adjacency[rows], labels=table.labels[rows])


def class_number(text: str, place: str) -> int:
    """Return a label such as 1, -1 or 1.0 as an integer, of 32 bits."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value.is_integer() and abs(value) < MOST_CLASS):
        raise ValueError(
            f"{place}: label is {text!r}, expected an integer within ±{MOST_CLASS}"
        )
    return int(value)


def class_numbers(values: np.ndarray, place: str) -> np.ndarray:
    """Return labels [m] as int64; raise unless they are real, whole and of 32 bits."""
    real = np.issubdtype(values.dtype, np.integer) or values.dtype.kind == "f"
    if values.ndim != 1 or not real:
        raise ValueError(
            f"{place} must hold integers, one for each graph, got {values.dtype} of "
            f"shape {values.shape}"
        )
    wrong = np.flatnonzero((values != np.rint(values)) | ~(abs(values) < MOST_CLASS))
    if wrong.size:
        raise ValueError(
            f"{place}: label {wrong[0]} is {values[wrong[0]]}, expected an integer "
            f"within ±{MOST_CLASS}"
        )
    return values.astype(np.int64)


def _by_number(name: str) -> tuple[int, Any]:
    digits = "".join(c for c in name if c.isdecimal())[-18:]
    return (int(digits) if digits else -1, name)
