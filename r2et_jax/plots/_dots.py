"""One row for each label: a dot with its error, and a second, hollow one beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2et_jax.checks import check_in
from r2et_jax.plots._figure import (
    COLOURS,
    MARKERS,
    SIZE,
    add_legend,
    as_array,
    as_errors,
    as_label,
    as_written,
    check_some,
    new_figure,
    note_hidden,
    num_hidden,
)

_ROW = 0.21  # inches from one label to the next


def dots(
    labels: Sequence[str],
    means: Sequence,
    stderrs: Sequence | None = None,
    *,
    hollow: Sequence | None = None,
    groups: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    name: str = "",
    hollow_name: str = "",
    xlabel: str = "",
    title: str = "",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw one row for each label, the first on top: readable for many labels.

    Args:
      labels: names of the rows (methods).
      means: [labels], a filled marker each.
      stderrs: [labels], nonnegative, NaN where unknown; None draws no errors.
      hollow: [labels], a second quantity on the same axis, a hollow marker each.
      groups: [labels], the kind of each label, told by colour and marker.
      kinds: all kinds that may occur, in the order of their colours, so that figures
        of different labels agree; by default those in `groups`.
      name, hollow_name: what the filled and the hollow markers show, for the legend.
      xlabel, title: texts.
      size: width and height in inches; by default the height follows the labels.

    Returns:
      The figure.

    Raises:
      ValueError: if the shapes do not fit, or a group is none of `kinds`.

    Example:
      >>> groups = ["R2ET", "baseline"]
      >>> figure = dots(["r2et", "vanilla"], [.9, .5], [.01, .02], groups=groups)
    """
    check_some("labels", labels)
    count = len(labels)
    means = _row("means", means, count)
    errors = as_errors("stderrs", stderrs, means)
    if groups is not None and len(groups) != count:
        raise ValueError(f"groups must hold {count} names, got {len(groups)}")
    if groups is None:
        groups, kinds = [""] * count, None
    kinds = list(dict.fromkeys(groups) if kinds is None else kinds)
    for group in groups:
        check_in("group", group, kinds)
    members = np.array([kinds.index(group) for group in groups])
    figure, axes = new_figure(
        title, xlabel, "", size or (SIZE[0], 1.3 + _ROW * max(count, len(kinds)))
    )
    rows = np.arange(count)
    hidden = num_hidden(rows, means)
    if hollow is not None:
        hollow = _row("hollow", hollow, count)
        hidden += num_hidden(rows, hollow)
        axes.hlines(rows, means, hollow, color="#BBBBBB", linewidth=0.8, zorder=1.5)
    for index, kind in enumerate(kinds):
        here = members == index
        if not here.any():
            continue
        look = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": "none",
            "markersize": 5.5,
        }
        if hollow is not None:
            axes.plot(hollow[here], rows[here], markerfacecolor="white", **look)
        axes.errorbar(
            means[here],
            rows[here],
            xerr=None if np.isnan(errors[here]).all() else errors[here],
            elinewidth=1.2,
            capsize=2.0,
            label=as_label(kind),
            **look,
        )
    axes.set_yticks(rows, list(map(as_written, labels)), fontsize=9)
    axes.set_ylim(count - 0.4, -0.6)
    note_hidden(figure, hidden)
    _explain_markers(axes, name, hollow_name if hollow is not None else "")
    if any([*groups, name, hollow_name]):
        add_legend(figure, axes)
    return figure


def _explain_markers(axes: Axes, name: str, hollow_name: str) -> None:
    """Put both kinds of marker into the legend."""
    look = {"color": "#555555", "marker": "o", "linestyle": "none", "markersize": 5.5}
    for text, face in ((name, "#555555"), (hollow_name, "white")):
        if text:
            label = as_label(text)
            axes.add_artist(Line2D([], [], markerfacecolor=face, label=label, **look))


def _row(name: str, values: Sequence, count: int) -> np.ndarray:
    values = as_array(name, values)
    if values.shape != (count,):
        raise ValueError(f"{name} must be [labels] = ({count},), got {values.shape}")
    return values
