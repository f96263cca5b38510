"""Names are drawn as they are written, whatever Matplotlib makes of their signs."""

import doctest
import io

import numpy as np
import pytest
from matplotlib.text import Text

from r2et_jax import plots
from r2et_jax.plots import _figure as module
from r2et_jax.plots._explained import Explained
from r2et_jax.plots._figure import as_label, as_written
from r2et_jax.plots._paired import paired_curves
from r2et_jax.plots._panels import Panel, panels
from r2et_jax.plots._scatter_panels import ScatterPanel, scatter_panels

# An odd and an even number of signs, mathematics that fails and that succeeds.
NAMES = ["Ba$$in", "US$", "$x_1$ and $", r"a\$b", "$^$"]
X = np.linspace(0.1, 0.9, 2)
MASK = np.array([True, True, True, False, True])
ONE = Explained(np.linspace(1, 0.2, 5), MASK)
OTHER = Explained(np.linspace(0.2, 1, 5), ~MASK | MASK)
IMAGE = Explained(np.eye(2), np.eye(2) > 0, np.eye(2))
TEXTS = {"title": "a $^$ b$", "xlabel": "$^$x", "ylabel": "y$$"}
SERIES = dict.fromkeys(NAMES, (X, X, None))
LABELLED = {key: value for key, value in TEXTS.items() if key != "xlabel"}
DRAWN = {
    "bars": lambda: plots.bars(NAMES, X[:1].repeat(5), **LABELLED),
    "grouped bars": lambda: plots.bars(
        NAMES, np.ones((5, 5)), groups=NAMES, **LABELLED
    ),
    "curves": lambda: plots.curves(SERIES, **TEXTS),
    "dots": lambda: plots.dots(
        NAMES, np.ones(5), hollow=np.ones(5), groups=NAMES, name="$^$",
        hollow_name="h$$", title=TEXTS["title"], xlabel=TEXTS["xlabel"],
    ),
    "panels": lambda: panels(
        [Panel("$^$x", NAMES, {n: (np.ones(5), None) for n in NAMES}, NAMES[0])],
        baseline=NAMES[1],
        **LABELLED,
    ),
    "paired": lambda: paired_curves(
        dict.fromkeys(NAMES, (X, X, X)), names=("$^$", "$$"), **TEXTS
    ),
    "scatter": lambda: plots.scatter(dict.fromkeys(NAMES, (X, X)), **TEXTS),
    "front": lambda: plots.front(dict.fromkeys(NAMES, (X, X)), **TEXTS),
    "scatter panels": lambda: scatter_panels(
        [ScatterPanel("a $^$", "$^$x", dict.fromkeys(NAMES, (X, X)))],
        muted=NAMES[0],
        **LABELLED,
    ),
    "explained bars": lambda: plots.explained_bars(
        dict.fromkeys(NAMES, (ONE, OTHER)), NAMES, xlabel="$^$x", title="a $^$ b$"
    ),
    "images": lambda: plots.marked_images(
        {f"{n}\n{n}": (IMAGE, IMAGE) for n in NAMES},
        partner=np.eye(2),
        partner_title="$^$",
        title="a $^$ b$",
    ),
    "graphs": lambda: plots.circular_graphs(
        {f"{n}\n{n}": (ONE, OTHER) for n in NAMES},
        edges=[(0, 1), (0, 2), (0, 3), (0, 4), (1, 2)],
        num_nodes=5,
        truth=MASK,
        truth_name="$^$",
        nodes=NAMES,
        title="a $^$ b$",
    ),
}  # fmt: skip


def shown(figure):
    """What stands in the figure, of every text as Matplotlib reads it."""
    figure.savefig(io.BytesIO(), format="png")
    texts = []
    for text in figure.findobj(Text):
        if text.get_text() and not text.get_text().startswith(r"$\mathdefault"):
            read, mathematics = text._preprocess_math(text.get_text())
            assert not mathematics, text.get_text()
            texts.append(read)
    return texts


@pytest.mark.parametrize("kind", DRAWN)
def test_a_dollar_is_a_dollar(kind):
    texts = shown(DRAWN[kind]())
    for name in NAMES:
        assert any(name in text for text in texts), (name, texts)
    if kind != "grouped bars" and kind != "bars":
        assert any("$^$" in text for text in texts)


def test_a_legend_has_every_label():
    figure = plots.curves({"_first": (X, X, None), "second": (X, X, None)})
    labels = [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()]
    assert labels == ["_first", "second"]
    figure.savefig(io.BytesIO(), format="png")


def test_examples_in_docstrings():
    assert as_written("age") == "age" == as_label("age")
    result = doctest.testmod(module)
    assert result.attempted == 1 and result.failed == 0
