"""What the experiments say while they run: progress bars, and findings."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    items: Iterable[Item], *, description: str, show: bool, total: int | None = None
) -> Iterable[Item]:
    """Iterate over items with a progress bar on stderr; `show` is the --progress flag.

    Example:
      >>> for cell in track(cells, description="robustness", show=options.progress):
      ...     measure(cell)
    """
    return tqdm(
        items, desc=description, total=total, disable=not show, dynamic_ncols=True
    )


def say(text: str) -> None:
    """Write a finding to stderr, beside the bars."""
    tqdm.write(text, file=sys.stderr)
