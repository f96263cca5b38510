"""What paired_curves draws, read back from the figure."""

import matplotlib.colors
import numpy as np
import pytest

from r2et_jax.plots._paired import paired_curves


def test_each_label_has_a_solid_and_a_dashed_line_of_one_colour():
    x = [0.1, 0.5, 1.0]
    series = {"a": (x, [1, 0.9, 0.8], [1, 0.7, 0.5]), "b": (x, [1, 1, 1], [1, 1, 0.9])}
    figure = paired_curves(series, names=("attacked", "certified"), xlabel="ε")
    lines = figure.axes[0].get_lines()
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    colours = [matplotlib.colors.to_hex(line.get_color()) for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    for line, values in zip(lines, [*series["a"][1:], *series["b"][1:]], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), values)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a", "b", "attacked", "certified"]


def test_what_is_not_finite_is_counted_and_wrong_input_refused():
    series = {"a": ([1, 2], [1, np.nan], [0.5, np.nan])}
    figure = paired_curves(series, names=("u", "v"))
    assert "2 points are not finite" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="at least one"):
        paired_curves({}, names=("u", "v"))
    with pytest.raises(ValueError, match="same length"):
        paired_curves({"a": ([1, 2], [1, 1], [1])}, names=("u", "v"))
