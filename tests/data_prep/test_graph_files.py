"""Each kind of raw file of graphs, by hand, and the checks that all must pass."""

import os
import pickle

import numpy as np
import pytest

from data_prep import folds, nel, tudataset
from data_prep.graph_table import GraphTable, checked, distinct
from tests.damage import with_mark

NEL = """\
n 1 n_7
n 2 n_2
n 3 n_10
e 1 2 1
e 2 3 0.5
g Graph 11
x -1

n 1 n_2
n 2 n_7
e 1 2 1
g Graph 12
x 1.0
"""
# Regions in order: n_2, n_7, n_10.
EXPECTED = [
    [[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]],
    [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
]

TU = {
    "KKI_A.txt": "1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n",
    "KKI_graph_indicator.txt": "1\n1\n1\n2\n2\n",
    "KKI_graph_labels.txt": "-1\n1\n",
    "KKI_node_labels.txt": "7\n2\n10\n2\n7\n",
}


def encoded(texts):
    return {file: text.encode() for file, text in texts.items()}


# .nel files.


def test_nel_by_hand():
    table = nel.read(NEL.encode(), "own.nel")
    assert table.regions == ("n_2", "n_7", "n_10")
    np.testing.assert_array_equal(table.labels, [-1, 1])
    np.testing.assert_array_equal(table.adjacency, EXPECTED)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("e 1 2 1\ne 2", "e 1 4 1\ne 2", "line 4: this graph has no node 4"),
        ("e 1 2 1\ne 2", "e 1 2\ne 2", "line 4: got 'e 1 2', expected e NODE NODE"),
        ("e 1 2 1\ne 2", "e 1 2 nan\ne 2", "line 4: weight is 'nan', expected a num"),
        ("e 1 2 1\ne 2", "e 1 1 1\ne 2", "line 7: an edge from 'n_7' to itself"),
        ("e 2 3 0.5", "e 2 1 3", "line 7: edge 'n_2', 'n_7' has the weights 1.0 and"),
        ("x -1", "x sick", "line 7: label is 'sick', expected an integer"),
        ("x -1", "x 0.5", "line 7: label is '0.5'"),
        ("x -1", "x 1e300", "line 7: label is '1e300', expected an integer within"),
        ("x 1.0", "", "line 12: the file ends before the graph's class"),
        ("n 3 n_10", "n 2 n_10", "line 3: node 2 twice in one graph"),
        ("n 3 n_10", "n 3 n_7", "line 7: region 'n_7' twice"),
        ("n 3 n_10", "v 3 n_10", "line 3: got 'v 3 n_10', expected n NUMBER REGION"),
        (NEL, "", "holds no graphs"),
    ],
)
def test_nel_refuses(old, new, message):
    assert old in NEL
    with pytest.raises(ValueError, match=f"own.nel.*{message}"):
        nel.read(NEL.replace(old, new, 1).encode(), "own.nel")


def test_files_behind_a_byte_order_mark():
    assert nel.read(with_mark(NEL.encode()), "own").regions[0] == "n_2"
    marked = {file: with_mark(text) for file, text in encoded(TU).items()}
    np.testing.assert_array_equal(tudataset.read(marked, "KKI").labels, [-1, 1])


def test_a_short_file_of_many_regions_is_refused():
    """Twice as many need a matrix of four times the size."""
    nodes = "".join(f"n {i} n_{i}\n" for i in range(8193))
    with pytest.raises(ValueError, match="1 graphs over 8193 regions have more than"):
        nel.read(f"{nodes}x 1\n".encode(), "own")
    part = "".join(f"{i}\n" for i in range(8193))
    texts = {**TU, "KKI_node_labels.txt": part, "KKI_graph_indicator.txt": "1\n" * 8193}
    with pytest.raises(ValueError, match="2 graphs over 8193 regions have more than"):
        tudataset.read({**encoded(texts), "KKI_A.txt": b"1, 2\n"}, "KKI")


def test_nel_that_is_no_text():
    with pytest.raises(ValueError, match="own.nel is not a readable text file"):
        nel.read(b"n 1 \xff", "own.nel")


# The TUDataset collection.


def test_collection_by_hand():
    table = tudataset.read(encoded(TU), "KKI")
    assert table.regions == ("n_2", "n_7", "n_10")
    np.testing.assert_array_equal(table.labels, [-1, 1])
    np.testing.assert_array_equal(table.adjacency, np.array(EXPECTED) > 0)


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("A", "4, 5", "4, 6", "_A.txt, line 5: got 6, expected one of the nodes 1…5"),
        ("A", "4, 5", "0, 5", "_A.txt, line 5: got 0"),
        ("A", "4, 5", f"4, {10**30}", "_A.txt, line 5: got '4, 1000"),
        ("node_labels", "7\n2", f"{2**63}\n2", "line 1: got '9223372036854775808'"),
        ("graph_labels", "-1", f"{2**31}", "line 1: label is '2147483648', expected"),
        ("A", "4, 5", "3, 4", "_A.txt, line 5: an edge between the graphs 1 and 2"),
        ("A", "4, 5", "4 5", "_A.txt, line 5: got '4 5', expected 2 integers"),
        ("graph_indicator", "2\n2", "2\n3", "line 5: got 3, expected one of the gr"),
        ("graph_labels", "-1", "no", "graph_labels.txt, line 1: label is 'no'"),
        ("node_labels", "7\n2\n", "7\n", "expected 5 lines.*got 4"),
        ("node_labels", "7\n2\n10", "7\n7\n10", "KKI, graph 1: region 'n_7' twice"),
    ],
)
def test_collection_refuses(part, old, new, message):
    file = f"KKI_{part}.txt"
    assert old in TU[file]
    contents = {**TU, file: TU[file].replace(old, new, 1)}
    with pytest.raises(ValueError, match=message):
        tudataset.read(encoded(contents), "KKI")


# Pickled folds.


def fold_of(rng, m, v=3, **changes):
    x = rng.uniform(-1, 1, (m, v, v))
    x = (x + x.transpose(0, 2, 1)) / 2
    x[:, range(v), range(v)] = 1
    part = {"X": x.reshape(m, v * v), "y": np.where(np.arange(m) % 2, 1, -1)}
    return {**part, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [f], "keys train and test, got a list"),
        (lambda f: {"train": f["train"]}, "got a dict with the keys train"),
        (lambda f: {**f, "test": {"X": f["test"]["X"]}}, "arrays X and y"),
        (lambda f: {**f, "test": {**f["test"], "y": [1]}}, "arrays X and y"),
        (lambda f: {**f, "test": {**f["test"], "X": np.ones((4, 8))}}, r"\[m, v²\]"),
        (lambda f: {**f, "test": {**f["test"], "y": np.ones(3)}}, "4 integers"),
        (
            lambda f: {**f, "test": {**f["test"], "y": np.full(4, 0.5)}},
            "label 0 is 0.5",
        ),
        (lambda f: {**f, "test": {**f["test"], "y": np.full(4, 1j)}}, "got complex"),
        (lambda f: {**f, "test": {**f["test"], "y": np.full(4, 1 + 0j)}}, "complex"),
        (lambda f: {**f, "test": {**f["test"], "y": np.full(4, 1e30)}}, "is 1e.30"),
        (
            lambda f: {**f, "test": {**f["test"], "y": np.full(4, 2**63, np.uint64)}},
            "is 9223372036854775808, expected an integer within",
        ),
        (
            lambda f: {**f, "test": {**f["test"], "X": np.full((4, 9), "a")}},
            "real numbers",
        ),
        (
            lambda f: {**f, "test": fold_of(np.random.default_rng(0), 4, v=4)},
            r"same regions everywhere, got \[3, 4\]",
        ),
    ],
)
def test_folds_refuse(change, message):
    rng = np.random.default_rng(0)
    fold = change({"train": fold_of(rng, 6), "test": fold_of(rng, 4)})
    with pytest.raises(ValueError, match=message):
        folds.read({"fold_1": pickle.dumps(fold)})


def test_malicious_fold_is_not_run(calls, tmp_path):
    witness = tmp_path / "executed"
    fold = {"train": calls(os.system, f"touch {witness}"), "test": {}}
    with pytest.raises(ValueError, match="fold_1 is refused as a pickle: it asks for"):
        folds.read({"fold_1": pickle.dumps(fold)})
    assert not witness.exists()


# Checks of all.


def made_up(m=20, v=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (m, v, v))
    x = (x + x.transpose(0, 2, 1)) / 2
    return GraphTable(x, np.arange(m) % 2, tuple("abcdefgh"[:v]))


def with_entry(value, *places):
    table = made_up()
    for place in places:
        table.adjacency[place] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (with_entry(0.3, (2, 1, 4)), r"graph 2 must be symmetric, got .* at \(1, 4\)"),
        (with_entry(np.nan, (3, 0, 1), (3, 1, 0)), r"graph 3, entry \(0, 1\) is nan"),
        (made_up()._replace(labels=np.arange(3)), r"20 labels.*got shape \(3,\)"),
        (made_up()._replace(labels=np.ones(20)), "labels must be integers, got float"),
        (made_up()._replace(regions=tuple("abcda")), "5 distinct region names, got 5"),
        (made_up()._replace(adjacency=np.ones((20, 5, 4))), r"\[m, v, v\], got"),
    ],
)
def test_unsound_graphs_are_refused(table, message):
    with pytest.raises(ValueError, match=f"own.*{message}"):
        checked(table, "own")


def test_equal_graphs_of_two_classes_are_refused():
    table = made_up()
    table.adjacency[7] = table.adjacency[2]
    with pytest.raises(ValueError, match="graphs 2 and 7 are equal, .* are 0 and 1"):
        distinct(table, "own")
