"""What the figures of an explanation before and after draw, read back from them."""

import matplotlib.colors
import numpy as np
import pytest

from r2et_jax import plots
from r2et_jax.plots._explained import Explained

RNG = np.random.default_rng(0)
KEPT, LOST, NEW = "stays in the top set", "leaves it", "enters it"


def explained(shape, k, seed):
    rng = np.random.default_rng(seed)
    saliency = rng.random(shape)
    top = saliency >= np.sort(saliency, axis=None)[-k]
    return Explained(saliency, top, rng.random(shape))


def sets(pair):
    before, after = (side.top for side in pair)
    return (
        {KEPT: before & after, LOST: before & ~after},
        {KEPT: before & after, NEW: after & ~before},
    )


def hexes(colours):
    return {matplotlib.colors.to_hex(colour) for colour in colours}


def test_a_coloured_image_may_have_a_map_of_its_pixels():
    side = explained((6, 5), 8, 0)._replace(x=RNG.random((6, 5, 3)))
    figure = plots.marked_images({"r2et": (side, side)})
    before, after, saliency, _ = figure.axes[1:5]
    np.testing.assert_allclose(before.images[0].get_array(), side.x)
    np.testing.assert_allclose(saliency.images[0].get_array(), side.saliency)
    assert len(after.collections[0].get_offsets()) == 8
    with pytest.raises(ValueError, match="one shape"):
        other = side._replace(x=RNG.random((6, 4, 3)))
        plots.marked_images({"r2et": (side, other)})


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_marked_pixels_are_those_of_the_top_sets(shape):
    rows = {
        "vanilla\nP@8 .4": (explained(shape, 8, 0), explained(shape, 8, 1)),
        "r2et": (explained(shape, 8, 2), explained(shape, 8, 3)),
    }
    figure = plots.marked_images(
        rows, partner=RNG.random(shape), partner_title="partner", title="It moves"
    )
    figure.draw_without_rendering()
    marked = [axes for axes in figure.axes if axes.collections]
    assert len(marked) == 4
    colours = {}
    for pair, panels in zip(rows.values(), (marked[:2], marked[2:]), strict=True):
        for axes, side, masks in zip(panels, pair, sets(pair), strict=True):
            shown = np.asarray(axes.images[0].get_array())
            np.testing.assert_allclose(shown, side.x)
            assert [c.get_label() for c in axes.collections] == list(masks)
            for collection, mask in zip(axes.collections, masks.values(), strict=True):
                places = {(int(y), int(x)) for x, y in collection.get_offsets()}
                assert places == {(p[0], p[1]) for p in np.argwhere(mask).tolist()}
                edge_colours = hexes(collection.get_edgecolors())
                assert (
                    colours.setdefault(collection.get_label(), edge_colours)
                    == edge_colours
                )
    assert len(set.union(*colours.values())) == 3
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert texts == ["vanilla", "P@8 .4", "r2et", ""]
    assert figure.get_suptitle() == "It moves"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [KEPT, LOST, NEW]
    (partner,) = (axes for axes in figure.axes if axes.get_title() == "partner")
    assert partner.images and not partner.collections


def test_maps_of_a_row_share_their_colours_and_channels_are_added():
    pair = explained((4, 4, 3), 3, 0), explained((4, 4, 3), 3, 1)
    figure = plots.marked_images({"a": pair})
    maps = [axes.images[0] for axes in figure.axes if axes.images][2:4]
    assert len({image.get_clim() for image in maps}) == 1
    for image, side in zip(maps, pair, strict=True):
        np.testing.assert_allclose(image.get_array(), side.saliency.sum(axis=2))


def test_edges_of_the_top_sets_join_their_nodes():
    edges = np.array([(i, j) for i in range(7) for j in range(i + 1, 7)])
    truth = np.zeros(21, bool)
    truth[[0, 1, 6]] = True  # the triangle 0, 1, 2
    pair = explained(21, 6, 0), explained(21, 6, 1)
    pair[0].top[0] = pair[1].top[0] = True
    nodes = [f"region_{i}" for i in range(7)]
    figure = plots.circular_graphs(
        {"r2et": pair}, edges=edges, num_nodes=7, truth=truth, nodes=nodes, title="t"
    )
    figure.draw_without_rendering()
    for axes, masks in zip(figure.axes, sets(pair), strict=True):
        *lines, points = axes.collections
        place = np.asarray(points.get_offsets())
        np.testing.assert_allclose(np.linalg.norm(place, axis=1), 1)
        filled = np.all(points.get_facecolors()[:, :3] == 0, axis=1)
        assert np.flatnonzero(filled).tolist() == [0, 1, 2]
        named = {text.get_text() for text in axes.texts}
        assert {"0", "1", "2"} <= named and not {"3", "4", "5", "6"} & named
        for collection, (kind, mask) in zip(lines, masks.items(), strict=True):
            assert collection.get_label() == kind
            ends = [
                [int(np.argmin(np.linalg.norm(place - p, axis=1))) for p in s[[0, -1]]]
                for s in collection.get_segments()
            ]
            assert ends == edges[mask].tolist()
            widths = np.atleast_1d(collection.get_linewidths())
            if mask.any():
                assert np.all((widths > 2) == truth[mask])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [KEPT, LOST, NEW, "thick, filled: true"]


def test_bars_name_the_features_of_either_top_set():
    names = [f"feature_{i}" for i in range(10)]
    panels = {
        label: (explained(10, 4, seed), explained(10, 4, seed + 1))
        for label, seed in (("vanilla", 0), ("sp", 2), ("r2et", 4))
    }
    figure = plots.explained_bars(panels, names, xlabel="share", title="t")
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == list(panels)
    for axes, pair in zip(shown, panels.values(), strict=True):
        before, after = pair
        labels = [text.get_text() for text in axes.get_yticklabels()]
        rows = [int(label.split("_")[1]) for label in labels]
        assert set(rows) == set(np.flatnonzero(before.top | after.top))
        assert np.all(np.diff(before.saliency[rows[:4]]) <= 0)
        for row, label in zip(rows, labels, strict=True):
            sign = "− " * int(before.top[row] > after.top[row])
            sign += "+ " * int(after.top[row] > before.top[row])
            assert label == sign + names[row]
        for bars, side in zip(axes.containers, pair, strict=True):
            widths = [bar.get_width() for bar in bars]
            np.testing.assert_allclose(widths, side.saliency[rows])


def test_wrong_input_is_refused():
    square, wide = explained((4, 4), 3, 0), explained((4, 5), 3, 0)
    with pytest.raises(ValueError, match="at least one"):
        plots.marked_images({})
    with pytest.raises(ValueError, match=r"one shape \(4, 4\), got .*of 'a' after"):
        plots.marked_images({"a": (square, wide)})
    whole = square._replace(top=square.top.astype(float))
    with pytest.raises(ValueError, match="of 'a' before must be boolean, got float64"):
        plots.marked_images({"a": (whole, square)})
    flat = explained(6, 2, 0)
    with pytest.raises(ValueError, match=r"must be \[height, width"):
        plots.marked_images({"a": (flat, flat)})
    with pytest.raises(ValueError, match=r"\(6,\) names of features, got 2"):
        plots.explained_bars({"a": (flat, flat)}, ["u", "v"])
    edges = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    good = {"edges": edges, "num_nodes": 4}
    for change, message in (
        ({"edges": edges[:5]}, r"maps of shape \(6,\), got shape \(5, 2\)"),
        ({"num_nodes": 3}, r"pairs of nodes 0…2"),
        ({"truth": np.ones(6)}, "truth must be boolean"),
        ({"nodes": ["a"]}, "expected 4 names of nodes, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.circular_graphs({"a": (flat, flat)}, **{**good, **change})
