"""Figures of results: each function returns a Matplotlib figure and shows none.

No pyplot and no global state: save one with `figure.savefig(path)`. The colours are
those of Okabe and Ito (2008), told apart by colour-blind readers; lines, markers and
hatches differ too. What is not finite cannot be drawn and is counted below the axes.
"""

from r2et_jax.plots._bars import bars as bars
from r2et_jax.plots._circular_graphs import circular_graphs as circular_graphs
from r2et_jax.plots._curves import curves as curves
from r2et_jax.plots._dots import dots as dots
from r2et_jax.plots._explained import Explained as Explained
from r2et_jax.plots._explained_bars import explained_bars as explained_bars
from r2et_jax.plots._figure import as_label as as_label
from r2et_jax.plots._figure import as_written as as_written
from r2et_jax.plots._marked_images import marked_images as marked_images
from r2et_jax.plots._paired import paired_curves as paired_curves
from r2et_jax.plots._panels import Panel as Panel
from r2et_jax.plots._panels import panels as panels
from r2et_jax.plots._points import front as front
from r2et_jax.plots._points import scatter as scatter
from r2et_jax.plots._scatter_panels import ScatterPanel as ScatterPanel
from r2et_jax.plots._scatter_panels import scatter_panels as scatter_panels

__all__ = [
    "bars",
    "circular_graphs",
    "curves",
    "dots",
    "explained_bars",
    "front",
    "marked_images",
    "scatter",
]
