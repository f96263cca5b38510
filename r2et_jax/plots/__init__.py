"""Figures of results: each function returns a Matplotlib figure and shows none.

No pyplot and no global state: save one with `figure.savefig(path)`. The colours are
those of Okabe and Ito (2008), told apart by colour-blind readers; lines, markers and
hatches differ too. What is not finite cannot be drawn and is counted below the axes.
"""

from r2et_jax.plots._bars import bars
from r2et_jax.plots._circular_graphs import circular_graphs
from r2et_jax.plots._curves import curves
from r2et_jax.plots._dots import dots
from r2et_jax.plots._explained import Explained
from r2et_jax.plots._explained_bars import explained_bars
from r2et_jax.plots._marked_images import marked_images
from r2et_jax.plots._points import front, scatter

__all__ = [
    "Explained",
    "bars",
    "circular_graphs",
    "curves",
    "dots",
    "explained_bars",
    "front",
    "marked_images",
    "scatter",
]
