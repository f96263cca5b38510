"""Containers, checks, splits, files and one-hot groups, on small made-up data."""

import ast
import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from r2et_jax import datasets
from r2et_jax.datasets import breast_cancer, from_arrays, load
from r2et_jax.datasets.containers import Split
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.soundness import fingerprint, validate
from r2et_jax.datasets.splitting import stratified_split
from r2et_jax.datasets.tabular import load_npz


def made_up(m=60, seed=0, **options):
    """Two numeric columns, one binary column, a group of three levels."""
    rng = np.random.default_rng(seed)
    level = np.where(rng.random(m) < 0.6, 4, rng.choice([3, 5], m))
    x = np.zeros((m, 6))
    x[:, 0] = rng.normal(50, 10, m)
    x[:, 1] = rng.exponential(3, m)
    x[:, 2] = rng.integers(0, 2, m)
    x[np.arange(m), level] = 1
    y = rng.permutation(np.arange(m) % 2)
    options = {
        "name": "own",
        "columns": ("age", "income", "member", "red", "green", "blue"),
        "groups": [(3, 4, 5)],
        "immutable": [0, 5],
        **options,
    }
    return x, y, from_arrays(x, y, **options)


def rows_of(split):
    return {tuple(row) for row in split.x.tolist()}


# Splits.


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_complete_and_stratified(seed):
    y = np.repeat([0, 1, 2], [700, 200, 100])
    splits = stratified_split(y, seed=seed)
    assert sorted(np.concatenate(splits)) == list(range(1000))
    assert [s.size for s in splits] == [700, 150, 150]
    for split in splits:
        counts = np.bincount(y[split]) / split.size
        np.testing.assert_allclose(counts, [0.7, 0.2, 0.1], atol=0.01)


def test_split_is_shuffled_and_seeded():
    y = np.arange(200) % 2
    first, again = stratified_split(y, seed=3), stratified_split(y, seed=3)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, np.sort(a))
    assert not np.array_equal(first[0], stratified_split(y, seed=4)[0])


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (1.0, 0.0, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)]
)
def test_split_refuses_fractions(fractions):
    with pytest.raises(ValueError, match="three positive shares") as error:
        stratified_split(np.arange(20) % 2, fractions=fractions)
    assert str(fractions) in str(error.value)


@pytest.mark.parametrize(
    ("y", "received"), [([0] * 9 + [1] * 2, "2 of class 1"), ([], "no rows")]
)
def test_split_refuses_rare_classes(y, received):
    with pytest.raises(ValueError, match=f"at least three rows.*{received}"):
        stratified_split(np.array(y, int))


def test_split_tells_when_rows_are_too_few():
    with pytest.raises(ValueError, match="cannot stratify 10 rows, 5 of the rarest"):
        stratified_split(np.arange(10) % 2)


# A user's own arrays.


def test_from_arrays_standardises_on_training_rows_alone():
    x, y, dataset = made_up(200)
    train, valid, test = stratified_split(y, seed=0)
    for column in (0, 1):
        values = x[train, column]
        expected = (x[test, column] - values.mean()) / values.std()
        np.testing.assert_allclose(dataset.test.x[:, column], expected, rtol=1e-5)
        assert dataset.train.x[:, column].mean() == pytest.approx(0, abs=1e-5)
        assert dataset.train.x[:, column].std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(dataset.test.x[:, 2:], x[test, 2:])
    np.testing.assert_array_equal(dataset.valid.y, y[valid])
    back = dataset.valid.x * np.array(dataset.meta["std"]) + dataset.meta["mean"]
    np.testing.assert_allclose(back, x[valid], rtol=1e-5, atol=1e-5)
    assert dataset.train.x.dtype == np.float32
    assert dataset.train.y.dtype == np.int32


def test_from_arrays_without_standardising():
    x, y, dataset = made_up(standardize=False)
    train, _, _ = stratified_split(y, seed=0)
    np.testing.assert_array_equal(dataset.train.x, x[train].astype(np.float32))


def test_from_arrays_box():
    _, _, open_box = made_up()
    np.testing.assert_array_equal(open_box.lower, [-np.inf] * 2 + [0] * 4)
    np.testing.assert_array_equal(open_box.upper, [np.inf] * 2 + [1] * 4)
    lower, upper = [0, 0, 0, 0, 0, 0], [120, 100, 1, 1, 1, 1]
    _, _, dataset = made_up(lower=lower, upper=upper)
    std, mean = np.array(dataset.meta["std"]), np.array(dataset.meta["mean"])
    np.testing.assert_allclose(dataset.lower * std + mean, lower, atol=1e-4)
    np.testing.assert_allclose(dataset.upper * std + mean, upper, atol=1e-4)


def test_constant_column_is_only_centred():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=50), np.full(50, 0.1)], axis=1)
    dataset = from_arrays(x, np.arange(50) % 2, name="own")
    np.testing.assert_allclose(dataset.train.x[:, 1], 0, atol=1e-7)


def test_columns_may_be_given_by_masks():
    red_to_blue, age = np.array([0, 0, 0, 1, 1, 1], bool), [True] + [False] * 5
    _, _, dataset = made_up(groups=[red_to_blue], immutable=age)
    assert dataset.groups == ((3, 4, 5),)
    assert dataset.immutable == (0,)
    with pytest.raises(ValueError, match="unknown immutable column True"):
        validate(dataset._replace(immutable=(True, False)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_from_arrays_names_row_and_column_of_nan(bad):
    x = np.zeros((20, 2))
    x[7, 1] = bad
    with pytest.raises(
        ValueError, match=f"row 7, column 'b': got {bad}, expected a fin"
    ):
        from_arrays(x, np.arange(20) % 2, name="own", columns=["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["a", "b"]}, "expected 6 column names, got 2"),
        ({"columns": ["a"] * 6}, "column names must differ, got 'a' twice"),
        ({"groups": [(3, 9)]}, r"groups\[0\]: feature indices .*0…5, got \[9\]"),
        ({"groups": [(3,)]}, "at least two columns"),
        ({"groups": [(3, 4, 5), (5, 2)]}, "disjoint, got column 5 \\('blue'\\) twice"),
        ({"groups": [(2, 3)]}, r"group \(member, red\) must be one-hot, got"),
        ({"immutable": [6]}, r"immutable: feature indices .*0…5, got \[6\]"),
        ({"immutable": [1.9]}, "immutable must be indices .*got 1.9 among them"),
        ({"immutable": ["age"]}, "immutable must be .*got the name 'age': give its"),
        ({"immutable": [True, False]}, "n = 6, got a mask of 2"),
        ({"lower": [0.0]}, r"lower must have shape \(6,\).*got \(1,\)"),
        ({"upper": [0.0] * 6}, "lower must be at most upper|outside the box"),
    ],
)
def test_from_arrays_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        made_up(**change)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(9), np.zeros(9, int), "x must have shape"),
        (np.zeros((9, 2)), np.zeros(8, int), r"got \(9, 2\) and \(8,\)"),
        (
            np.zeros((9, 2)),
            np.zeros(9),
            "y must hold integers 0…C−1, got dtype float64",
        ),
        (np.zeros((9, 2)), np.zeros(9, int), r"at least two classes, got only \[0\]"),
        (
            np.zeros((10, 2)),
            np.arange(10) % 2 * 2 - 1,
            r"labels must be 0…C−1, got \[-1, 1\]",
        ),
        (np.zeros((10, 2)), np.arange(10) % 2 * 2, "no row of class 1 below class 2"),
    ],
)
def test_from_arrays_refuses_shapes_and_labels(x, y, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(x, y, name="own")


# validate.


def test_validate_names_split_row_and_column():
    _, _, dataset = made_up()
    x = dataset.valid.x.copy()
    x[4, 1] = np.nan
    broken = dataset._replace(valid=Split(x, dataset.valid.y))
    with pytest.raises(ValueError, match="own: valid row 4, column 'income': got nan"):
        validate(broken)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: Split(s.x, np.zeros_like(s.y)), r"only \[0\]"),
        (lambda s: Split(s.x, s.y - 1), r"0…C−1, got \[-1, 0\]"),
        (lambda s: Split(s.x, s.y * 2), "class [12]"),
        (lambda s: Split(s.x[:0], s.y[:0]), "split is empty"),
        (lambda s: Split(s.x[1:], s.y), "x must have shape"),
        (lambda s: Split(s.x[:, 1:], s.y), r"x must have shape \[m, 6\]"),
        (lambda s: Split(s.x, s.y.astype(float)), "y must hold integers"),
        (lambda s: Split(s.x + 2, s.y), "outside the box"),
    ],
)
def test_validate_refuses_splits(split, change, message):
    _, _, dataset = made_up()
    broken = dataset._replace(**{split: change(getattr(dataset, split))})
    with pytest.raises(ValueError, match=f"own: {split}.*{message}"):
        validate(broken)


# fingerprint.


def test_fingerprint_sees_content_and_nothing_else():
    _, _, dataset = made_up()
    first = fingerprint(dataset)
    assert len(first) == 64
    assert fingerprint(made_up()[2]) == first
    assert fingerprint(dataset._replace(name="other", meta={})) == first
    x = dataset.test.x.copy()
    x[0, 0] = np.nextafter(x[0, 0], np.float32(9))
    others = [
        dataset._replace(test=Split(x, dataset.test.y)),
        dataset._replace(columns=("a", *dataset.columns[1:])),
        dataset._replace(groups=()),
        dataset._replace(immutable=()),
        dataset._replace(lower=dataset.lower - 1),
        dataset._replace(valid=dataset.test, test=dataset.valid),
        made_up(seed=1)[2],
    ]
    digests = {first, *map(fingerprint, others)}
    assert len(digests) == 1 + len(others)


# drop_reference.


def test_drop_reference_drops_the_most_frequent_level():
    _, _, dataset = made_up(lower=[0, -5, 0, 0, 0, 0], upper=[99, 99, 1, 1, 1, 1])
    assert dataset.train.x[:, 4].mean() > 0.4, "green is the most frequent"
    dropped = drop_reference(dataset)
    kept = [0, 1, 2, 3, 5]
    assert dropped.name == dropped.meta["name"] == "own_ref"
    assert dropped.columns == ("age", "income", "member", "red", "blue")
    assert dropped.groups == ()
    assert dropped.immutable == (0, 4)
    assert dropped.meta["reference_levels"] == ["green"]
    assert dropped.meta["partial_groups"] == [[3, 4]]
    np.testing.assert_array_equal(dropped.lower, dataset.lower[kept])
    np.testing.assert_array_equal(dropped.upper, dataset.upper[kept])
    np.testing.assert_array_equal(
        dropped.meta["mean"], np.array(dataset.meta["mean"])[kept]
    )
    for split in ("train", "valid", "test"):
        full, less = getattr(dataset, split), getattr(dropped, split)
        np.testing.assert_array_equal(less.x, full.x[:, kept])
        np.testing.assert_array_equal(less.y, full.y)
    assert len(dataset.meta["mean"]) == 6, "the input must not change"


def test_drop_reference_removes_the_null_direction():
    _, _, dataset = made_up(200)

    def rank(x):
        return np.linalg.matrix_rank((x - x.mean(axis=0)).astype(np.float64), tol=1e-3)

    assert rank(dataset.train.x) == 5
    assert (
        rank(drop_reference(dataset).train.x)
        == 5
        == drop_reference(dataset).train.x.shape[1]
    )


def test_drop_reference_of_an_immutable_level():
    _, _, dataset = made_up(immutable=[4])
    assert drop_reference(dataset).immutable == ()


def test_drop_reference_without_groups_changes_nothing():
    dataset = breast_cancer()
    assert drop_reference(dataset) is dataset


# Files and names.


def write_npz(path, **changes):
    """A prepared file, written here independently of data_prep."""
    _, _, d = made_up()
    sizes = np.cumsum([d.train.y.size, d.valid.y.size])
    arrays = {
        "x": np.concatenate([d.train.x, d.valid.x, d.test.x]),
        "y": np.concatenate([d.train.y, d.valid.y, d.test.y]),
        "columns": np.array(d.columns),
        "groups": np.array([-1, -1, -1, 0, 0, 0]),
        "immutable": np.array(d.immutable),
        "lower": d.lower,
        "upper": d.upper,
        "meta": np.array(json.dumps({**d.meta, "format_version": 2})),
    }
    rows = np.split(np.arange(60), sizes)
    arrays.update(zip(("train", "valid", "test"), rows, strict=True))
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return d


def test_load_npz_round_trip(tmp_path):
    written = write_npz(tmp_path / "own.npz")
    dataset = load_npz(tmp_path / "own.npz")
    assert fingerprint(dataset) == fingerprint(written)
    assert dataset.name == "own"
    assert dataset.groups == ((3, 4, 5),)
    assert all(type(i) is int for i in dataset.immutable)
    assert dataset.train.x.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lower": None}, "array 'lower' is missing, expected x, y"),
        ({"meta": np.array('{"format_version": 9}')}, "format version 9, expected 2"),
        ({"test": np.arange(9)}, "each of the rows 0…59 once"),
        ({"columns": np.array(["a", object()])}, "array 'columns' holds object"),
    ],
)
def test_load_npz_refuses(changes, message, tmp_path):
    write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_npz(tmp_path / "own.npz")
    assert "own.npz" in str(error.value)


def test_load_npz_refuses_truncated_and_other_files(tmp_path):
    path = tmp_path / "own.npz"
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="own.npz is not a complete .npz file"):
        load_npz(path)
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(ValueError, match="bare.npy is not a complete .npz file"):
        load_npz(tmp_path / "bare.npy")
    with pytest.raises(FileNotFoundError, match="gone.npz"):
        load_npz(tmp_path / "gone.npz")


def test_load_by_name(tmp_path):
    write_npz(tmp_path / "adult.npz")
    assert load("adult", data_dir=tmp_path).columns[4] == "green"
    assert len(load("adult_ref", data_dir=str(tmp_path)).columns) == 5
    assert fingerprint(load("breast_cancer")) == fingerprint(breast_cancer())


def test_another_known_data_set_under_a_name_is_refused(tmp_path):
    meta = json.dumps({"name": "bank", "format_version": 2})
    write_npz(tmp_path / "adult.npz", meta=np.array(meta))
    for name in ("adult", "adult_ref"):
        with pytest.raises(ValueError, match=r"adult.*\.npz holds .* 'bank'"):
            load(name, data_dir=tmp_path)
    (tmp_path / "adult.npz").rename(tmp_path / "bank.npz")
    assert load("bank", data_dir=tmp_path).name == "bank"
    assert load("bank_ref", data_dir=tmp_path).name == "bank_ref"


@pytest.mark.parametrize("name", ["adults", "breast_cancer_ref", "adult_ref_ref", ""])
def test_load_unknown_name_lists_the_known_ones(name, tmp_path):
    with pytest.raises(ValueError, match="unknown dataset") as error:
        load(name, data_dir=tmp_path)
    for known in datasets.names():
        assert known in str(error.value)


@pytest.mark.parametrize("name", ["adult", "bank_ref", "compas"])
def test_load_missing_file_tells_the_command(name, tmp_path):
    base = name.removesuffix("_ref")
    command = f"python -m data_prep.tabular --datasets={base} --data_dir={tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"{base}.npz") as error:
        load(name, data_dir=tmp_path)
    assert command in str(error.value)


def test_breast_cancer():
    dataset = breast_cancer()
    assert dataset.train.x.shape == (398, 30)
    assert dataset.valid.y.size + dataset.test.y.size == 171
    positives = sum(split.y.sum() for split in (dataset.train, dataset.valid))
    assert positives + dataset.test.y.sum() == 357  # benign tumours, of 569
    assert "mean_radius" in dataset.columns
    assert np.isfinite(dataset.lower).all() and np.isfinite(dataset.upper).all()
    assert fingerprint(breast_cancer(seed=1)) != fingerprint(dataset)
    assert not rows_of(dataset.train) & rows_of(dataset.test)


@pytest.mark.parametrize(
    "call", [breast_cancer, lambda: stratified_split(np.arange(20) % 2)]
)
def test_missing_scikit_learn_is_named(call, monkeypatch):
    true_import = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return true_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="needs scikit-learn"):
        call()


def test_library_neither_prints_nor_reaches_upwards():
    """Modules import NumPy, the ground floor and each other; none prints or loads."""
    for path in Path(datasets.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("r2et_jax"):
                floor = node.module.split(".")[1]
                assert floor in ("types", "checks", "files", "datasets"), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path
