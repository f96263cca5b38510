"""Small panels: what is drawn where, and what is refused."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from r2et_jax.plots import _panels
from r2et_jax.plots._panels import Panel

PANELS = [
    Panel("k", ["2", "8"], {"vanilla": ([0.5, 0.6], None),
                                  "a": ([0.9, np.nan], [0.1, 0.2])}, "8"),
    Panel("begins with", ["x", "y", "z"], {"b": ([0.1, 0.2, 0.3], None)}),
]  # fmt: skip


def test_panels_share_the_axis_and_the_legend():
    figure = _panels.panels(PANELS, ylabel="P@k", title="T", baseline="vanilla")
    assert isinstance(figure, Figure)
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    assert [t.get_text() for t in first.get_xticklabels()] == ["2", "8"]
    weights = [t.get_fontweight() for t in first.get_xticklabels()]
    assert weights == ["normal", "bold"]
    (shaded,) = first.patches
    assert shaded.get_x() == pytest.approx(0.7) and not second.patches
    line = first.lines[0]
    assert line.get_marker() == "None" and line.get_linestyle() == "--"
    np.testing.assert_array_equal(line.get_ydata(), [0.5, 0.6])
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["vanilla", "a", "b"]
    assert "1 point is not finite" in figure.get_supxlabel()
    # a and b differ in colour wherever they are drawn.
    colours = {axes.lines[-1].get_color() for axes in figure.axes}
    assert len(colours) == 2


def test_rows_of_panels():
    figure = _panels.panels([PANELS[1]] * 5, columns=2)
    assert len(figure.axes) == 6 and not figure.axes[-1].get_visible()
    assert figure.get_size_inches()[1] > 3 * 2


@pytest.mark.parametrize(
    "panels, message",
    [
        ([], "panels"),
        ([PANELS[1]._replace(series={})], "series"),
        ([PANELS[1]._replace(levels=["x"])], "1 levels of 'begins with'"),
        ([PANELS[1]._replace(default="w")], "default"),
    ],
)
def test_what_does_not_fit_is_refused(panels, message):
    with pytest.raises(ValueError, match=message):
        _panels.panels(panels)
