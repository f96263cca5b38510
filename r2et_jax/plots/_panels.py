"""Small panels side by side: one quantity against the settings of one factor each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from r2et_jax.plots._figure import (
    COLOURS,
    LINES,
    MARKERS,
    add_legend,
    as_array,
    as_errors,
    as_label,
    as_written,
    check_some,
    dress,
    note_hidden,
    num_hidden,
)

_PANEL = (2.9, 2.5)  # inches
_LEGEND = 1.6
_BASELINE = {"color": "#888888", "linestyle": "--", "linewidth": 1.3, "zorder": 1.5}


class Panel(NamedTuple):
    """One factor.

    Attributes:
      xlabel: what it is.
      levels: its settings [m], from left to right at even distances.
      series: label -> (mean [m], stderr [m] or None); NaN where nothing was measured.
      default: the level that the other panels keep, which is marked, or None.
    """

    xlabel: str
    levels: Sequence[str]
    series: Mapping[str, tuple]
    default: str | None = None


def panels(
    drawn: Sequence[Panel],
    *,
    ylabel: str = "",
    title: str = "",
    baseline: str | None = None,
    columns: int = 3,
) -> Figure:
    """Draw panels with one vertical axis in common, labels alike in all of them.

    Args:
      drawn: the panels, row by row.
      ylabel, title: texts of the whole figure.
      baseline: a label that is drawn as a dashed grey line without markers.
      columns: panels in a row, at most.

    Returns:
      The figure.

    Raises:
      ValueError: nothing to draw, series that do not fit their levels, an unknown
        default.

    Example:
      >>> panel = Panel("k", ["2", "8"], {"r2et": ([.9, .8], None)}, "8")
      >>> figure = panels([panel])
    """
    check_some("panels", drawn)
    labels = list(dict.fromkeys(label for panel in drawn for label in panel.series))
    check_some("series", labels)
    looks = [label for label in labels if label != baseline]
    columns = min(columns, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    size = _PANEL[0] * columns + _LEGEND, _PANEL[1] * rows + 0.3
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(as_written(title), fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    hidden = 0
    for axes, panel in zip(grid.flat, drawn, strict=False):
        dress(axes, "", panel.xlabel, "")
        hidden += _draw(axes, panel, looks, baseline)
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(as_written(ylabel))
    note_hidden(figure, hidden)
    add_legend(figure, *grid.flat[: len(drawn)])
    return figure


def _draw(axes, panel, looks, baseline) -> int:
    levels = list(panel.levels)
    places = np.arange(len(levels))
    hidden = 0
    for label, (mean, stderr) in panel.series.items():
        mean = as_array(f"mean of {label!r}", mean)
        if mean.shape != places.shape:
            raise ValueError(
                f"{label!r} must have a mean for each of the {len(levels)} levels of "
                f"{panel.xlabel!r}, got shape {mean.shape}"
            )
        error = as_errors(f"stderr of {label!r}", stderr, mean)
        hidden += num_hidden(places, mean)
        if label == baseline:
            axes.plot(places, mean, label=as_label(label), **_BASELINE)
            continue
        index = looks.index(label)
        # Side by side, so that errors of one level do not lie on each other.
        shift = 0.08 * (index - (len(looks) - 1) / 2)
        axes.errorbar(
            places + shift,
            mean,
            yerr=None if np.isnan(error).all() else error,
            color=COLOURS[index % len(COLOURS)],
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            linewidth=1.3,
            capsize=2.0,
            label=as_label(label),
        )
    axes.set_xticks(places, list(map(as_written, levels)))
    axes.set_xlim(-0.5, len(levels) - 0.5)
    if panel.default is not None:
        if panel.default not in levels:
            raise ValueError(
                f"the default of {panel.xlabel!r} must be one of its levels {levels}, "
                f"got {panel.default!r}"
            )
        at = levels.index(panel.default)
        axes.axvspan(at - 0.3, at + 0.3, color="#EEEEEE", zorder=0)
        axes.get_xticklabels()[at].set_fontweight("bold")
    return hidden
