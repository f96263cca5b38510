"""Lines with bands of error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from r2et_jax.checks import check_in
from r2et_jax.plots._figure import (
    COLOURS,
    LINES,
    MARKERS,
    SCALES,
    SIZE,
    add_legend,
    as_errors,
    as_label,
    as_pair,
    check_some,
    new_figure,
    note_hidden,
    num_hidden,
)


def curves(
    series: Mapping[str, tuple],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    xscale: str = "linear",
    yscale: str = "linear",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw lines with a shaded band of one standard error on either side.

    Args:
      series: label -> (x [m], mean [m], stderr [m] or None).
      xlabel, ylabel, title: texts.
      xscale, yscale: "linear", "log" or "symlog".
      size: width and height in inches.

    Returns:
      The figure.

    Raises:
      ValueError: no series, lengths that differ, an unknown scale.

    Example:
      >>> lines = {"r2et": ([.1, .5, 1.], [.99, .95, .88], None)}
      >>> figure = curves(lines, xlabel="budget")
    """
    check_in("xscale", xscale, SCALES)
    check_in("yscale", yscale, SCALES)
    check_some("series", series)
    figure, axes = new_figure(title, xlabel, ylabel, size)
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    hidden = 0
    for index, (label, (x, mean, stderr)) in enumerate(series.items()):
        x, mean = as_pair(label, x, mean)
        error = as_errors(f"stderr of {label!r}", stderr, mean)
        hidden += num_hidden(x, mean)
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(
            x,
            mean,
            color=colour,
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markevery=max(1, len(x) // 12),
            markersize=4.5,
            linewidth=1.5,
            label=as_label(label),
        )
        if not np.isnan(error).all():
            axes.fill_between(
                x, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0
            )
    places = np.unique(np.concatenate([np.ravel(x) for x, *_ in series.values()]))
    if xscale != "linear" and places.size <= 8:  # label the measured places themselves
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    note_hidden(figure, hidden)
    if len(series) > 1:
        add_legend(figure, axes)
    return figure
