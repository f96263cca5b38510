"""Graphs on the audit's page: recognised as such, each top edge drawn as it went."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from r2et_jax.audit import drawing, graphs
from r2et_jax.datasets.graphs import edge_index, edge_names

NODES = tuple(f"region {name}" for name in ("<left>", "right", "top", "a--b"[:1], "e"))
EDGES = len(edge_index(len(NODES)))


def audited(x, names, *, shape=None, explained=None, maps=None, after=None, k=3):
    """What the page reads of an audit of inputs [m, n]."""
    x = np.asarray(x, np.float32)
    maps = np.abs(x) if maps is None else np.asarray(maps, float)
    after = maps if after is None else np.asarray(after, float)
    shape = x.shape[1:] if shape is None else shape
    asked = SimpleNamespace(
        k=k,
        names=tuple(names),
        shape=shape,
        explained_shape=shape if explained is None else explained,
    )
    top_k = np.argsort(-maps, axis=1, kind="stable")[:, :k]
    return SimpleNamespace(
        x=x.reshape(len(x), -1),
        perturbed=x.reshape(len(x), -1),
        maps=maps,
        perturbed_maps=after,
        top_k=top_k,
        counted=np.ones(len(x), bool),
        asked=asked,
    )


def matrices(v=4, m=2):
    x = np.random.default_rng(0).normal(size=(m, v, v))
    return x + x.swapaxes(1, 2)


def test_rows_are_a_graph_by_the_names_of_their_edges():
    graph = graphs.graph_of(audited(np.ones((2, EDGES)), edge_names(NODES)))
    assert graph.nodes == NODES
    np.testing.assert_array_equal(graph.edges, edge_index(len(NODES)))


@pytest.mark.parametrize(
    "names",
    [
        [f"feature {i}" for i in range(EDGES)],
        [f"{i}--{i}" for i in range(EDGES)],
        edge_names(NODES)[::-1],
        edge_names(NODES)[:-1],
    ],
    ids=["features", "pairs of no graph", "another order", "too few"],
)
def test_other_rows_are_none(names):
    assert graphs.graph_of(audited(np.ones((2, len(names))), names)) is None


def test_matrices_are_a_graph_where_all_are_symmetric():
    x = matrices()
    shape = x.shape[1:]
    names = [str(at) for at in np.ndindex(shape)]
    rows = x.reshape(2, -1)
    graph = graphs.graph_of(audited(rows, names, shape=shape))
    assert graph.nodes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(graph.edges[6], [1, 2])
    image = rows.copy()
    image[1, 1] += 1
    assert graphs.graph_of(audited(image, names, shape=shape)) is None
    # Nodes that are explained as wholes, as tokens are, have no edges.
    of_nodes = audited(rows, "abcd", shape=shape, explained=(4,))
    assert graphs.graph_of(of_nodes) is None


def colours(svg):
    """Colour -> number of edges that are drawn so."""
    colours = re.findall(r'stroke="(#\w+)" stroke-width', svg)
    return {colour: colours.count(colour) for colour in set(colours)}


def test_each_top_edge_is_drawn_as_it_went():
    """Of the top edges 0, 1, 2 the last leaves, and 5 enters."""
    before = np.array([[5, 4, 3, 1, 0, 2.0, 0, 0, 0, 0]])
    after = np.array([[5, 4, 1, 1, 0, 6.0, 0, 0, 0, 0]])
    x = np.zeros((1, EDGES))
    x[0, :4] = 1
    report = audited(x, edge_names(NODES), maps=before, after=after)
    drawn = graphs.pair(report, graphs.graph_of(report), 0)
    first, second = drawn.split("</figure>")[:2]
    assert colours(first) == {drawing.BLUE: 2, drawing.ORANGE: 1}
    assert colours(second) == {drawing.BLUE: 2, drawing.GREEN: 1}
    # The heaviest is the widest: 5 of 5, and 6 of 6.
    assert 'stroke-width="4.0"' in first and 'stroke-width="4.0"' in second
    assert 'stroke-width="2.8" stroke-dasharray="5 3"' in first  # 1 + 3 · 3/5
    # Edge 5 is that of 1 and 3: the nodes of top edges alone are named, without what
    # all names begin with, and nothing of a name is markup.
    named = [re.findall(r">([^<>]+)</text>", half) for half in (first, second)]
    assert named == [["&lt;left&gt;", "right", "top", "a"]] * 2
    assert first.count("<circle") == len(NODES)
    (grey,) = re.findall(r'd="([^"]+)" fill="none" stroke="#ddd"', first)
    assert grey.count("M") == 4


def test_a_large_graph_stays_small():
    """Ten inputs of 200 regions with 50 top edges are a fraction of a page's MB."""
    v = 200
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, v * (v - 1) // 2))
    names = edge_names([f"area {i}" for i in range(v)])
    report = audited(x, names, after=np.abs(rng.normal(size=x.shape)), k=50)
    drawn = graphs.pair(report, graphs.graph_of(report), 0)
    assert sum(colours(drawn).values()) == 100
    assert len(drawn) < 60_000
    assert "</text>" not in drawn  # names would hide each other
    assert "#ddd" not in drawn  # 19,900 grey edges would be a thicket
