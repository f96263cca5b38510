"""Images before and after an attack, with the pixels of the top set marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2et_jax.plots._explained import (
    COLOUR,
    KEPT,
    LOST,
    NEW,
    Explained,
    Pair,
    add_key,
    add_title,
    as_pairs,
    changes,
)
from r2et_jax.plots._figure import as_array, as_written

_MARKERS = {KEPT: "s", LOST: "X", NEW: "o"}
_COLUMNS = ("before", "after", "saliency before", "saliency after")
# Inches; ink is drawn in grey, for marks to be seen on it.
_PANEL, _LABEL, _PARTNER = 1.9, 1.5, 1.15
_INK = 1.7
_LARGEST = 11.0  # points
_KEPT_ALPHA = 0.45
_BRIGHTEST = 99.5  # percentile of the maps that has the last colour


def marked_images(
    rows: Mapping[str, Pair],
    *,
    partner: Any = None,
    partner_title: str = "",
    title: str = "",
) -> Figure:
    """Draw, row by row, an image before and after, with both maps.

    Pixels of the top set are marked by squares where they stay, by crosses where they
    leave and by circles where they enter.

    Args:
      rows: label -> (before, after), `Explained` with x, arrays [height, width] or
        [height, width, channels], x in [0, 1] perhaps alone with channels. A pixel is
        marked if a channel is.
      partner: an image [height, width(, channels)] shown once beside all rows.
      partner_title: what it is.
      title: headline.

    Returns:
      The figure.

    Raises:
      ValueError: no rows, shapes that differ or are not those of images.

    Example:
      >>> from r2et_jax.plots import Explained
      >>> x = np.eye(4)
      >>> explained = Explained(x, x > 0, x)
      >>> figure = marked_images({"r2et": (explained, explained)})
    """
    rows = as_pairs("rows", rows, with_x=True)
    shape = next(iter(rows.values()))[0].x.shape
    if len(shape) not in (2, 3):
        raise ValueError(f"images must be [height, width(, channels)], got {shape}")
    widths = [_LABEL, *[_PANEL * shape[1] / max(shape[:2])] * 4]
    if partner is not None:
        partner = as_array("partner", partner)
        widths.append(_PARTNER)
    size = sum(widths) + 0.3, len(rows) * _PANEL * shape[0] / max(shape[:2]) + 1.2
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(rows), len(widths), width_ratios=widths)
    pixel = 72 * _PANEL / max(shape[:2])
    for r, (label, pair) in enumerate(rows.items()):
        text = figure.add_subplot(grid[r, 0])
        text.set_axis_off()
        _write(text, label)
        panels = [figure.add_subplot(grid[r, 1 + c]) for c in range(4)]
        for axes, explained, marks in zip(panels[:2], pair, changes(pair), strict=True):
            _show(axes, explained.x)
            for kind, mask in marks.items():
                _mark(axes, mask, kind, pixel)
        flat = [_flat(explained) for explained in pair]
        top = max(float(np.percentile(flat, _BRIGHTEST)), np.finfo(float).tiny)
        for axes, values in zip(panels[2:], flat, strict=True):
            axes.imshow(values, cmap="cividis", vmin=0.0, vmax=top)
            _bare(axes)
        if not r:
            for axes, name in zip(panels, _COLUMNS, strict=True):
                axes.set_title(name, fontsize=11)
    if partner is not None:
        axes = figure.add_subplot(grid[:, -1])
        _show(axes, partner)
        axes.set_title(as_written(partner_title), fontsize=10)
    add_title(figure, title)
    add_key(figure, [_handle(kind) for kind in _MARKERS])
    return figure


def _write(axes: Axes, label: str) -> None:
    """The first line of a label in bold, the others below it."""
    first, _, rest = as_written(label).partition("\n")
    style = {"transform": axes.transAxes, "ha": "left"}
    axes.text(0, 0.55, first, va="bottom", fontsize=12, fontweight="bold", **style)
    axes.text(0, 0.5, rest, va="top", fontsize=10, linespacing=1.35, **style)


def _show(axes: Axes, x: np.ndarray) -> None:
    if x.ndim == 3 and x.shape[2] == 1:
        x = x[..., 0]
    if x.ndim == 2:
        axes.imshow(x, cmap="gray_r", vmin=0.0, vmax=_INK)
    else:
        axes.imshow(np.clip(x, 0, 1))
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#BBBBBB")


def _flat(explained: Explained) -> np.ndarray:
    """The map [height, width], summed over channels."""
    saliency = explained.saliency
    return saliency.sum(axis=2) if saliency.ndim == 3 else saliency


def _mark(axes: Axes, mask: np.ndarray, kind: str, pixel: float) -> None:
    if mask.ndim == 3:
        mask = mask.any(axis=2)
    rows, columns = np.nonzero(mask)
    side = min(0.95 * pixel, _LARGEST)
    axes.scatter(
        columns,
        rows,
        s=side**2,
        marker=_MARKERS[kind],
        # What changes stands out against what stays.
        facecolors=to_rgba(COLOUR[kind], _KEPT_ALPHA if kind == KEPT else 1.0),
        edgecolors=COLOUR[kind],
        linewidths=0.4,
        label=kind,
    )


def _handle(kind: str) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=_MARKERS[kind],
        markerfacecolor=to_rgba(COLOUR[kind], _KEPT_ALPHA if kind == KEPT else 1.0),
        markeredgecolor=COLOUR[kind],
        markeredgewidth=0.4,
        markersize=9,
        label=kind,
    )
