"""Scatter plots side by side: what is drawn, and what is refused."""

import numpy as np
import pytest

from r2et_jax.plots._scatter_panels import ScatterPanel, scatter_panels


def panel(title="ρ = .5", xscale="linear", **points):
    points = points or {"a": ([1.0, 2.0], [3.0, 4.0])}
    return ScatterPanel(title, "gap", points, xscale)


def test_labels_look_alike_in_all_panels():
    first = panel(a=([1.0], [1.0]), b=([2.0], [2.0]))
    second = panel(b=([3.0], [3.0]), never=([4.0], [5.0]))
    figure = scatter_panels(
        [first, second], ylabel="steps", title="adult", muted="never"
    )
    left, right = figure.axes
    colours = {line.get_label(): line.get_color() for line in left.get_lines()}
    others = {line.get_label(): line.get_color() for line in right.get_lines()}
    assert colours["a"] != colours["b"] == others["b"] != others["never"]
    assert left.get_ylabel() == "steps" and left.get_title(loc="left") == "ρ = .5"
    assert figure.get_suptitle() == "adult"
    assert right.get_lines()[1].get_marker() == "x"


def test_what_a_logarithm_cannot_show_is_counted():
    values = np.array([0.0, 0.5, 0.8, np.nan])
    figure = scatter_panels([panel(xscale="log", a=(values, np.ones(4)))])
    assert "2 points are" in figure.get_supxlabel()
    (axes,) = figure.axes
    figure.draw_without_rendering()
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert "0.5" in shown


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ([], "panels must hold"),
        ([ScatterPanel("", "x", {})], "points must hold"),
        ([panel(a=([1.0], [1.0, 2.0]))], "same length"),
        ([panel(xscale="cubic")], "unknown xscale 'cubic'"),
    ],
)
def test_mistakes_are_named(drawn, message):
    with pytest.raises(ValueError, match=message):
        scatter_panels(drawn)
