"""What figures of one explanation before and after an attack share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2et_jax.plots._figure import COLOURS, as_array, as_written, check_some

KEPT, LOST, NEW = "stays in the top set", "leaves it", "enters it"
# Only two of them meet in one panel; shapes tell them apart as well.
COLOUR = {KEPT: COLOURS[0], LOST: COLOURS[1], NEW: COLOURS[2]}


class Explained(NamedTuple):
    """An input with its explanation, of any shape.

    Attributes:
      saliency: its map, nonnegative.
      top: boolean mask of its top set, of the same shape.
      x: the input, of the same shape or with channels besides; only figures that show
        it need it.
    """

    saliency: Any
    top: Any
    x: Any = None


Pair = tuple[Explained, Explained]


def as_pairs(
    name: str, pairs: Mapping[str, Pair], *, with_x: bool = False
) -> dict[str, Pair]:
    """Return label -> (before, after), NumPy arrays of one shape but for x's channels.

    Raises:
      ValueError: nothing to draw, shapes that differ, masks that are not boolean.
    """
    check_some(name, pairs)
    shape, result = None, {}
    for label, pair in pairs.items():
        explained = []
        for when, shown in zip(("before", "after"), pair, strict=True):
            where = f"of {label!r} {when}"
            saliency, top = as_array(f"saliency {where}", shown.saliency), shown.top
            top = np.asarray(top)
            if top.dtype != bool:
                raise ValueError(f"top {where} must be boolean, got {top.dtype}")
            x = as_array(f"x {where}", shown.x) if with_x else None
            shape = saliency.shape if shape is None else shape
            given = [saliency.shape, top.shape]
            if with_x:
                given.append(x.shape[: max(len(shape), x.ndim - 1)])
            if set(given) != {shape}:
                raise ValueError(
                    f"all maps, masks and inputs must have one shape {shape}, got "
                    f"{given} {where}"
                )
            explained.append(Explained(saliency, top, x))
        result[str(label)] = tuple(explained)
    return result


def changes(pair: Pair) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The masks drawn before (kept, lost) and after (kept, new)."""
    before, after = (shown.top for shown in pair)
    return (
        {KEPT: before & after, LOST: before & ~after},
        {KEPT: before & after, NEW: after & ~before},
    )


def add_title(figure: Figure, title: str) -> None:
    """Put a headline over all panels."""
    figure.suptitle(
        as_written(title), x=0.01, ha="left", fontsize=13, fontweight="bold"
    )


def add_key(figure: Figure, handles: list[Line2D]) -> None:
    """Put the legend below all panels."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=10,
    )
