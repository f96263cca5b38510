"""Graphs inside of a page: nodes on a circle, the top edges before and after."""

from __future__ import annotations

import html
import math
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2et_jax.audit import drawing
from r2et_jax.audit.results import after_top, before_top
from r2et_jax.datasets.graphs import edge_index, edge_names

if TYPE_CHECKING:
    from r2et_jax.audit.result import Audit

_LEAST_NODES = 3
# Edges of the input itself are drawn in grey where they are no thicket.
_MOST_GREY = 150
# The plane, with room for names on its sides.
_RADIUS, _MIDDLE, _SIZE, _SIDE = 88, 115, 230, 54
# How near to the chord an edge passes: those of the lower triangle bend more.
_NEAR, _FAR = 0.7, 0.35
_LETTERS, _MOST_NAMED = 12, 30
_JOINT = "--"
_DASHES = {"stays": "", "leaves": "5 3", "enters": "7 2 1.5 2"}
_COLOURS = {
    "stays": drawing.BLUE,
    "leaves": drawing.ORANGE,
    "enters": drawing.GREEN,
}


class Graph(NamedTuple):
    """What the features of an explanation connect.

    Attributes:
      nodes: names of the v nodes.
      edges: nodes of each feature, integers [f, 2].
    """

    nodes: tuple[str, ...]
    edges: np.ndarray


def graph_of(audit: Audit) -> Graph | None:
    """The graph that the inputs of an audit are, or None.

    They are one where each is a symmetric matrix [v, v], or a row whose features are
    called as `datasets.graphs.edge_names` calls the entries above the diagonal.
    """
    shape, names = audit.asked.shape, audit.asked.names
    square = len(shape) == 2 and shape[0] == shape[1] and shape[0] >= _LEAST_NODES
    if square and audit.asked.explained_shape == shape:
        matrices = audit.x.reshape(-1, *shape)
        if np.array_equal(matrices, matrices.swapaxes(1, 2)):
            nodes = tuple(map(str, range(shape[0])))
            return Graph(nodes, np.array(list(np.ndindex(*shape))))
    v = (1 + math.isqrt(1 + 8 * len(names))) // 2
    if v < _LEAST_NODES or v * (v - 1) // 2 != len(names):
        return None
    if not all(name.count(_JOINT) == 1 for name in names):
        return None
    first, last = names[0].split(_JOINT)[0], names[: v - 1]
    nodes = (first, *(name.split(_JOINT)[1] for name in last))
    return Graph(nodes, edge_index(v)) if edge_names(nodes) == names else None


def pair(audit: Audit, graph: Graph, i: int) -> str:
    """An input's graph before and after the change, two figures."""
    before, after = before_top(audit, i), after_top(audit, i)
    figures = []
    for name, row, map_, kinds in (
        (
            "before the change",
            audit.x[i],
            audit.maps[i],
            {"stays": before & after, "leaves": before & ~after},
        ),
        (
            "after the change",
            audit.perturbed[i],
            audit.perturbed_maps[i],
            {"stays": before & after, "enters": after & ~before},
        ),
    ):
        drawn = _drawn(graph, row, map_, kinds, name)
        figures.append(f"<figure>{drawn}<figcaption>{name}</figcaption></figure>")
    return f'<div class="images graphs">{"".join(figures)}</div>'


def _drawn(graph: Graph, row, map_, kinds: dict[str, np.ndarray], label: str) -> str:
    v = len(graph.nodes)
    angle = np.pi / 2 - 2 * np.pi * np.arange(v) / v
    unit = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    place = _MIDDLE + _RADIUS * unit
    parts = []
    present = {tuple(sorted(edge)) for edge in graph.edges[np.asarray(row) != 0]}
    present = sorted(edge for edge in present if edge[0] != edge[1])
    if len(present) <= _MOST_GREY:
        lines = "".join(_curve(place, *edge) for edge in present)
        parts.append(f'<path d="{lines}" fill="none" stroke="#ddd"/>')
    most = max(
        (float(map_[mask].max()) for mask in kinds.values() if mask.any()), default=0
    )
    shown = set()
    few = sum(int(mask.sum()) for mask in kinds.values()) <= _MOST_NAMED
    for kind, mask in kinds.items():
        dash = _DASHES[kind]
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        for j in np.flatnonzero(mask):
            a, b = graph.edges[j]
            shown |= {int(a), int(b)}
            share = float(map_[j]) / most if most > 0 else 0
            width = (1 + 3 * share) * (1 if few else 0.5)
            parts.append(
                f'<path d="{_curve(place, a, b)}" fill="none" '
                f'stroke="{_COLOURS[kind]}" stroke-width="{width:.1f}"{dash}/>'
            )
    size = float(np.clip(90 / v, 1.5, 5))
    for n in range(v):
        fill = "#222" if n in shown else "#fff"
        parts.append(
            f'<circle cx="{place[n, 0]:.1f}" cy="{place[n, 1]:.1f}" r="{size:.1f}" '
            f'fill="{fill}" stroke="#222"/>'
        )
    start = _shared(graph.nodes)
    # More names hide each other; the bars below say them.
    for n in sorted(shown) if len(shown) <= _MOST_NAMED else ():
        x, y = _MIDDLE + (_RADIUS + 9) * unit[n]
        side = (
            "middle" if abs(unit[n, 0]) < 0.3 else "start" if unit[n, 0] > 0 else "end"
        )
        y += 4 + 5 * unit[n, 1]
        name = graph.nodes[n][start:]
        if len(name) > _LETTERS:  # sides and numbers stand at its end
            name = f"{name[: _LETTERS - 5]}…{name[-4:]}"
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">'
            f"{html.escape(name)}</text>"
        )
    return (
        f'<svg viewBox="{-_SIDE} 0 {_SIZE + 2 * _SIDE} {_SIZE}" role="img" '
        f'aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _shared(names: tuple[str, ...]) -> int:
    """Letters of the words that all names begin with, which say nothing."""
    shared = os.path.commonprefix(names)
    return 1 + max(shared.rfind(mark) for mark in " _-.:")


def _curve(place: np.ndarray, a: int, b: int) -> str:
    """The path of an edge, bent towards the middle; of a node to itself a loop."""
    start, end = place[a], place[b]
    if a == b:
        out = start + 0.18 * (start - _MIDDLE)
        side = 0.12 * np.array([_MIDDLE - start[1], start[0] - _MIDDLE])
        left, right = out + side, out - side
        return (
            f"M{start[0]:.0f} {start[1]:.0f}C{left[0]:.0f} {left[1]:.0f} "
            f"{right[0]:.0f} {right[1]:.0f} {start[0]:.0f} {start[1]:.0f}"
        )
    middle = (start + end) / 2
    bend = _MIDDLE + (_NEAR if a < b else _FAR) * (middle - _MIDDLE)
    return (
        f"M{start[0]:.0f} {start[1]:.0f}Q{bend[0]:.0f} {bend[1]:.0f} "
        f"{end[0]:.0f} {end[1]:.0f}"
    )
