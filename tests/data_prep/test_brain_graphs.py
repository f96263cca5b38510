"""Prepared pairs of brain graphs, from hand-made raw files and from the real ones."""

import hashlib
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep import brain_graphs, folds, nel
from data_prep.graph_table import GraphTable, checked, distinct
from data_prep.sources import SOURCES
from experiments.measures.linear_graphs import linear_graph_auc
from r2et_jax.datasets import graphs, load, registry, soundness
from r2et_jax.datasets.pair_files import load_pairs_npz, load_table

REPOSITORY = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")

# Pickled folds.


def fold_of(rng, m, v=3, **changes):
    x = rng.uniform(-1, 1, (m, v, v))
    x = (x + x.transpose(0, 2, 1)) / 2
    x[:, range(v), range(v)] = 1
    part = {"X": x.reshape(m, v * v), "y": np.where(np.arange(m) % 2, 1, -1)}
    return {**part, **changes}


def small_folds(folder, name="hiv", v=6):
    """Three folds that share their 24 graphs out anew, as the real files do."""
    rng = np.random.default_rng(0)
    whole = fold_of(rng, 24, v)
    sources = []
    for number, source in enumerate(SOURCES[name]):
        test = np.arange(24) % 3 == number
        parts = {
            part: {key: value[rows] for key, value in whole.items()}
            for part, rows in (("train", ~test), ("test", test))
        }
        content = pickle.dumps(parts, 3)
        (folder / source.file).write_bytes(content)
        sources.append(source._replace(sha256=hashlib.sha256(content).hexdigest()))
    return whole, {name: tuple(sources)}


def test_folds_are_pooled_and_copies_dropped(tmp_path):
    whole, sources = small_folds(tmp_path)
    contents = {s.file: (tmp_path / s.file).read_bytes() for s in sources["hiv"]}
    table = folds.read(contents)
    assert table.adjacency.shape == (72, 6, 6)
    kept = distinct(checked(table, "hiv"), "hiv")
    assert kept.labels.size == 24
    expected = {m.tobytes(): y for m, y in zip(whole["X"], whole["y"], strict=True)}
    for matrix, label in zip(kept.adjacency, kept.labels, strict=True):
        assert expected[matrix.ravel().tobytes()] == label


def made_up(m=20, v=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (m, v, v))
    x = (x + x.transpose(0, 2, 1)) / 2
    return GraphTable(x, np.arange(m) % 2, tuple("abcdefgh"[:v]))


# Prepared files.


def prepare_hiv(tmp_path, **options):
    whole, sources = small_folds(tmp_path)
    options = {"data_dir": tmp_path / "out", "sources": sources, **options}
    path = brain_graphs.prepare("hiv", raw_dir=tmp_path, **options)
    return whole, path


@pytest.mark.parametrize("absolute", [None, True, False])
def test_inputs_are_the_upper_triangle(absolute, tmp_path):
    whole, path = prepare_hiv(tmp_path, absolute=absolute, partners=2)
    data = load("hiv", data_dir=path.parent)
    taken = absolute is not False
    assert data.meta["absolute"] is taken
    assert data.meta["graphs_read"] == 72
    assert data.meta["classes"] == ["label -1", "label 1"]
    assert (data.lower == (0 if taken else -1)).all() and (data.upper == 1).all()
    rows, columns = np.triu_indices(6, 1)
    expected = whole["X"].reshape(-1, 6, 6)[:, rows, columns]
    expected = (np.abs(expected) if taken else expected).astype(np.float32)
    known = {row.tobytes(): y for row, y in zip(expected, whole["y"], strict=True)}
    assert len(known) == data.train.labels.size == 24
    for row, label in zip(data.train.inputs, data.train.labels, strict=True):
        assert label == (known[row.tobytes()] + 1) // 2
    assert data.columns[1] == "region_0--region_2"


def test_folds_and_pairs_of_a_prepared_file(tmp_path):
    _, path = prepare_hiv(tmp_path, partners=3)
    tested = []
    for fold in range(5):
        data = load_pairs_npz(path, fold=fold)
        firsts = [set(getattr(data, s).first.tolist()) for s in SPLITS]
        assert not (firsts[0] & firsts[1] or firsts[0] & firsts[2])
        assert not firsts[1] & firsts[2]
        for name in SPLITS:
            split = getattr(data, name)
            assert split.y.mean() == 0.5
            assert set(split.second.tolist()) <= firsts[0]
            assert split.y.size == 6 * len(set(split.first.tolist()))
        tested += firsts[2]
    assert sorted(tested) == list(range(24))


def test_seed_decides(tmp_path):
    prints = []
    for number, seed in enumerate((0, 0, 1)):
        _, path = prepare_hiv(tmp_path, data_dir=tmp_path / str(number), seed=seed)
        prints.append(soundness.fingerprint(load_pairs_npz(path)))
    assert prints[0] == prints[1] != prints[2]


def test_bp_is_read_without_a_known_checksum(tmp_path):
    small_folds(tmp_path, "bp")
    path = brain_graphs.prepare("bp", raw_dir=tmp_path, data_dir=tmp_path)
    meta = load("bp", data_dir=tmp_path).meta
    content = (tmp_path / "BP_fMRI_fold_2").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert meta["sha256"]["BP_fMRI_fold_2"] == digest
    assert path.name == "bp.npz"


def test_files_fetched_by_hand_are_not_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="by hand from https://github.*raw_dir"):
        brain_graphs.prepare("hiv", raw_dir=None, data_dir=tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        brain_graphs.prepare("hiv", raw_dir=tmp_path, data_dir=tmp_path)
    assert "no file HIV_fMRI_fold_1" in str(error.value)
    assert "leave --raw_dir out" not in str(error.value)


def as_collection(table, folder):
    """Write graphs as the four files of the collection, both directions of an edge."""
    edges, graph_of, node_labels, offset = [], [], [], 1
    for number, matrix in enumerate(table.adjacency, start=1):
        nodes = np.flatnonzero(matrix.any(axis=0))
        place = {node: offset + i for i, node in enumerate(nodes)}
        edges += [f"{place[a]}, {place[b]}" for a, b in np.argwhere(matrix)]
        graph_of += [str(number)] * nodes.size
        node_labels += [table.regions[node].removeprefix("n_") for node in nodes]
        offset += nodes.size
    lines = {
        "A": edges,
        "graph_indicator": graph_of,
        "graph_labels": [str(label) for label in table.labels],
        "node_labels": node_labels,
    }
    for part, content in lines.items():
        (folder / f"KKI_{part}.txt").write_text("\n".join(content) + "\n")


def many_graphs(m=30):
    rng = np.random.default_rng(0)
    texts = []
    for number in range(m):
        nodes = rng.permutation(12)[:8]
        texts += [f"n {i} n_{node}" for i, node in enumerate(nodes, start=1)]
        texts += [f"e {i} {i + 1} 1" for i in range(1, 8) if i != 1 + number % 6]
        texts += [f"g Graph {number}", f"x {1 if number % 2 else -1}"]
    return "\n".join(texts).encode()


@pytest.mark.parametrize("where", ["flat", "folder", "zip"])
def test_collection_and_nel_give_the_same_data(where, tmp_path):
    content = many_graphs()
    (tmp_path / "nel").mkdir()
    (tmp_path / "nel" / "KKI.nel").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    sources = {"adhd": (SOURCES["adhd"][0]._replace(sha256=digest),)}
    first = brain_graphs.prepare(
        "adhd", raw_dir=tmp_path / "nel", data_dir=tmp_path / "a", sources=sources
    )
    raw = tmp_path / "raw"
    folder = raw / "KKI" if where == "folder" else raw
    folder.mkdir(parents=True)
    as_collection(nel.read(content, "KKI.nel"), folder)
    if where == "zip":
        with zipfile.ZipFile(raw / "KKI.zip", "w") as archive:
            for file in list(raw.glob("*.txt")):
                archive.write(file, f"KKI/{file.name}")
                file.unlink()
    second = brain_graphs.prepare("adhd", raw_dir=raw, data_dir=tmp_path / "b")
    for fold in (0, 4):
        collection, other = (
            load_pairs_npz(path, fold=fold) for path in (first, second)
        )
        assert soundness.fingerprint(collection) == soundness.fingerprint(other)
    assert collection.meta["sparse"] and not collection.meta["absolute"]
    assert len(other.meta["sha256"]) == 4


# A user's own file.


def own_file(folder, **changes):
    table = made_up()
    arrays = {"adjacency": table.adjacency, "labels": table.labels + 5, **changes}
    path = folder / "own.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return table, path


def test_own_file(tmp_path):
    table, path = own_file(tmp_path, regions=np.array(list("abcde")))
    out = brain_graphs.prepare_own(path, data_dir=tmp_path / "out", partners=2)
    data = load_pairs_npz(out, fold=1)
    assert data.name == "own" and data.regions == tuple("abcde")
    assert data.meta["classes"] == ["label 5", "label 6"]
    assert not data.meta["absolute"] and (data.lower == -1).all()
    entry = data.train.inputs[3, data.columns.index("b--e")]
    np.testing.assert_array_equal(entry, np.float32(table.adjacency[3, 1, 4]))


def test_an_own_file_is_known_by_its_name(tmp_path):
    out = tmp_path / "out"
    assert registry.prepared(out) == ()
    _, path = own_file(tmp_path)
    brain_graphs.prepare_own(path, data_dir=out)
    np.savez(out / "other.npz", x=np.ones(3))
    (out / "broken.npz").write_text("no zip")
    assert registry.prepared(out) == ("own",)
    data = load("own", data_dir=out, fold=2)
    assert data.name == "own" and data.fold == 2
    with pytest.raises(ValueError, match="unknown dataset 'other'.*own"):
        load("other", data_dir=out)
    with pytest.raises(ValueError, match="fold must lie in"):
        load("own", data_dir=out, fold=7)


def test_graphs_of_three_classes_have_a_linear_baseline(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    weights = rng.normal(size=(30, 6, 6))
    weights[np.arange(30), labels, labels + 1] += 30
    weights = weights + weights.transpose(0, 2, 1)
    _, path = own_file(tmp_path, adjacency=weights, labels=labels)
    brain_graphs.prepare_own(path, data_dir=tmp_path / "out")
    pairs, single = linear_graph_auc(load("own", data_dir=tmp_path / "out"))
    assert pairs > 0.95 and single == 1


def test_own_edges_may_be_booleans(tmp_path):
    table, path = own_file(tmp_path, adjacency=made_up().adjacency > 0)
    data = load_pairs_npz(brain_graphs.prepare_own(path, data_dir=tmp_path / "out"))
    assert set(np.unique(data.train.inputs)) == {0, 1}


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_rounding_is_relative_to_the_weights(scale, tmp_path):
    """Small weights are no copies of each other, large ones are symmetric."""
    table = made_up()
    rng = np.random.default_rng(0)
    noise = 1 + 1e-7 * rng.normal(size=table.adjacency.shape)
    _, path = own_file(tmp_path, adjacency=scale * table.adjacency * noise)
    data = load_pairs_npz(brain_graphs.prepare_own(path, data_dir=tmp_path / "out"))
    assert data.meta["graphs_read"] == len(table.labels)
    assert len(np.unique(data.train.inputs, axis=0)) == len(data.train.inputs)
    lopsided = scale * table.adjacency
    lopsided[0, 1, 2] += scale * 1e-3
    _, path = own_file(tmp_path, adjacency=lopsided)
    with pytest.raises(ValueError, match="must be symmetric"):
        brain_graphs.prepare_own(path, data_dir=tmp_path / "out")


def test_a_large_graph_or_diagonal_makes_no_copies_of_small_ones(tmp_path):
    adjacency = made_up().adjacency.copy()
    adjacency[0] *= 1e8
    adjacency[1, range(5), range(5)] = 1e9
    _, path = own_file(tmp_path, adjacency=adjacency)
    data = load_pairs_npz(brain_graphs.prepare_own(path, data_dir=tmp_path / "out"))
    assert len(np.unique(data.train.inputs, axis=0)) == len(adjacency)
    adjacency[2, 0, 1] += 1e-3
    _, path = own_file(tmp_path, adjacency=adjacency)
    with pytest.raises(ValueError, match="graph 2 must be symmetric"):
        brain_graphs.prepare_own(path, data_dir=tmp_path / "out")


def test_a_known_name_is_no_name_for_an_own_file(tmp_path):
    _, path = own_file(tmp_path)
    with pytest.raises(ValueError, match="hiv is a known data set"):
        brain_graphs.prepare_own(path.rename(tmp_path / "hiv.npz"), data_dir=tmp_path)


def test_own_weights_of_any_size_have_their_range_as_box(tmp_path):
    _, path = own_file(tmp_path, adjacency=made_up().adjacency * 30)
    data = load_pairs_npz(brain_graphs.prepare_own(path, data_dir=tmp_path / "out"))
    assert data.lower[0] == data.train.inputs.min() < -10
    assert data.upper[0] == data.train.inputs.max() > 10
    assert data.regions[0] == "region_0"


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e39, r"largest entry of distinct graph 0 is \d.\d+e\+38, .* 3.4e\+38"),
        (1e-45, "largest entry of distinct graph 0 is .*e-46, .* another unit"),
        (1e-39, "largest .*, expected one that float32 holds, 1.18e-38 …"),
    ],
)
def test_own_weights_that_float32_does_not_hold(scale, message, tmp_path):
    """Finite in the file, but infinite, zero or flushed to zero where computed."""
    _, path = own_file(tmp_path, adjacency=made_up().adjacency * scale)
    with pytest.raises(ValueError, match=f"own: the {message}"):
        brain_graphs.prepare_own(path, data_dir=tmp_path / "out")
    _, path = own_file(tmp_path, adjacency=made_up().adjacency * 1e38)
    brain_graphs.prepare_own(path, data_dir=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "array 'labels' is missing"),
        ({"labels": np.arange(20) % 2 / 2}, "labels must be integers"),
        ({"labels": np.zeros(20, int)}, "5 folds need two classes"),
        ({"adjacency": np.array([["a"]])}, "real numbers, got <U1"),
        ({"adjacency": np.ones((20, 3, 3)) + 0j}, "real numbers, got complex128"),
        ({"adjacency": np.ones((0, 3, 3))}, r"\[m, v, v\], got \(0, 3, 3\)"),
        ({"regions": np.array("abcde")}, r"regions must have shape \[v\], got \(\)"),
        ({"adjacency": np.ones((20, 3, 4))}, r"\[m, v, v\], got \(20, 3, 4\)"),
        ({"adjacency": np.array([object()])}, "'adjacency' holds object"),
    ],
)
def test_own_file_refused(changes, message, tmp_path):
    _, path = own_file(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        brain_graphs.prepare_own(path, data_dir=tmp_path / "out")
    assert not (tmp_path / "out" / "own.npz").exists()


def test_own_file_is_not_replaced(tmp_path):
    _, path = own_file(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would be replaced"):
        brain_graphs.prepare_own(path, data_dir=tmp_path)
    assert path.read_bytes() == before


# The real files.


@pytest.fixture(scope="module")
def real(raw_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("adhd", "hiv"):
        brain_graphs.prepare(name, raw_dir=raw_dir, data_dir=folder)
    return folder


def test_real_adhd_against_a_recount(real, raw_dir):
    table = load_table(real / "adhd.npz")
    regions = {f"n_{i}": i for i in range(190)}
    assert table.regions == tuple(regions)
    assert np.bincount(table.labels).tolist() == [37, 46]
    text = (raw_dir / "KKI.nel").read_text()
    counts = []
    for block in text.split("\nx ")[:-1]:
        lines = [line.split() for line in block.splitlines() if line]
        names = {f[1]: regions[f[2]] for f in lines if f[0] == "n"}
        edges = [(names[f[1]], names[f[2]]) for f in lines if f[0] == "e"]
        expected = np.zeros((190, 190))
        for a, b in edges:
            expected[a, b] = expected[b, a] = 1
        row = table.inputs[len(counts)]
        np.testing.assert_array_equal(row, graphs.upper_triangle(expected))
        counts.append(len(edges))
    assert len(counts) == 83 and sum(counts) == 4019
    assert sum(count < 50 for count in counts) == 56
    assert table.meta["sparse"]


def test_real_hiv_can_be_told_apart(real):
    """A linear model tells the classes apart; how well varies with the split."""
    table = load_table(real / "hiv.npz")
    assert table.inputs.shape == (34, 4005)
    assert np.bincount(table.labels).tolist() == [17, 17]
    assert table.meta["graphs_read"] == 102 and table.meta["absolute"]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=1e-3))
    aucs = []
    for seed in range(5):
        scores = cross_val_predict(
            model,
            table.inputs,
            table.labels,
            cv=StratifiedKFold(5, shuffle=True, random_state=seed),
            method="decision_function",
        )
        aucs.append(roc_auc_score(table.labels, scores))
    assert np.mean(aucs) > 0.7


# The binary itself.


def binary(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.brain_graphs", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_binary_prepares_and_reports(raw_dir, tmp_path):
    _, stem = own_file(tmp_path)
    result = binary(
        "--datasets=hiv",
        f"--npz={stem}",
        f"--raw_dir={raw_dir}",
        f"--data_dir={tmp_path / 'out'}",
        "--noabsolute",
    )
    assert result.returncode == 0, result.stderr
    assert "hiv: 34 distinct graphs of 102, 90 regions" in result.stdout
    assert "5.6% of entries negative" in result.stdout
    assert "own: 20 distinct graphs of 20, 5 regions, 10 entries" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--datasets=hiv,iris"], "unknown dataset 'iris'; known: adhd, bp, hiv"),
        (["--datasets="], "--datasets is empty; known: adhd, bp, hiv"),
        (["--datasets=", "--npz={tmp}/gone.npz"], "gone.npz, expected adjacency"),
        (["--datasets=bp", "--raw_dir={tmp}"], "no file BP_fMRI_fold_1 in"),
    ],
)
def test_binary_on_mistakes(flags, message, tmp_path):
    result = binary(*(flag.format(tmp=tmp_path) for flag in flags))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
