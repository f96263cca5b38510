"""An audit in a folder: the page, the numbers, and pictures where they can be drawn."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2et_jax.audit import images, words
from r2et_jax.audit.page import page
from r2et_jax.audit.results import (
    after_top,
    before_top,
    on_the_way,
    proved_up_to,
    results,
)
from r2et_jax.checks import as_folder
from r2et_jax.files import replacing

if TYPE_CHECKING:
    from r2et_jax.audit.result import Audit

# Features of an input in a figure, and inputs that are drawn.
_FEATURES, _DRAWN, _DOTS = 24, 4, 150
_HEADS = (
    "input", "feature", "value", "before", "after", "rank", "in_top", "stays",
    "leaves_at", "proved_up_to",
)  # fmt: skip
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def save(
    audit: Audit,
    folder: str | os.PathLike[str],
    *,
    title: str = "Audit of explanations",
    figures: bool | None = None,
) -> list[Path]:
    """Write an audit; each file appears whole or not at all.

    Args:
      audit: what is written.
      folder: where to; made if it is not there, files of the same names are replaced.
      title: of the page.
      figures: whether PNGs are drawn, for which Matplotlib is needed; by default where
        it is installed, with a warning where it is not.

    Returns:
      The files: index.html, results.json, features.csv, and the PNGs.

    Raises:
      ValueError: for a title that is no text, a folder that is a file, figures without
        Matplotlib.
    """
    folder = as_folder("folder", folder)
    if not isinstance(title, str):
        raise ValueError(f"title must be a text, got {title!r}")
    drawn = can_draw() if figures is None else figures
    if drawn and not can_draw():
        raise ValueError(
            "figures=True needs Matplotlib, the extra r2et-jax[plots], got an "
            "environment without it"
        )
    if figures is None and not drawn:
        warnings.warn(
            "no PNGs are drawn: Matplotlib, the extra r2et-jax[plots], is not "
            "installed; figures=False says so without a warning",
            stacklevel=3,
        )
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(results(audit), indent=1, ensure_ascii=False, allow_nan=False)
    texts = {
        "index.html": page(audit, title=title),
        "results.json": f"{numbers}\n",
        "features.csv": _csv(audit),
    }
    written = []
    for name, text in texts.items():
        with replacing(folder / name) as path:
            path.write_bytes(text.encode("utf-8"))
        written.append(folder / name)
    if drawn:
        for name, figure in _figures(audit):
            with replacing(folder / name) as path:
                figure.savefig(path, format="png", dpi=_DOTS)
            written.append(folder / name)
    return written


def can_draw() -> bool:
    """Whether Matplotlib, which PNGs need, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _csv(audit: Audit) -> str:
    """A line for each input and feature; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADS)
    names = audit.asked.names
    # A value belongs to a feature where each number is explained by itself.
    valued = audit.x.shape[1] == len(names)
    for i in range(len(audit.precision)):
        before, after = before_top(audit, i), after_top(audit, i)
        place = {int(feature): rank for rank, feature in enumerate(audit.top_k[i])}
        for j, name in enumerate(names):
            rank = place.get(j) if before[j] else None
            leaves = proved = None
            if rank is not None:
                leaves = audit.distances[i, rank]
                proved = proved_up_to(audit, i, rank)
            writer.writerow(
                [
                    i,
                    _text(name),
                    _cell(audit.x[i, j]) if valued else "",
                    _cell(audit.maps[i, j]),
                    _cell(audit.perturbed_maps[i, j]),
                    "" if rank is None else rank + 1,
                    int(before[j]),
                    int(before[j] & after[j]),
                    _cell(leaves),
                    _cell(proved),
                ]
            )
    return text.getvalue()


def _text(name: Any) -> str:
    """A name; before what a spreadsheet would run as a formula an apostrophe."""
    name = str(name)
    return f"'{name}" if name.startswith(_FORMULA) else name


def _cell(value: Any) -> str:
    return "" if value is None or not np.isfinite(value) else f"{float(value):.7g}"


def _figures(audit: Audit) -> Iterator[tuple[str, Any]]:
    from r2et_jax import plots  # Matplotlib is an extra: an audit goes without it

    k, rows = audit.asked.k, words.rows(audit)
    epsilons = [row.epsilon for row in rows]
    precision, stderr = (
        [getattr(row, n) for row in rows] for n in ("precision", "stderr")
    )
    lines = {"under attack": (epsilons, precision, np.nan_to_num(stderr))}
    if len(rows) == 1:
        way = on_the_way(audit)
        seen = [[point[n] for point in way] for n in ("epsilon", "precision")]
        lines["seen on the way there"] = (*seen, None)
    if not audit.certified.why_not:
        lines["provably"] = (epsilons, [row.certified for row in rows], None)
    yield (
        "curve.png",
        plots.curves(
            lines, xlabel="budget ε", ylabel=f"P@{k}", title=f"P@{k} against ε"
        ),
    )
    order = words.worst_first(audit)[:_DRAWN]
    if len(order):
        yield "worst.png", _worst(audit, order)


def _worst(audit: Audit, order: np.ndarray) -> Any:
    """The worst inputs before and after: images marked, others as bars."""
    from r2et_jax import plots

    k, names = audit.asked.k, audit.asked.names
    as_images = images.image_shape(audit) is not None
    pairs, title = {}, f"The top {k} before and after"
    for i in order:
        tops, maps = (
            [before_top(audit, i), after_top(audit, i)],
            [audit.maps[i], audit.perturbed_maps[i]],
        )
        rows = [None, None]
        if as_images:
            shape = audit.asked.explained_shape
            tops, maps = ([v.reshape(shape) for v in values] for values in (tops, maps))
            rows = [images.image_of(audit, v[i]) for v in (audit.x, audit.perturbed)]
            low, high = np.min(rows), np.max(rows)
            rows = [(row - low) / (high - low if high > low else 1.0) for row in rows]
        elif np.sum(tops[0] | tops[1]) > _FEATURES:
            tops = _leading(tops, maps)
            title = f"The {_FEATURES} leading of the top {k} before and after"
        label = f"input {i}, P@{k} = {words.number(audit.precision[i])}"
        pairs[label] = tuple(map(plots.Explained, maps, tops, rows))
    if as_images:
        return plots.marked_images(pairs, title=title)
    return plots.explained_bars(pairs, names, title=title)


def _leading(tops: list[np.ndarray], maps: list[np.ndarray]) -> list[np.ndarray]:
    """Two top sets without the least of what is in either: bars for all do not fit."""
    weight = np.where(tops[0] | tops[1], np.maximum(*maps), -np.inf)
    chosen = np.zeros(len(weight), bool)
    chosen[np.argsort(-weight, kind="stable")[:_FEATURES]] = True
    return [top & chosen for top in tops]
