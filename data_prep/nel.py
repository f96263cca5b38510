"""Graphs in .nel text files: nodes, edges, then the graph's name and class.

n 1 n_187          node 1 of this graph is the region n_187
e 1 2 1            an edge of weight 1 between its nodes 1 and 2
g Graph 1018959    the graph's name
x -1               its class, which ends the graph
"""

from __future__ import annotations

import math

from data_prep.graph_table import GraphTable, RawGraph, class_number, from_sparse

_EXPECTED = {"n": "n NUMBER REGION", "e": "e NODE NODE WEIGHT", "x": "x CLASS"}


def read(content: bytes, file: str) -> GraphTable:
    """Read a .nel file.

    Args:
      content: of the file.
      file: its name, for messages.

    Returns:
      A `GraphTable`.

    Raises:
      ValueError: names the line that cannot be understood.
    """
    graphs: list[RawGraph] = []
    numbers: dict[str, int] = {}
    nodes: list[str] = []
    edges: list[tuple[int, int, float]] = []
    place = file
    for line_number, line in enumerate(_text(content, file).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        place, kind = f"{file}, line {line_number}", fields[0]
        if kind == "g" and len(fields) > 1:
            continue
        if kind not in _EXPECTED or len(fields) != len(_EXPECTED[kind].split()):
            expected = _EXPECTED.get(kind, ", ".join((*_EXPECTED.values(), "g NAME")))
            raise ValueError(f"{place}: got {line.strip()!r}, expected {expected}")
        if kind == "n":
            if fields[1] in numbers:
                raise ValueError(f"{place}: node {fields[1]} twice in one graph")
            numbers[fields[1]] = len(nodes)
            nodes.append(fields[2])
        elif kind == "e":
            for name in fields[1:3]:
                if name not in numbers:
                    raise ValueError(f"{place}: this graph has no node {name}")
            weight = _weight(fields[3], place)
            edges.append((numbers[fields[1]], numbers[fields[2]], weight))
        else:
            graphs.append(RawGraph(place, nodes, edges, class_number(fields[1], place)))
            numbers, nodes, edges = {}, [], []
    if nodes:
        raise ValueError(f"{place}: the file ends before the graph's class")
    return from_sparse(graphs, file)


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a readable text file ({error})") from error


def _weight(text: str, place: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"{place}: weight is {text!r}, expected a number")
    return weight
