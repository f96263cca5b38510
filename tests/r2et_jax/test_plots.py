import io

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from r2et_jax import plots
from r2et_jax.numerics import pareto_mask

TEN = [f"method {i}" for i in range(10)]


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = buffer.getvalue()
    assert data.startswith(b"\x89PNG") and len(data) > 2000
    return data


def test_bars_without_groups():
    figure = plots.bars(["a", "b", "c"], [0.1, 0.2, 0.3], [0.01] * 3, ylabel="P@8")
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 0.2, 0.3]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]
    assert axes.get_ylabel() == "P@8" and not figure.legends
    png(figure)


def test_bars_in_groups():
    means = np.arange(30).reshape(10, 3) / 30
    figure = plots.bars(TEN, means, means / 10, groups=["x", "y", "z"])
    axes = figure.axes[0]
    assert len(axes.containers) == 20  # bars and their error bars
    assert len(axes.patches) == 30
    assert np.allclose([p.get_height() for p in axes.patches], means.ravel())
    assert [t.get_text() for t in figure.legends[0].get_texts()] == TEN
    looks = {(p.get_facecolor(), p.get_hatch()) for p in axes.patches}
    assert len(looks) == 10
    # No two bars overlap.
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes.patches)
    assert all(a[1] <= b[0] + 1e-9 for a, b in zip(spans, spans[1:], strict=False))
    png(figure)


def test_a_bar_that_is_not_finite_is_named():
    figure = plots.bars(["a", "b"], [np.nan, 0.5])
    assert [text.get_text() for text in figure.axes[0].texts] == ["nan"]


def test_curves_have_a_band_where_errors_are_known():
    x = np.linspace(0.1, 1, 5)
    series = {name: (x, x * i, x / 20 if i % 2 else None) for i, name in enumerate(TEN)}
    figure = plots.curves(series, xlabel="e", ylabel="P", title="T", xscale="log")
    axes = figure.axes[0]
    assert len(axes.lines) == 10
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert len(bands) == 5
    assert axes.get_xscale() == "log"
    looks = {(x.get_color(), x.get_linestyle(), x.get_marker()) for x in axes.lines}
    assert len(looks) == 10
    assert np.allclose(axes.lines[3].get_ydata(), 3 * x)
    png(figure)


def test_hidden_points_are_counted():
    figure = plots.curves({"a": ([1, 2, 3], [0.5, np.nan, np.inf], None)})
    assert figure.get_supxlabel() == "2 points are not finite and not shown"
    figure = plots.scatter({"a": (1.0, np.nan), "b": (1.0, 2.0)})
    assert figure.get_supxlabel() == "1 point is not finite and not shown"


def test_scatter_of_points_and_clouds():
    cloud = np.random.default_rng(0).normal(size=(2, 50))
    figure = plots.scatter(
        {"one": (0.9, 0.4, 0.01, 0.02), "none": (0.8, 0.5), "cloud": cloud}
    )
    containers = figure.axes[0].containers
    assert [c.get_label() for c in containers] == ["one", "none", "cloud"]
    assert containers[0].has_xerr and containers[0].has_yerr
    assert not containers[1].has_xerr
    assert len(containers[2].lines[0].get_xdata()) == 50
    png(figure)


def brute_force_front(values, maximize):
    signs = np.where(maximize, 1, -1)
    result = []
    for a in values * signs:
        others = values * signs
        result.append(not any((b >= a).all() and (b > a).any() for b in others))
    return result


@pytest.mark.parametrize("maximize", [(True, True), (True, False), (False, False)])
def test_pareto_mask_is_the_definition(maximize):
    values = np.random.default_rng(1).integers(0, 6, size=(40, 2)).astype(float)
    mask = pareto_mask(values, maximize=maximize)
    assert mask.tolist() == brute_force_front(values, maximize)
    assert 0 < mask.sum() < 40


def test_a_point_that_is_not_finite_is_never_on_the_front():
    values = np.array([[np.inf, 0.0], [1.0, 1.0], [np.nan, 2.0]])
    mask = pareto_mask(values, maximize=(True, True))
    assert mask.tolist() == [False, True, False]


def test_front_rings_the_pareto_points():
    points = {"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (1.0, 1.0), "d": (3.0, 1.0)}
    figure = plots.front(points, xlabel="AUC", ylabel="P@8")
    rings = figure.axes[0].lines[-1]
    assert list(zip(*rings.get_data(), strict=True)) == [(1, 3), (2, 2), (3, 1)]
    down = plots.front(points, maximize=(False, False)).axes[0].lines[-1]
    assert list(zip(*down.get_data(), strict=True)) == [(1, 1)]
    png(figure)


def test_dots_have_a_row_each_from_the_top():
    means = np.linspace(0.9, 0.1, 30)
    labels = [f"method {i}" for i in range(30)]
    figure = plots.dots(
        labels,
        means,
        means / 20,
        hollow=means / 2,
        groups=["ours" if i % 3 else "baseline" for i in range(30)],
        kinds=["R2ET", "baseline", "ours"],
        name="P@8",
        hollow_name="same",
    )
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == labels
    bottom, top = axes.get_ylim()
    assert top < 0 < 29 < bottom  # the first row is on top
    drawn = {}
    for container in axes.containers:
        line = container.lines[0]
        assert container.has_xerr
        drawn |= dict(zip(line.get_ydata(), line.get_xdata(), strict=True))
    assert drawn == dict(enumerate(means))
    open_marks = {}
    for line in axes.lines:
        if line.get_markerfacecolor() == "white" and len(line.get_xdata()):
            open_marks |= dict(zip(line.get_ydata(), line.get_xdata(), strict=True))
    assert open_marks == dict(enumerate(means / 2))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == ["P@8", "baseline", "ours", "same"]
    # A kind keeps its colour where another one is missing.
    alone = plots.dots(
        ["a"], [0.5], groups=["ours"], kinds=["R2ET", "baseline", "ours"]
    )
    colours = {c.get_label(): c.lines[0].get_color() for c in axes.containers}
    assert alone.axes[0].containers[0].lines[0].get_color() == colours["ours"]
    assert colours["ours"] != colours["baseline"]
    assert figure.get_figheight() > 2 * alone.get_figheight()
    png(figure)


def test_plain_dots_need_no_legend_and_count_what_is_hidden():
    figure = plots.dots(["a", "b"], [0.5, np.nan], hollow=[0.1, np.inf])
    assert not figure.legends
    assert figure.get_supxlabel() == "2 points are not finite and not shown"
    assert not figure.axes[0].containers[0].has_xerr
    png(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.bars([], []), "labels must hold at least one"),
        (lambda: plots.bars(["a"], [1, 2]), r"means must be \[labels\] = \(1,\), got"),
        (lambda: plots.bars(["a"], [[1, 2]], groups=["x"]), r"\[labels, groups\]"),
        (lambda: plots.bars(["a"], [1], [[1]]), "stderrs must have the shape"),
        (lambda: plots.bars(["a"], [1], [-1]), "stderrs must be nonnegative"),
        (lambda: plots.bars(["a"], ["high"]), "means must be an array of numbers"),
        (lambda: plots.curves({}), "series must hold at least one label"),
        (lambda: plots.curves({"a": ([1, 2], [1], None)}), "same length"),
        (lambda: plots.curves({"a": ([1, 2], [1, 2], [1])}), "stderr of 'a' must"),
        (lambda: plots.curves({"a": ([1], [1], None)}, xscale="ln"), "unknown xscale"),
        (lambda: plots.scatter({"a": (1, 2, 3)}), "'a' must be"),
        (lambda: plots.scatter({"a": (1, [1, 2])}), "same length"),
        (lambda: plots.dots([], []), "labels must hold at least one"),
        (lambda: plots.dots(["a"], [1, 2]), r"means must be \[labels\] = \(1,\), got"),
        (lambda: plots.dots(["a"], [1], hollow=[[1]]), r"hollow must be \[labels\]"),
        (lambda: plots.dots(["a"], [1], [1, 2]), "stderrs must have the shape"),
        (lambda: plots.dots(["a"], [1], groups=["x", "y"]), "groups must hold 1"),
        (lambda: plots.dots(["a"], [1], groups=["x"], kinds=["y"]), "unknown group"),
        (lambda: plots.front({}), "points must hold"),
        (lambda: pareto_mask(np.ones((3, 2)), maximize=(True,)), "d = 1"),
    ],
)
def test_unfit_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pyplot_is_left_alone():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    assert isinstance(plots.scatter({"a": (1, 2)}), Figure)
    assert plt.get_fignums() == []
