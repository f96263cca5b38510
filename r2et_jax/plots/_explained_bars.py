"""The leading features of a table's row before and after an attack, as bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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

# What stands before a feature's name.
_SIGNS = {KEPT: "", LOST: "− ", NEW: "+ "}
_PANEL, _LINE = 5.0, 0.24
_THICKNESS = 0.4


def explained_bars(
    panels: Mapping[str, Pair],
    names: Sequence[str],
    *,
    xlabel: str = "",
    title: str = "",
) -> Figure:
    """Draw, panel by panel, the saliency of all features of either top set.

    A feature has a filled bar before and a hatched one after. Those of the first top
    set stand above, in its order; features that leave it have a − before their names,
    those that enter a +.

    Args:
      panels: label -> (before, after), `Explained` with maps [n].
      names: of the n features.
      xlabel: text.
      title: headline.

    Returns:
      The figure.

    Raises:
      ValueError: no panels, or shapes that do not fit.

    Example:
      >>> from r2et_jax.plots import Explained
      >>> before = Explained(np.array([0.6, 0.3, 0.1]), np.array([True, True, False]))
      >>> after = Explained(np.array([0.6, 0.1, 0.3]), np.array([True, False, True]))
      >>> names = ["age", "hours", "gain"]
      >>> figure = explained_bars({"r2et": (before, after)}, names)
    """
    panels = as_pairs("panels", panels)
    shape = next(iter(panels.values()))[0].saliency.shape
    if shape != (len(names),):
        raise ValueError(f"expected {shape} names of features, got {len(names)}")
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    most = max(int((b.top | a.top).sum()) for b, a in panels.values())
    size = _PANEL * across, down * (_LINE * max(most, 4) + 0.8) + 0.9
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axes, (label, pair) in zip(grid, panels.items(), strict=False):
        _draw(axes, pair, names, most)
        axes.set_title(as_written(label), fontsize=11, loc="left")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel(as_written(xlabel))
        axes.tick_params(labelbottom=True)
    add_title(figure, title)
    add_key(figure, _handles())
    return figure


def _draw(axes: Axes, pair: Pair, names: Sequence[str], most: int) -> None:
    before, after = pair
    first, second = changes(pair)
    order = [
        *sorted(np.flatnonzero(before.top), key=lambda i: -before.saliency[i]),
        *sorted(np.flatnonzero(second[NEW]), key=lambda i: -after.saliency[i]),
    ]
    kinds = [KEPT if first[KEPT][i] else LOST if before.top[i] else NEW for i in order]
    y = np.arange(len(order))
    colours = [COLOUR[kind] for kind in kinds]
    axes.barh(
        y - _THICKNESS / 2,
        before.saliency[order],
        _THICKNESS,
        color=colours,
        edgecolor=colours,
        linewidth=0.8,
        label="before",
    )
    axes.barh(
        y + _THICKNESS / 2,
        after.saliency[order],
        _THICKNESS,
        facecolor="white",
        edgecolor=colours,
        hatch="//////",
        linewidth=0.8,
        label="after",
    )
    labels = [
        _SIGNS[kind] + as_written(names[i])
        for kind, i in zip(kinds, order, strict=True)
    ]
    axes.set_yticks(y, labels, fontsize=9)
    for text, colour in zip(axes.get_yticklabels(), colours, strict=True):
        text.set_color(colour)
    # As many lines in every panel, for bars of one width.
    axes.set_ylim(most - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _handles() -> list[Patch]:
    kinds = [Patch(color=COLOUR[k], label=_SIGNS[k] + k) for k in (KEPT, LOST, NEW)]
    grey = "#555555"
    before = Patch(facecolor=grey, edgecolor=grey, label="before")
    after = Patch(facecolor="white", edgecolor=grey, hatch="//////", label="after")
    return [*kinds, before, after]
