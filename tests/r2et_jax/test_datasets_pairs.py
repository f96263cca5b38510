"""Pairs of images and graphs: how they are checked, kept and found by name."""

import doctest
import importlib
import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from r2et_jax import datasets
from r2et_jax.datasets import digits, load, planted, save_pairs_npz
from r2et_jax.datasets.graphs import edge_index
from r2et_jax.datasets.pair_files import load_pairs_npz, load_table
from r2et_jax.datasets.pairing import fold_pairs, split_pairs
from r2et_jax.datasets.pairs import PairTable
from r2et_jax.datasets.soundness import fingerprint, validate

SPLITS = ("train", "valid", "test")
MODULES = ("digits", "graphs", "pairing", "pairs", "planted", "registry", "soundness")


def small_graphs(**changes):
    """30 graphs over five regions, ten entries each, in five folds."""
    rng = np.random.default_rng(0)
    labels = (np.arange(30) % 2).astype(np.int32)
    fields = {
        "name": "own",
        "kind": "graph",
        "inputs": rng.uniform(-1, 1, (30, 10)).astype(np.float32),
        "labels": labels,
        "pairs": fold_pairs(labels, partners=2, seed=0),
        "shape": (5, 5),
        "regions": tuple("abcde"),
        "lower": np.full(10, -1, np.float32),
        "upper": np.ones(10, np.float32),
        "truth": np.arange(10) < 3,
        "meta": {"seed": 0},
    }
    return PairTable(**{**fields, **changes})


def indices(split):
    return set(split.first.tolist()) | set(split.second.tolist())


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"r2et_jax.datasets.{name}")
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0
    assert result.attempted > 0 or name == "pairs"


# What a data set of pairs offers.


def test_gathered_arrays_agree_with_the_indices():
    table = small_graphs()
    data = table.fold(2)
    for name in SPLITS:
        split = getattr(data, name)
        for row in (0, -1):
            i, j = split.first[row], split.second[row]
            np.testing.assert_array_equal(split.x[row], table.inputs[i])
            np.testing.assert_array_equal(split.partner[row], table.inputs[j])
            assert split.label_x[row] == table.labels[i]
            assert split.label_partner[row] == table.labels[j]
            assert split.y[row] == (table.labels[i] == table.labels[j])
        assert split.x.dtype == np.float32
        assert split.y.dtype == split.label_x.dtype == np.int32
    assert data.fold == 2
    assert data.num_nodes == 5
    assert data.columns[:2] == ("a--b", "a--c")
    assert data.edges.tolist()[-1] == [3, 4]


def test_inputs_are_stored_once():
    data = small_graphs().fold(0)
    assert np.shares_memory(data.train.inputs, data.test.inputs)


@pytest.mark.parametrize("fold", [-1, 5])
def test_unknown_fold(fold):
    with pytest.raises(ValueError, match=f"fold must lie in 0…4, got {fold}"):
        small_graphs().fold(fold)


def changed_pair(row, column, value):
    table = small_graphs()
    pairs = table.pairs.copy()
    rows = np.flatnonzero((pairs[:, 0] == 0) & (pairs[:, 1] == row))
    pairs[rows[0], column] = value(table) if callable(value) else value
    return {"pairs": pairs}


def first_of(split):
    return lambda table: getattr(table.fold(0), split).first[0]


def changed_input(value):
    inputs = small_graphs().inputs.copy()
    inputs[3, 4] = value
    return {"inputs": inputs}


def copied_input():
    """A test graph with the entries of a training graph."""
    table = small_graphs()
    inputs = table.inputs.copy()
    inputs[first_of("test")(table)] = inputs[first_of("train")(table)]
    return {"inputs": inputs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sound"}, "unknown kind 'sound'; known: graph, image"),
        ({"shape": (5,)}, r"shape must be \(v, v\), got \(5,\)"),
        ({"regions": tuple("abcda")}, "5 distinct region names, got 5 names, 4 dis"),
        ({"shape": (4, 4), "regions": tuple("abcd")}, r"shape \(6,\), got \(10,\)"),
        ({"lower": np.zeros(3, np.float32)}, r"lower must have shape \(10,\), got"),
        ({"truth": np.ones(10)}, "truth must be bool, got float64"),
        (changed_input(np.nan), r"input 3, entry 4: got nan, expected .*\[-1"),
        (changed_input(1.5), "input 3, entry 4: got 1.5"),
        ({"labels": np.zeros(30, np.int32)}, "at least two classes"),
        ({"labels": small_graphs().labels * 2}, "no row of class 1 below class 2"),
        (changed_pair(0, 3, 30), r"train: expected indices 0…29"),
        (changed_pair(1, 2, -1), r"valid: expected indices 0…29"),
        (changed_pair(0, 3, changed_pair(0, 3, 0)["pairs"][0, 2]), "with itself"),
        (changed_pair(2, 3, first_of("valid")), "training graphs as partners, got 1"),
        (changed_pair(2, 2, first_of("valid")), "valid and test share 1 inputs"),
        (copied_input(), "train and test share 1 inputs"),
    ],
)
def test_unsound_pairs_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"{message}"):
        small_graphs(**changes).fold(0)


def test_splits_need_both_kinds_of_pairs():
    table = small_graphs()
    pairs, labels = table.pairs, table.labels
    different = labels[pairs[:, 2]] != labels[pairs[:, 3]]
    lonely = pairs[~((pairs[:, 1] == 1) & different)]
    with pytest.raises(ValueError, match="valid: expected pairs of the same .* y = 1"):
        table._replace(pairs=lonely).fold(0)
    with pytest.raises(ValueError, match="test split is empty"):
        table._replace(pairs=pairs[pairs[:, 1] < 2]).fold(0)


def test_partners_of_images_stay_in_their_split():
    graphs = small_graphs()
    table = graphs._replace(kind="image", shape=(2, 5), regions=())
    with pytest.raises(ValueError, match="train and valid share"):
        table.fold(0)
    splits = np.split(np.arange(30), [20, 24])
    pairs = split_pairs(graphs.labels, splits, (10, 2, 2), seed=0)
    data = table._replace(pairs=pairs).fold()
    assert data.columns[5] == "pixel_1_0"
    assert data.num_nodes is None and data.edges is None


# Digests and files.


def test_fingerprint_sees_content_and_nothing_else():
    table = small_graphs()
    data = table.fold(0)
    first = fingerprint(data)
    assert len(first) == 64
    assert fingerprint(small_graphs(name="other", meta={}).fold(0)) == first
    inputs = table.inputs.copy()
    inputs[0, 0] = np.nextafter(inputs[0, 0], np.float32(9))
    others = [
        table.fold(1),
        small_graphs(inputs=inputs).fold(0),
        small_graphs(labels=1 - table.labels).fold(0),
        small_graphs(truth=None).fold(0),
        small_graphs(truth=~table.truth).fold(0),
        small_graphs(regions=tuple("abcdf")).fold(0),
        small_graphs(lower=table.lower - 1).fold(0),
        data._replace(valid=data.test, test=data.valid),
    ]
    assert len({first, *map(fingerprint, others)}) == 1 + len(others)
    validate(data)


@pytest.mark.parametrize("truth", [None, np.arange(10) < 3])
def test_file_gives_back_what_was_saved(truth, tmp_path):
    table = small_graphs(truth=truth)
    save_pairs_npz(tmp_path / "own.npz", table)
    for fold in (0, 3):
        data = load_pairs_npz(str(tmp_path / "own.npz"), fold=fold)
        assert fingerprint(data) == fingerprint(table.fold(fold))
        assert data.meta["seed"] == 0 and data.name == "own"
    assert [p.name for p in tmp_path.iterdir()] == ["own.npz"]


def test_the_name_on_disk_is_the_name(tmp_path):
    """Two files of the same inner name are two data sets."""
    table = small_graphs(name="cohort")
    inputs = table.inputs.copy()
    inputs[inputs > 0] *= 0.5
    save_pairs_npz(tmp_path / "cohort.npz", table._replace(inputs=inputs))
    save_pairs_npz(tmp_path / "cohort_2023.npz", table)
    first, second = (
        load(name, data_dir=tmp_path) for name in ("cohort", "cohort_2023")
    )
    assert (first.name, second.name) == ("cohort", "cohort_2023")
    assert fingerprint(first) != fingerprint(second)


def test_images_are_kept_as_bytes(tmp_path):
    table = digits()
    whole = np.rint(table.inputs * 16).astype(np.float32) * 15 / np.float32(255)
    save_pairs_npz(tmp_path / "a.npz", table._replace(inputs=whole), scale=255)
    with np.load(tmp_path / "a.npz") as file:
        assert file["inputs"].dtype == np.uint8
    np.testing.assert_array_equal(load_table(tmp_path / "a.npz").inputs, whole)
    with pytest.raises(ValueError, match="no multiples of 1/255"):
        save_pairs_npz(tmp_path / "b.npz", table, scale=255)
    assert not (tmp_path / "b.npz").exists()


def test_unsound_table_is_not_saved(tmp_path):
    save_pairs_npz(tmp_path / "own.npz", small_graphs())
    before = (tmp_path / "own.npz").read_bytes()
    with pytest.raises(ValueError, match="share 1 inputs"):
        save_pairs_npz(tmp_path / "own.npz", small_graphs(**copied_input()))
    assert (tmp_path / "own.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": None}, "array 'truth' is missing, expected inputs, labels"),
        ({"meta": np.array('{"format_version": 9}')}, "format version 9, expected 1"),
        ({"pairs": np.zeros((4, 3), int)}, r"shape \[p, 4\], got \(4, 3\)"),
        ({"regions": np.array(["a", object()])}, "array 'regions' holds object"),
    ],
)
def test_load_refuses(changes, message, tmp_path):
    path = tmp_path / "own.npz"
    save_pairs_npz(path, small_graphs())
    with np.load(path) as file:
        arrays = {**{key: file[key] for key in file.files}, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message) as error:
        load_pairs_npz(path)
    assert "own.npz" in str(error.value)


def test_load_refuses_truncated_and_missing_files(tmp_path):
    path = tmp_path / "own.npz"
    save_pairs_npz(path, small_graphs())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="own.npz is not a complete .npz file"):
        load_pairs_npz(path)
    with pytest.raises(FileNotFoundError, match="gone.npz"):
        load_pairs_npz(tmp_path / "gone.npz")


# By name.


def test_digits():
    data = load("digits")
    assert data.kind == "image" and data.shape == (8, 8)
    assert [getattr(data, s).y.size for s in SPLITS] == [2000, 400, 400]
    assert data.train.inputs.shape == (357, 64)  # 183 threes, 174 eights
    assert np.bincount(data.train.labels).tolist() == [183, 174]
    assert data.train.inputs.max() == 1 and data.train.inputs.min() == 0
    sets = [indices(getattr(data, s)) for s in SPLITS]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert all(getattr(data, s).y.mean() == 0.5 for s in SPLITS)
    assert fingerprint(digits(seed=1).fold()) != fingerprint(data)


@pytest.mark.parametrize("seed", [0, 3])
def test_planted_classes_differ_in_the_true_edges_alone(seed):
    table = planted(seed=seed)
    x, y, truth = table.inputs, table.labels, table.truth
    assert x.shape == (100, 435) and truth.sum() == 10
    regions = set(edge_index(30)[truth].ravel().tolist())
    assert sorted(regions) == table.meta["planted"]
    groups = x[y == 0], x[y == 1]
    error = np.sqrt(sum(g.var(axis=0, ddof=1) / len(g) for g in groups))
    score = (groups[1].mean(axis=0) - groups[0].mean(axis=0)) / error
    assert score[truth].min() > 10
    # 425 standard scores: beyond 4.5 with a chance of one in 300.
    assert np.abs(score[~truth]).max() < 4.5
    assert 0.8 < score[~truth].std() < 1.2
    for entries, low, high in ((truth, 0.99, 1), (~truth, 0.0, 0.75)):
        model = LogisticRegression(max_iter=1000).fit(x[:50, entries], y[:50])
        auc = roc_auc_score(y[50:], model.decision_function(x[50:, entries]))
        assert low <= auc <= high


def test_planted_sizes_and_seed():
    table = planted(num_nodes=9, num_graphs=20, num_planted=4, partners=1, seed=5)
    again = planted(num_nodes=9, num_graphs=20, num_planted=4, partners=1, seed=5)
    assert table.inputs.shape == (20, 36) and table.truth.sum() == 6
    for fold in range(5):
        assert fingerprint(table.fold(fold)) == fingerprint(again.fold(fold))
    assert (table.inputs < 0).mean() > 0.2, "correlations of either sign"
    json.dumps(table.meta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 3}, "num_nodes must be an integer of at least 4"),
        ({"num_graphs": 11}, "num_graphs must be even"),
        ({"num_planted": 30}, "num_planted must lie in 2…29"),
        ({"strength": 0.0}, r"strength must lie in \(0, 1\], got 0.0"),
    ],
)
def test_planted_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        planted(**options)


def test_load_by_name_and_fold(tmp_path):
    assert load("planted", fold=4).fold == 4
    save_pairs_npz(tmp_path / "hiv.npz", small_graphs())
    data = load("hiv", data_dir=tmp_path, fold=1)
    assert fingerprint(data) == fingerprint(small_graphs().fold(1))
    for name in ("digits", "breast_cancer"):
        with pytest.raises(ValueError, match="fold"):
            load(name, fold=1)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mnist", "images"),
        ("cifar10", "images"),
        ("adhd", "brain_graphs"),
        ("bp", "brain_graphs"),
    ],
)
def test_missing_file_tells_the_command(name, module, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"data_prep.{module} --datasets={name}"
    ):
        load(name, data_dir=tmp_path)


def test_names_by_kind():
    assert "breast_cancer" in datasets.names()
    assert "mnist" in datasets.names("pairs") and "mnist" not in datasets.names()
    with pytest.raises(ValueError, match="unknown kind 'sounds'; known: images, pairs"):
        datasets.names("sounds")
