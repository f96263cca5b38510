"""Graphs in the text files of the TUDataset collection.

NAME_A.txt holds an edge "node, node" in each line, nodes counted from 1 over all
graphs; line i of NAME_graph_indicator.txt the graph of node i, of NAME_node_labels.txt
its region, and line g of NAME_graph_labels.txt the class of graph g.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_prep.graph_table import (
    MOST_CLASS,
    GraphTable,
    RawGraph,
    class_number,
    from_sparse,
)

PARTS = ("A", "graph_indicator", "graph_labels", "node_labels")


def file_names(name: str) -> tuple[str, ...]:
    """The files of one data set that are read."""
    return tuple(f"{name}_{part}.txt" for part in PARTS)


def read(contents: Mapping[str, bytes], name: str) -> GraphTable:
    """Read a data set of the collection; edges have weight 1.

    Args:
      contents: of the files that `file_names` lists.
      name: of the data set in the collection, such as KKI.

    Returns:
      A `GraphTable`; regions are named n_0, n_1, … by node label.

    Raises:
      ValueError: names the file and the line that cannot be understood.
    """
    edge_file, indicator_file, label_file, node_file = file_names(name)
    edges = _integers(contents[edge_file], edge_file, 2)
    graph_of = _integers(contents[indicator_file], indicator_file, 1)[:, 0]
    regions = _integers(contents[node_file], node_file, 1)[:, 0]
    labels = [
        class_number(line.strip(), f"{label_file}, line {i}")
        for i, line in enumerate(_lines(contents[label_file]), start=1)
        if line.strip()
    ]
    num_nodes, num_graphs = graph_of.size, len(labels)
    if regions.size != num_nodes:
        raise ValueError(
            f"{node_file}: expected {num_nodes} lines, one for each line of "
            f"{indicator_file}, got {regions.size}"
        )
    _in_range(graph_of[:, None], num_graphs, indicator_file, "graphs")
    _in_range(edges, num_nodes, edge_file, "nodes")
    edges = edges - 1
    apart = np.flatnonzero(graph_of[edges[:, 0]] != graph_of[edges[:, 1]])
    if apart.size:
        raise ValueError(
            f"{edge_file}, line {apart[0] + 1}: an edge between the graphs "
            f"{graph_of[edges[apart[0], 0]]} and {graph_of[edges[apart[0], 1]]}"
        )
    graphs = []
    for graph, label in enumerate(labels, start=1):
        nodes = np.flatnonzero(graph_of == graph)
        inside = edges[graph_of[edges[:, 0]] == graph]
        local = np.searchsorted(nodes, inside)
        graphs.append(
            RawGraph(
                place=f"{name}, graph {graph}",
                nodes=[f"n_{regions[node]}" for node in nodes],
                edges=[(int(a), int(b), 1.0) for a, b in local],
                label=label,
            )
        )
    return from_sparse(graphs, name)


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8-sig", "replace").split("\n")


def _integers(content: bytes, file: str, columns: int) -> np.ndarray:
    rows = []
    for i, line in enumerate(_lines(content), start=1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        try:
            row = [int(field) for field in fields]
        except ValueError:
            row = []
        if len(row) != columns or max(map(abs, row)) >= MOST_CLASS:
            raise ValueError(
                f"{file}, line {i}: got {line.strip()[:80]!r}, expected {columns} "
                f"integer{'s' * (columns > 1)}"
            )
        rows.append(row)
    return np.array(rows, np.int64).reshape(-1, columns)


def _in_range(values: np.ndarray, largest: int, file: str, what: str) -> None:
    wrong = np.argwhere((values < 1) | (values > largest))
    if wrong.size:
        line, column = wrong[0]
        raise ValueError(
            f"{file}, line {line + 1}: got {values[line, column]}, expected one of the "
            f"{what} 1…{largest}"
        )
