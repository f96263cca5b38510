"""What all figures share: colours, axes, legend, checks of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
    "#8C6D31",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx")
SIZE = (6.4, 4.0)
SCALES = ("linear", "log", "symlog")


def as_written(text: object) -> str:
    """Return a text that Matplotlib shows as it is: a "$" is no mathematics.

    For every text that somebody else wrote, such as the name of a feature.

    Example:
      >>> print(as_written("Ba$$in"))
      Ba\\$\\$in
    """
    return str(text).replace("$", r"\$")


def as_label(text: object) -> str:
    """`as_written` for a legend, which would leave out what begins with a "_"."""
    text = as_written(text)
    return f"\u200b{text}" if text.startswith("_") else text  # zero width


def new_figure(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float]
) -> tuple[Figure, Axes]:
    """Return a figure and its axes, in the common look."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    dress(axes, title, xlabel, ylabel)
    return figure, axes


def dress(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Give axes their texts and the common look."""
    axes.set(xlabel=as_written(xlabel), ylabel=as_written(ylabel))
    axes.set_title(as_written(title), fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def add_legend(figure: Figure, *axes: Axes) -> None:
    """Put the legend beside the axes; a label that several of them have, once."""
    handles = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    style = {"frameon": False, "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", **style)


def as_array(name: str, values: object) -> np.ndarray:
    """Return numbers as float64."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers ({error})") from error


def as_errors(name: str, errors: object, means: np.ndarray) -> np.ndarray:
    """Return errors in the shape of the means; NaN where there are none."""
    if errors is None:
        return np.full(means.shape, np.nan)
    errors = as_array(name, errors)
    if errors.shape != means.shape:
        raise ValueError(
            f"{name} must have the shape of the means {means.shape}, got {errors.shape}"
        )
    if (errors < 0).any():
        raise ValueError(f"{name} must be nonnegative, got {errors.min()}")
    return errors


def as_pair(label: str, x: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y as vectors of one length."""
    x = np.atleast_1d(as_array(f"x of {label!r}", x))
    y = np.atleast_1d(as_array(f"y of {label!r}", y))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"x and y of {label!r} must have the same length, got shapes {x.shape} and "
            f"{y.shape}"
        )
    return x, y


def as_point(label: str, values: tuple) -> tuple[np.ndarray, ...]:
    """Return x, y and their errors as vectors of one length."""
    if len(values) not in (2, 4):
        raise ValueError(
            f"{label!r} must be (x, y) or (x, y, x error, y error), got {len(values)} "
            "entries"
        )
    x, y = as_pair(label, *values[:2])
    errors = values[2:] if len(values) == 4 else (None, None)
    errors = [None if e is None else np.atleast_1d(e) for e in errors]
    return x, y, *(as_errors(f"error of {label!r}", error, x) for error in errors)


def check_some(name: str, items: Mapping | Sequence) -> None:
    """Raise ValueError unless there is something to draw."""
    if not len(items):
        raise ValueError(f"{name} must hold at least one label, got none")


def num_hidden(x: np.ndarray, y: np.ndarray) -> int:
    """Count points that cannot be drawn."""
    return int((~(np.isfinite(x) & np.isfinite(y))).sum())


def note_hidden(figure: Figure, count: int) -> None:
    """Say below the axes how many points are not shown."""
    if count:
        noun = "point is" if count == 1 else "points are"
        figure.supxlabel(f"{count} {noun} not finite and not shown", fontsize=8)
