"""Tables with named columns: coded, refused by row and column, written and found."""

import numpy as np
import pytest

from r2et_jax import datasets
from r2et_jax.datasets.registry import prepared
from r2et_jax.datasets.tabular import load_npz

RNG = np.random.default_rng(0)
M = 60
FRAME = {
    "age": RNG.normal(40, 10, M),
    "colour": ["red", "blue", "green"] * (M // 3),
    "member": [True, False] * (M // 2),
    "zip": [3, 7, 7, 9, 3, 9] * (M // 6),
    "note": ["a", None] * (M // 2),
    "paid": ["no", "yes", "yes"] * (M // 3),
}
SPLITS = ("train", "valid", "test")
OPTIONS = {"target": "paid", "name": "own", "drop": ["note"], "categories": ["zip"]}


def made(**changes):
    return datasets.from_frame({**FRAME, **changes}, **OPTIONS, immutable=["colour"])


def whole(dataset, field):
    return np.concatenate([getattr(getattr(dataset, s), field) for s in SPLITS])


def rows_of(dataset):
    """Raw values of each row, in the order of the ages."""
    x, y = whole(dataset, "x"), whole(dataset, "y")
    raw = x * np.array(dataset.meta["std"]) + np.array(dataset.meta["mean"])
    order = np.argsort(raw[:, 0])
    return raw[order], y[order]


def test_categories_are_complete_groups_and_numbers_stay():
    data = made()
    levels = ["colour=blue", "colour=green", "colour=red"]
    zips = ["zip=3", "zip=7", "zip=9"]
    assert list(data.columns) == ["age", *levels, "member", *zips]
    assert data.groups == ((1, 2, 3), (5, 6, 7)) and data.immutable == (1, 2, 3)
    assert data.meta["classes"] == ["no", "yes"] and data.meta["target"] == "paid"
    raw, y = rows_of(data)
    order = np.argsort(FRAME["age"])
    np.testing.assert_allclose(raw[:, 0], FRAME["age"][order], rtol=1e-5)
    names = np.array(["blue", "green", "red"])[raw[:, 1:4].argmax(1)]
    assert names.tolist() == np.array(FRAME["colour"])[order].tolist()
    np.testing.assert_array_equal(raw[:, 4], np.array(FRAME["member"])[order])
    codes = np.array([3, 7, 9])[raw[:, 5:].argmax(1)]
    np.testing.assert_array_equal(codes, np.array(FRAME["zip"])[order])
    np.testing.assert_array_equal(y, (np.array(FRAME["paid"]) == "yes")[order])


def same(left, right):
    for part in SPLITS:
        np.testing.assert_array_equal(getattr(left, part).x, getattr(right, part).x)
        np.testing.assert_array_equal(getattr(left, part).y, getattr(right, part).y)
    assert left.columns == right.columns and left.groups == right.groups
    assert left.immutable == right.immutable


def test_a_csv_gives_the_same(tmp_path):
    path = tmp_path / "own.csv"
    lines = [",".join(FRAME)]
    for row in zip(*FRAME.values(), strict=True):
        lines.append(",".join(str(int(v) if isinstance(v, bool) else v) for v in row))
    path.write_text("\n".join(lines))
    options = {**OPTIONS, "immutable": ["colour"]}
    options.pop("name")
    read = datasets.from_csv(path, **options)
    same(read, made())
    assert read.name == "own"


def test_a_data_frame_gives_the_same():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FRAME).astype({"zip": "category"})
    options = {**OPTIONS, "immutable": ["colour"], "categories": []}
    same(datasets.from_frame(frame, **options), made())
    with pytest.raises(ValueError, match="row 1, column 'note' is missing"):
        datasets.from_frame(frame, **{**options, "drop": []})


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("age", 4, np.nan, "own: row 4, column 'age' is missing"),
        ("colour", 7, None, "own: row 7, column 'colour' is missing"),
        ("paid", 2, None, "own: row 2, column 'paid' is missing"),
        ("age", 5, np.inf, "own: row 5, column 'age' must be finite, got inf"),
        ("age", 5, "old", "column 'age' holds numbers and texts, .* in row 0 and 'old' "
         "in row 5"),
        ("colour", 3, [1], "row 3, column 'colour' must be a number or a text"),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_named_by_row_and_column(column, row, value, message):
    values = list(FRAME[column])
    values[row] = value
    with pytest.raises(ValueError, match=message):
        made(**{column: values})


def test_what_is_missing_in_a_csv_is_named(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("age,kind,label\n1,a,0\n2,?,1\n")
    with pytest.raises(ValueError, match=r"row 1, column 'kind' is missing \('\?'\)"):
        datasets.from_csv(path, target="label")
    with pytest.raises(ValueError, match="data must be a file"):
        datasets.from_csv(tmp_path / "none.csv", target="label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "pay"}, "target names 'pay', which is no column; its columns: age"),
        ({"drop": "note"}, "drop must be a list of names, got 'note'"),
        ({"drop": ["age"], "categories": []}, "column 'note' is missing"),
        ({"immutable": ["sex"]}, "immutable names 'sex'"),
        ({"categories": ["age"]}, "'age' must have 2…50 levels, got 60"),
        (
            {"target": "zip", "categories": []},
            "labels must be 0…C−1, got no row of class 0",
        ),
    ],
)
def test_wrong_names_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        datasets.from_frame(FRAME, **{**OPTIONS, **options})


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match="a mapping of names to columns, got a list"):
        datasets.from_frame([1, 2], target="a", name="own")
    with pytest.raises(ValueError, match="own: columns must differ, got '1' twice"):
        datasets.from_frame({1: [1, 2], "1": [3, 4]}, target="1", name="own")
    with pytest.raises(ValueError, match=r"one length, got \[2, 3\]"):
        datasets.from_frame({"a": [1, 2], "b": [1, 2, 3]}, target="a", name="own")
    with pytest.raises(ValueError, match="a column of features besides 'a'"):
        datasets.from_frame({"a": [0, 1]}, target="a", name="own")


def test_what_is_saved_is_loaded_by_path_and_by_name(tmp_path):
    data, path = made(), tmp_path / "mine.npz"
    datasets.save_npz(path, data)
    loaded = load_npz(path)
    same(loaded, data)
    np.testing.assert_array_equal(loaded.lower, data.lower)
    assert loaded.meta["classes"] == ["no", "yes"] and loaded.name == "own"
    (tmp_path / "other.npz").write_bytes(b"no archive")
    for kind in (None, "tabular"):
        assert prepared(tmp_path, kind) == ("mine",)
    assert prepared(tmp_path, "pairs") == ()
    by_name = datasets.load("mine", data_dir=tmp_path)
    same(by_name, data)
    assert by_name.name == "mine"  # as it was asked for
    with pytest.raises(ValueError, match="mine: has no folds"):
        datasets.load("mine", data_dir=tmp_path, fold=1)
    with pytest.raises(ValueError, match="must end in .npz"):
        datasets.save_npz(tmp_path / "mine", data)
    # An unsound one leaves what was there.
    with pytest.raises(ValueError, match="one-hot"):
        datasets.save_npz(path, data._replace(groups=((0, 1),)))
    same(load_npz(path), data)
