"""The leading edges of a graph before and after an attack, nodes on a circle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2et_jax.plots._explained import (
    COLOUR,
    KEPT,
    LOST,
    NEW,
    Pair,
    add_key,
    add_title,
    as_pairs,
    changes,
)
from r2et_jax.plots._figure import as_written

_LINES = {KEPT: "-", LOST: (0, (3, 1.5)), NEW: "-."}
# What changes stands out against what stays; edges of the truth against both.
_WIDTHS, _THICK = {KEPT: 0.9, LOST: 1.5, NEW: 1.5}, 3.0
_PANEL = 2.9
# How near to the chord an edge of neighbours and one across passes; 1 is straight.
_NEAR, _FAR = 0.75, 0.3
_LINE_HEIGHT = 14.5  # points
_POINTS = np.linspace(0, 1, 21)[:, None]
_MOST_NAMES = 12


def circular_graphs(
    columns: Mapping[str, Pair],
    *,
    edges: Any,
    num_nodes: int,
    truth: Any = None,
    truth_name: str = "true",
    nodes: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw, column by column, the top set of edges before and after.

    Edges that stay are solid, those that leave dashed, those that enter dash-dotted.

    Args:
      columns: label -> (before, after), `Explained` with maps of edges [n].
      edges: [n, 2] indices of the nodes of each edge.
      num_nodes: v.
      truth: boolean [n], edges that are drawn thick and their nodes filled.
      truth_name: what they are.
      nodes: names of the nodes, shown for those of `truth` if they are few, less
        what all names begin with.
      title: headline.

    Returns:
      The figure.

    Raises:
      ValueError: no columns, or shapes that do not fit.

    Example:
      >>> from r2et_jax.plots import Explained
      >>> edges, top = [(0, 1), (0, 2), (1, 2)], np.array([True, False, True])
      >>> explained = Explained(np.array([0.5, 0.1, 0.4]), top)
      >>> shown = {"r2et": (explained, explained)}
      >>> figure = circular_graphs(shown, edges=edges, num_nodes=3)
    """
    columns = as_pairs("columns", columns)
    n = next(iter(columns.values()))[0].saliency.shape
    edges = np.asarray(edges)
    if edges.shape != (*n, 2) or (
        edges.size and not 0 <= edges.min() <= edges.max() < num_nodes
    ):
        raise ValueError(
            f"edges must be pairs of nodes 0…{num_nodes - 1} for maps of shape {n}, "
            f"got shape {edges.shape}"
        )
    known = truth is not None
    truth = np.asarray(truth) if known else np.zeros(n, bool)
    if truth.shape != n or truth.dtype != bool:
        raise ValueError(
            f"truth must be boolean of shape {n}, got {truth.dtype} {truth.shape}"
        )
    if nodes is not None and len(nodes) != num_nodes:
        raise ValueError(f"expected {num_nodes} names of nodes, got {len(nodes)}")
    angle = np.pi / 2 - 2 * np.pi * np.arange(num_nodes) / num_nodes
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    special = np.unique(edges[truth])

    size = _PANEL * len(columns) + 0.5, 2 * _PANEL + 1.3
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2, len(columns), squeeze=False)
    for c, (label, pair) in enumerate(columns.items()):
        for axes, marks in zip(panels[:, c], changes(pair), strict=True):
            for kind, mask in marks.items():
                _draw(axes, place, edges, mask, truth, kind)
            _nodes(axes, place, special)
            if nodes is not None and len(special) <= _MOST_NAMES:
                _names(axes, place, special, nodes)
        _head(panels[0, c], label)
    for axes, when in zip(panels[:, 0], ("before", "after"), strict=True):
        axes.text(-1.5, 0, when, rotation=90, ha="center", va="center", fontsize=12)
    add_title(figure, title)
    add_key(figure, _handles(known, truth_name))
    return figure


def _head(axes: Axes, label: str) -> None:
    """The first line of a label in bold, the others below it."""
    first, _, rest = as_written(label).partition("\n")
    height = _LINE_HEIGHT * len(rest.splitlines())
    axes.set_title(first, fontsize=12, fontweight="bold", pad=4 + height)
    style = {"ha": "center", "va": "bottom", "linespacing": 1.35}
    axes.text(0.5, 1.0, rest, fontsize=10, transform=axes.transAxes, **style)


def _draw(axes: Axes, place, edges, mask, truth, kind: str) -> None:
    ends = place[edges[mask]]
    first, last = ends[:, 0], ends[:, 1]
    length = np.linalg.norm(first - last, axis=1, keepdims=True) / 2
    middle = (_NEAR + (_FAR - _NEAR) * length) * (first + last) / 2
    curves = [
        (1 - _POINTS) ** 2 * a + 2 * _POINTS * (1 - _POINTS) * m + _POINTS**2 * b
        for a, m, b in zip(first, middle, last, strict=True)
    ]
    axes.add_collection(
        LineCollection(
            curves,
            colors=COLOUR[kind],
            linestyles=[_LINES[kind]],
            linewidths=np.where(truth[mask], _THICK, _WIDTHS[kind]),
            label=kind,
        )
    )


def _nodes(axes: Axes, place: np.ndarray, special: np.ndarray) -> None:
    colours = np.full(len(place), "white", object)
    colours[special] = "black"
    area = float(np.clip(1400 / len(place), 8, 45))
    axes.scatter(
        *place.T, s=area, c=list(colours), edgecolors="black", linewidths=0.8, zorder=3
    )
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal")
    axes.set_axis_off()


def _names(axes: Axes, place, special, nodes) -> None:
    """Beside the nodes of the truth, their names less what all names begin with."""
    shared = len(os.path.commonprefix([str(name) for name in nodes]))
    for i in special:
        x, y = 1.14 * place[i]
        name = as_written(str(nodes[i])[shared:])
        axes.text(x, y, name, ha="center", va="center", fontsize=9)


def _handles(known: bool, truth_name: str) -> list[Line2D]:
    handles = [
        Line2D([], [], color=COLOUR[kind], linestyle=line, linewidth=2, label=kind)
        for kind, line in _LINES.items()
    ]
    if known:
        thick = {"color": "black", "linewidth": _THICK, "marker": "o", "markersize": 6}
        label = as_written(f"thick, filled: {truth_name}")
        handles.append(Line2D([], [], label=label, **thick))
    return handles
