"""The progress bar of the experiments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    items: Iterable[Item], *, description: str, show: bool, total: int | None = None
) -> Iterable[Item]:
    """Iterate over items with a progress bar on stderr; `show` is the --progress flag.

    Example:
      >>> for cell in track(cells, description="robustness", show=common.progress):
      ...     measure(cell)
    """
    return tqdm(
        items, desc=description, total=total, disable=not show, dynamic_ncols=True
    )
