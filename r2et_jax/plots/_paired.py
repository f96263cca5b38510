"""Two lines of one colour for each label: a bound and what it bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2et_jax.plots._figure import (
    COLOURS,
    MARKERS,
    SIZE,
    as_label,
    as_pair,
    check_some,
    new_figure,
    note_hidden,
    num_hidden,
)


def paired_curves(
    series: Mapping[str, tuple],
    *,
    names: tuple[str, str],
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw a solid and a dashed line for each label, and the space between them.

    Args:
      series: label -> (x [m], solid [m], dashed [m]).
      names: what the solid and the dashed lines are.
      xlabel, ylabel, title: texts.
      size: width and height in inches.

    Returns:
      The figure.

    Raises:
      ValueError: no series, lengths that differ.

    Example:
      >>> figure = paired_curves(
      ...     {"r2et": ([.1, .5, 1.], [.99, .95, .88], [.98, .81, .5])},
      ...     names=("attacked", "certified"),
      ... )
    """
    check_some("series", series)
    figure, axes = new_figure(title, xlabel, ylabel, size)
    hidden = 0
    for index, (label, (x, solid, dashed)) in enumerate(series.items()):
        x, solid = as_pair(label, x, solid)
        _, dashed = as_pair(label, x, dashed)
        hidden += num_hidden(x, solid) + num_hidden(x, dashed)
        style = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            "linewidth": 1.5,
        }
        axes.plot(x, solid, label=as_label(label), **style)
        axes.plot(x, dashed, linestyle="--", **style)
        both = np.isfinite(solid) & np.isfinite(dashed)
        axes.fill_between(
            x, dashed, solid, where=both, color=style["color"], alpha=0.08, linewidth=0
        )
    kinds = [
        Line2D([], [], color="black", linestyle=line, label=as_label(name))
        for line, name in zip(("-", "--"), names, strict=True)
    ]
    note_hidden(figure, hidden)
    # Beside the axes, as all legends: within them it would cover lines.
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(
        handles=[*handles, *kinds],
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        handlelength=2.6,
    )
    return figure
