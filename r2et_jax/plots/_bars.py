"""Bars with error bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from r2et_jax.plots._figure import (
    COLOURS,
    HATCHES,
    SIZE,
    add_legend,
    as_array,
    as_errors,
    as_label,
    as_written,
    check_some,
    new_figure,
)


def bars(
    labels: Sequence[str],
    means: Sequence,
    stderrs: Sequence | None = None,
    *,
    groups: Sequence[str] | None = None,
    ylabel: str = "",
    title: str = "",
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw bars with error bars, in groups if there are any.

    Args:
      labels: one for each bar of a group (methods): the legend, or without `groups` the
        horizontal axis.
      means: [labels], or [labels, groups]; from zero upwards or downwards.
      stderrs: same shape, nonnegative, NaN where unknown; None draws no errors.
      groups: names along the horizontal axis (data sets).
      ylabel, title: texts.
      size: width and height in inches.

    Returns:
      The figure.

    Raises:
      ValueError: if the shapes do not fit.

    Example:
      >>> values = [[.4, .5], [.8, .9]]
      >>> figure = bars(["vanilla", "r2et"], values, groups=["adult", "bank"])
    """
    check_some("labels", labels)
    means = as_array("means", means)
    expected = (len(labels),) if groups is None else (len(labels), len(groups))
    if means.shape != expected:
        shape = "[labels]" if groups is None else "[labels, groups]"
        raise ValueError(f"means must be {shape} = {expected}, got {means.shape}")
    errors = as_errors("stderrs", stderrs, means)
    figure, axes = new_figure(title, "", ylabel, size)
    axes.grid(axis="x", visible=False)
    axes.axhline(0.0, color="black", linewidth=0.8)
    if groups is None:
        centres = [np.array([i]) for i in range(len(labels))]
        width, ticks = 0.7, list(labels)
    else:
        width, ticks = 0.84 / len(labels), list(groups)
        offsets = (np.arange(len(labels)) - (len(labels) - 1) / 2) * width
        centres = [np.arange(len(groups)) + offset for offset in offsets]
    for index, label in enumerate(labels):
        single = groups is None
        y, error = np.atleast_1d(means[index]), np.atleast_1d(errors[index])
        axes.bar(
            centres[index],
            np.where(np.isfinite(y), y, 0.0),
            width * 0.92,
            yerr=None if np.isnan(error).all() else error,
            color=COLOURS[0] if single else COLOURS[index % len(COLOURS)],
            hatch=None if single else HATCHES[index // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0.0,
            error_kw={"elinewidth": 1.0, "capsize": 2.0, "ecolor": "#333333"},
            label=as_label(label),
        )
        for x in centres[index][~np.isfinite(y)]:
            axes.text(x, 0.0, "nan", ha="center", va="bottom", rotation=90, fontsize=7)
    axes.set_xticks(range(len(ticks)), list(map(as_written, ticks)))
    if max(len(str(tick)) + 2 for tick in ticks) * len(ticks) > 11 * size[0]:
        axes.tick_params(axis="x", rotation=40)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    if groups is not None:
        add_legend(figure, axes)
    return figure
