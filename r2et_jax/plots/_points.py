"""Points with error bars, and the Pareto front of some."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from r2et_jax.checks import check_in
from r2et_jax.numerics import pareto_mask
from r2et_jax.plots._figure import (
    COLOURS,
    MARKERS,
    SCALES,
    SIZE,
    add_legend,
    as_label,
    as_point,
    check_some,
    new_figure,
    note_hidden,
    num_hidden,
)


def scatter(
    points: Mapping[str, tuple],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    xscale: str = "linear",
    yscale: str = "linear",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw points, one colour and marker for each label, with error bars if given.

    Args:
      points: label -> (x, y) or (x, y, x error, y error): numbers or arrays [m];
        errors are standard errors, None where there are none.
      xlabel, ylabel, title: texts.
      xscale, yscale: "linear", "log" or "symlog".
      size: width and height in inches.

    Returns:
      The figure.

    Raises:
      ValueError: no points, lengths that differ, an unknown scale.

    Example:
      >>> figure = scatter({"vanilla": (.91, .4), "r2et": (.90, .8, .002, .01)})
    """
    check_in("xscale", xscale, SCALES)
    check_in("yscale", yscale, SCALES)
    check_some("points", points)
    figure, axes = new_figure(title, xlabel, ylabel, size)
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    hidden = 0
    for index, (label, values) in enumerate(points.items()):
        x, y, x_error, y_error = as_point(label, values)
        hidden += num_hidden(x, y)
        many = x.size > 30
        axes.errorbar(
            x,
            y,
            xerr=None if np.isnan(x_error).all() else x_error,
            yerr=None if np.isnan(y_error).all() else y_error,
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markersize=3.0 if many else 8.0,
            alpha=0.5 if many else 1.0,
            markeredgecolor="none" if many else "white",
            markeredgewidth=0.4,
            elinewidth=1.0,
            label=as_label(label),
        )
    if xscale == "linear":
        # Long numbers side by side would touch.
        axes.locator_params(axis="x", nbins=6)
    note_hidden(figure, hidden)
    if len(points) > 1:
        add_legend(figure, axes)
    return figure


def front(
    points: Mapping[str, tuple],
    *,
    maximize: tuple[bool, bool] = (True, True),
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw points as `scatter` does, and through the Pareto-optimal ones their front.

    Args:
      points: as for `scatter`; a label may hold many points.
      maximize: whether more is better, along x and along y.
      xlabel, ylabel, title: texts.
      size: width and height in inches.

    Returns:
      The figure; the front is a step line with a ring around each of its points.

    Raises:
      ValueError: as `scatter`.

    Example:
      >>> points = {"vanilla": (.91, .4), "r2et": (.90, .8)}
      >>> figure = front(points, xlabel="AUC", ylabel="P@8")
    """
    figure = scatter(points, xlabel=xlabel, ylabel=ylabel, title=title, size=size)
    axes = figure.axes[0]
    values = [as_point(label, item)[:2] for label, item in points.items()]
    x = np.concatenate([item[0] for item in values])
    y = np.concatenate([item[1] for item in values])
    best = pareto_mask(np.stack([x, y], axis=1), maximize=maximize)
    order = np.argsort(x[best], kind="stable")
    x, y = x[best][order], y[best][order]
    # The step keeps to points that are attained or dominated by attained ones.
    where = "pre" if maximize[0] else "post"
    axes.step(x, y, where=where, color="#888888", linewidth=1.0, zorder=0.9)
    axes.plot(
        x,
        y,
        linestyle="none",
        marker="o",
        markersize=13.0,
        markerfacecolor="none",
        markeredgecolor="#444444",
        markeredgewidth=1.0,
    )
    return figure
