"""Scatter plots side by side: one quantity against several others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from r2et_jax.checks import check_in
from r2et_jax.plots._figure import (
    COLOURS,
    MARKERS,
    SCALES,
    add_legend,
    as_label,
    as_pair,
    as_written,
    check_some,
    dress,
    note_hidden,
    num_hidden,
)

_PANEL = (2.9, 2.6)  # inches
_LEGEND = 1.5
_MANY = 30


class ScatterPanel(NamedTuple):
    """One quantity.

    Attributes:
      title: above the panel.
      xlabel: what it is.
      points: label -> (x [m], y [m]).
      xscale: "linear", "log" or "symlog".
    """

    title: str
    xlabel: str
    points: Mapping[str, tuple]
    xscale: str = "linear"


def scatter_panels(
    drawn: Sequence[ScatterPanel],
    *,
    ylabel: str = "",
    title: str = "",
    columns: int = 3,
    muted: str | None = None,
) -> Figure:
    """Draw scatter plots with one vertical axis in common, labels alike in all of them.

    Args:
      drawn: the panels, row by row.
      ylabel, title: texts of the whole figure.
      columns: panels in a row, at most.
      muted: a label that is drawn in grey.

    Returns:
      The figure.

    Raises:
      ValueError: nothing to draw, lengths that differ, an unknown scale.

    Example:
      >>> panel = ScatterPanel("gap", "gap", {"inputs": ([.1, .2], [3, 9])})
      >>> figure = scatter_panels([panel])
    """
    check_some("panels", drawn)
    labels = list(dict.fromkeys(label for panel in drawn for label in panel.points))
    check_some("points", labels)
    coloured = [label for label in labels if label != muted]
    columns = min(columns, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    size = _PANEL[0] * columns + _LEGEND, _PANEL[1] * rows + 0.3
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(as_written(title), fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    hidden = 0
    for axes, panel in zip(grid.flat, drawn, strict=False):
        check_in("xscale", panel.xscale, SCALES)
        dress(axes, "", panel.xlabel, "")
        axes.set_title(as_written(panel.title), fontsize=9, loc="left")
        axes.set_xscale(panel.xscale)
        for label, values in panel.points.items():
            x, y = as_pair(label, *values)
            if panel.xscale == "log":
                x = np.where(x > 0, x, np.nan)
            hidden += num_hidden(x, y)
            index = -1 if label == muted else coloured.index(label)
            many = x.size > _MANY
            axes.plot(
                x,
                y,
                linestyle="none",
                marker="x" if label == muted else MARKERS[index % len(MARKERS)],
                color="#999999" if label == muted else COLOURS[index % len(COLOURS)],
                markersize=3.0 if many else 6.0,
                alpha=0.4 if many else 0.9,
                markeredgecolor=None if label == muted else "none",
                label=as_label(label),
            )
        if panel.xscale == "log":
            _label_log(axes)
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(as_written(ylabel))
    note_hidden(figure, hidden)
    if len(labels) > 1:
        most = max(range(len(drawn)), key=lambda i: len(drawn[i].points))
        add_legend(figure, grid.flat[most])
        for handle in figure.legends[0].legend_handles:
            handle.set_alpha(1.0)
            handle.set_markersize(6.0)
    return figure


def _label_log(axes) -> None:
    """Few labels without overlap: powers of ten, or plain numbers within a decade."""
    low, high = axes.get_xlim()
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high < 30 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
