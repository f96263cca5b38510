"""Figures of results: each function returns a Matplotlib figure and shows none.

No pyplot and no global state: save one with `figure.savefig(path)`. The colours are
those of Okabe and Ito (2008), told apart by colour-blind readers; lines, markers and
hatches differ too. What is not finite cannot be drawn and is counted below the axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r2et_jax.checks import check_in

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
    "#8C6D31",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx")
SIZE = (6.4, 4.0)
SCALES = ("linear", "log", "symlog")


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
      >>> bars(["vanilla", "r2et"], [[.4, .5], [.8, .9]], groups=["adult", "bank"])
    """
    _check_some("labels", labels)
    means = _array("means", means)
    expected = (len(labels),) if groups is None else (len(labels), len(groups))
    if means.shape != expected:
        shape = "[labels]" if groups is None else "[labels, groups]"
        raise ValueError(f"means must be {shape} = {expected}, got {means.shape}")
    errors = _errors("stderrs", stderrs, means)
    figure, axes = _figure(title, "", ylabel, size)
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
            label=str(label),
        )
        for x in centres[index][~np.isfinite(y)]:
            axes.text(x, 0.0, "nan", ha="center", va="bottom", rotation=90, fontsize=7)
    axes.set_xticks(range(len(ticks)), ticks)
    if max(len(str(tick)) + 2 for tick in ticks) * len(ticks) > 11 * size[0]:
        axes.tick_params(axis="x", rotation=40)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    if groups is not None:
        _legend(figure, axes)
    return figure


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
      >>> curves({"r2et": ([.1, .5, 1.], [.99, .95, .88], None)}, xlabel="budget")
    """
    check_in("xscale", xscale, SCALES)
    check_in("yscale", yscale, SCALES)
    _check_some("series", series)
    figure, axes = _figure(title, xlabel, ylabel, size)
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    hidden = 0
    for index, (label, (x, mean, stderr)) in enumerate(series.items()):
        x, mean = _pair(label, x, mean)
        error = _errors(f"stderr of {label!r}", stderr, mean)
        hidden += _num_hidden(x, mean)
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
            label=str(label),
        )
        if not np.isnan(error).all():
            axes.fill_between(
                x, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0
            )
    places = np.unique(np.concatenate([np.ravel(x) for x, *_ in series.values()]))
    if xscale != "linear" and places.size <= 8:  # label the measured places themselves
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    _note_hidden(figure, hidden)
    if len(series) > 1:
        _legend(figure, axes)
    return figure


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
      >>> scatter({"vanilla": (.91, .4), "r2et": (.90, .8, .002, .01)})
    """
    check_in("xscale", xscale, SCALES)
    check_in("yscale", yscale, SCALES)
    _check_some("points", points)
    figure, axes = _figure(title, xlabel, ylabel, size)
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    hidden = 0
    for index, (label, values) in enumerate(points.items()):
        x, y, x_error, y_error = _point(label, values)
        hidden += _num_hidden(x, y)
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
            label=str(label),
        )
    _note_hidden(figure, hidden)
    if len(points) > 1:
        _legend(figure, axes)
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
      >>> front({"vanilla": (.91, .4), "r2et": (.90, .8)}, xlabel="AUC", ylabel="P@8")
    """
    figure = scatter(points, xlabel=xlabel, ylabel=ylabel, title=title, size=size)
    axes = figure.axes[0]
    values = [_point(label, item)[:2] for label, item in points.items()]
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


def pareto_mask(values: np.ndarray, *, maximize: Sequence[bool]) -> np.ndarray:
    """Return which points no other point dominates.

    A point is dominated if another is at least as good in every objective and better
    in one; equal points do not dominate each other. O(m²).

    Args:
      values: [m, d]; a point that is not finite is never optimal.
      maximize: [d], whether more is better.

    Returns:
      bool [m].

    Raises:
      ValueError: if the shapes do not fit.

    Example:
      >>> pareto_mask(np.array([[0, 1], [1, 0], [0, 0]]), maximize=(True, True))
      array([ True,  True, False])
    """
    values = _array("values", values)
    if values.ndim != 2 or values.shape[1] != len(maximize):
        raise ValueError(
            f"values must be [m, d] with d = {len(maximize)}, the length of maximize, "
            f"got shape {values.shape}"
        )
    values = np.where(np.asarray(maximize), values, -values)
    finite = np.isfinite(values).all(axis=1)
    at_least = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    dominated = (at_least & better & finite[:, None]).any(axis=0)
    return finite & ~dominated


def _figure(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float]
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    style = {"frameon": False, "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles, labels, loc="outside right upper", **style)


def _array(name: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers ({error})") from error


def _errors(name: str, errors: object, means: np.ndarray) -> np.ndarray:
    if errors is None:
        return np.full(means.shape, np.nan)
    errors = _array(name, errors)
    if errors.shape != means.shape:
        raise ValueError(
            f"{name} must have the shape of the means {means.shape}, got {errors.shape}"
        )
    if (errors < 0).any():
        raise ValueError(f"{name} must be nonnegative, got {errors.min()}")
    return errors


def _pair(label: str, x: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    x = np.atleast_1d(_array(f"x of {label!r}", x))
    y = np.atleast_1d(_array(f"y of {label!r}", y))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"x and y of {label!r} must have the same length, got shapes {x.shape} and "
            f"{y.shape}"
        )
    return x, y


def _point(label: str, values: tuple) -> tuple[np.ndarray, ...]:
    if len(values) not in (2, 4):
        raise ValueError(
            f"{label!r} must be (x, y) or (x, y, x error, y error), got {len(values)} "
            "entries"
        )
    x, y = _pair(label, *values[:2])
    errors = values[2:] if len(values) == 4 else (None, None)
    errors = [None if e is None else np.atleast_1d(e) for e in errors]
    return x, y, *(_errors(f"error of {label!r}", error, x) for error in errors)


def _check_some(name: str, items: Mapping | Sequence) -> None:
    if not len(items):
        raise ValueError(f"{name} must hold at least one label, got none")


def _num_hidden(x: np.ndarray, y: np.ndarray) -> int:
    return int((~(np.isfinite(x) & np.isfinite(y))).sum())


def _note_hidden(figure: Figure, count: int) -> None:
    if count:
        noun = "point is" if count == 1 else "points are"
        figure.supxlabel(f"{count} {noun} not finite and not shown", fontsize=8)
