"""The prepared files against independent recounts of the raw ones."""

import collections
import csv
import io
import json
import math
import statistics
import zipfile

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_prep import tabular
from r2et_jax.datasets import load
from r2et_jax.datasets.soundness import fingerprint

COLUMNS = {"adult": 28, "bank": 18, "compas": 16}
NAMES = sorted(COLUMNS)


def adult_records(raw_dir):
    records = []
    for file in ("adult.data", "adult.test"):
        for line in (raw_dir / file).read_text().splitlines():
            fields = [field.strip() for field in line.split(",")]
            if len(fields) == 15:
                records.append(fields)
    return records


def bank_records(raw_dir):
    with zipfile.ZipFile(raw_dir / "bank-additional.zip") as archive:
        text = archive.read("bank-additional/bank-additional-full.csv").decode()
    return list(csv.DictReader(io.StringIO(text), delimiter=";"))


def compas_records(raw_dir):
    text = (raw_dir / "compas-scores-two-years.csv").read_text()
    records = []
    for r in csv.DictReader(io.StringIO(text)):
        days = r["days_b_screening_arrest"]
        if not days or not -30 <= int(float(days)) <= 30:
            continue
        if r["is_recid"] == "-1" or r["c_charge_degree"] == "O":
            continue
        if r["score_text"] in ("N/A", ""):
            continue
        records.append(r)
    return records


@pytest.fixture
def arrays(prepared, request):
    with np.load(prepared / f"{request.param}.npz", allow_pickle=False) as file:
        return {"name": request.param, **{key: file[key] for key in file}}


each = pytest.mark.parametrize("arrays", NAMES, indirect=True)


def column(arrays, name):
    return arrays["x"][:, arrays["columns"].tolist().index(name)]


@each
def test_shape_and_types(arrays):
    assert arrays["x"].shape[1] == COLUMNS[arrays["name"]] == len(arrays["columns"])
    assert arrays["x"].dtype == np.float32
    assert np.isfinite(arrays["x"]).all()
    assert set(np.unique(arrays["y"])) == {0, 1}
    assert len(set(arrays["columns"].tolist())) == len(arrays["columns"])


def test_positives_are_those_of_the_raw_files(prepared, raw_dir):
    """Rows and labels keep the raw order, so they are compared one by one."""
    truth = {
        "adult": [">50K" in r[14] for r in adult_records(raw_dir)],
        "bank": [r["y"] == "yes" for r in bank_records(raw_dir)],
        "compas": [r["score_text"] != "Low" for r in compas_records(raw_dir)],
    }
    assert {k: len(v) for k, v in truth.items()} == {
        "adult": 48842,
        "bank": 41188,
        "compas": 6172,
    }
    assert sum(truth["bank"]) == 4640  # the number that UCI gives
    for name, labels in truth.items():
        with np.load(prepared / f"{name}.npz") as file:
            np.testing.assert_array_equal(file["y"], labels)


@each
def test_splits_are_stratified_disjoint_and_cover_all_rows(arrays):
    splits = [arrays[name] for name in ("train", "valid", "test")]
    m = arrays["y"].size
    assert sorted(np.concatenate(splits).tolist()) == list(range(m))
    for split, share in zip(splits, (0.7, 0.15, 0.15), strict=True):
        assert split.size == pytest.approx(share * m, abs=2)
        positives = arrays["y"][split].sum()
        assert positives == pytest.approx(arrays["y"].mean() * split.size, abs=2)
        assert not np.array_equal(split, np.sort(split)), "rows must be shuffled"


@pytest.mark.parametrize("suffix", ["", "_ref"])
@pytest.mark.parametrize("name", NAMES)
def test_no_row_stands_in_two_splits(name, suffix, prepared):
    dataset = load(name + suffix, data_dir=prepared)
    splits = [
        collections.Counter(map(bytes, np.ascontiguousarray(split.x + 0.0)))
        for split in (dataset.train, dataset.valid, dataset.test)
    ]
    assert not (splits[0].keys() & splits[1].keys())
    assert not (splits[0].keys() & splits[2].keys())
    assert not (splits[1].keys() & splits[2].keys())
    counts = [c for split in splits for c in split.values()]
    copies = {"adult": 16982, "bank": 7723, "compas": 19}[name]
    assert sum(c for c in counts if c > 1) == copies
    assert dataset.meta["copies"]["rows"] == copies


def test_copies_are_said(prepared, tmp_path):
    said = tabular.summary(load("compas", data_dir=prepared), tmp_path)
    assert "19 of 6172 rows equal another row after coding" in said


@each
def test_group_columns_sum_to_one(arrays):
    groups = arrays["groups"]
    expected = {"adult": [4, 4, 8, 5], "bank": [3], "compas": [2, 2, 6]}
    sizes = [int((groups == g).sum()) for g in range(groups.max() + 1)]
    assert sizes == expected[arrays["name"]]
    for g in range(groups.max() + 1):
        levels = arrays["x"][:, groups == g]
        assert set(np.unique(levels)) == {0.0, 1.0}
        assert (levels.sum(axis=1) == 1).all()


@each
def test_numeric_columns_are_standardised_on_the_training_split_alone(arrays):
    meta = json.loads(str(arrays["meta"]))
    numeric = [arrays["columns"].tolist().index(name) for name in meta["numeric"]]
    train = arrays["x"][arrays["train"]][:, numeric].astype(np.float64)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
    pooled = arrays["x"][:, numeric].astype(np.float64)
    assert np.abs(pooled.mean(axis=0)).max() > 1e-5, "fitted on more than training rows"
    others = np.delete(arrays["x"], numeric, axis=1)
    assert set(np.unique(others)) == {0.0, 1.0}


def standardised(raw, train):
    """Mean and std of the training rows in plain Python."""
    values = [raw[i] for i in train]
    mean, std = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / std for value in raw]


@pytest.mark.parametrize(
    ("arrays", "name", "index", "transform"),
    [
        ("adult", "age", 0, float),
        ("adult", "capital_gain", 10, lambda v: math.log1p(float(v))),
        ("adult", "hours_per_week", 12, float),
    ],
    indirect=["arrays"],
)
def test_adult_numbers_from_the_raw_rows(arrays, name, index, transform, raw_dir):
    raw = [transform(r[index]) for r in adult_records(raw_dir)]
    expected = standardised(raw, arrays["train"])
    np.testing.assert_allclose(column(arrays, name), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("arrays", ["adult"], indirect=True)
def test_adult_categories_from_the_raw_rows(arrays, raw_dir):
    records = adult_records(raw_dir)
    recount = {
        "sex_male": sum(r[9] == "Male" for r in records),
        "native_us": sum(r[13] == "United-States" for r in records),
        "workclass_government": sum(r[1].endswith("-gov") for r in records),
        "workclass_other": sum(
            r[1] in ("?", "Without-pay", "Never-worked") for r in records
        ),
        "marital_married": sum(
            r[5] in ("Married-civ-spouse", "Married-AF-spouse") for r in records
        ),
        "occupation_other": sum(r[6] in ("?", "Armed-Forces") for r in records),
        "race_white": sum(r[8] == "White" for r in records),
    }
    for name, count in recount.items():
        assert column(arrays, name).sum(dtype=np.float64) == count, name
    assert "fnlwgt" not in arrays["columns"].tolist()


@pytest.mark.parametrize("arrays", ["bank"], indirect=True)
def test_bank_columns_from_the_raw_rows(arrays, raw_dir):
    records = bank_records(raw_dir)
    recount = {
        "previously_contacted": sum(r["pdays"] != "999" for r in records),
        "default_known_no": sum(r["default"] == "no" for r in records),
        "housing": sum(r["housing"] == "yes" for r in records),
        "loan": sum(r["loan"] == "yes" for r in records),
        "contact_cellular": sum(r["contact"] == "cellular" for r in records),
        "previous_success": sum(r["poutcome"] == "success" for r in records),
        "marital_married": sum(r["marital"] in ("married", "unknown") for r in records),
    }
    for name, count in recount.items():
        assert column(arrays, name).sum(dtype=np.float64) == count, name
    assert "duration" not in arrays["columns"].tolist()
    years = {
        "illiterate": 0, "basic.4y": 4, "basic.6y": 6, "basic.9y": 9,
        "high.school": 12, "professional.course": 13, "university.degree": 16,
    }  # fmt: skip
    raw = [years.get(r["education"]) for r in records]
    known = [raw[i] for i in arrays["train"] if raw[i] is not None]
    median = statistics.median(known)
    filled = [median if value is None else value for value in raw]
    expected = standardised(filled, arrays["train"])
    np.testing.assert_allclose(column(arrays, "education"), expected, atol=2e-6)


@pytest.mark.parametrize("arrays", ["compas"], indirect=True)
def test_compas_columns_from_the_raw_rows(arrays, raw_dir):
    records = compas_records(raw_dir)
    recount = {
        "sex_female": sum(r["sex"] == "Female" for r in records),
        "charge_degree_F": sum(r["c_charge_degree"] == "F" for r in records),
        "race_african_american": sum(r["race"] == "African-American" for r in records),
        "race_native_american": sum(r["race"] == "Native American" for r in records),
    }
    for name, count in recount.items():
        assert column(arrays, name).sum(dtype=np.float64) == count, name
    seconds = [
        np.datetime64(r["c_jail_out"]) - np.datetime64(r["c_jail_in"]) for r in records
    ]
    days = np.array(seconds) / np.timedelta64(1, "D")
    expected = standardised(np.log1p(np.maximum(days, 0)).tolist(), arrays["train"])
    np.testing.assert_allclose(column(arrays, "length_of_stay"), expected, atol=3e-6)
    priors = standardised([int(r["priors_count"]) for r in records], arrays["train"])
    np.testing.assert_allclose(
        column(arrays, "priors_count"), priors, atol=2e-6, rtol=2e-6
    )


@each
def test_box_holds_all_rows_and_is_reached(arrays):
    low, high = arrays["x"].min(axis=0), arrays["x"].max(axis=0)
    np.testing.assert_array_equal(arrays["lower"], low)
    np.testing.assert_array_equal(arrays["upper"], high)


@each
def test_immutable_columns_are_named(arrays):
    frozen = set(arrays["columns"][arrays["immutable"]].tolist())
    expected = {
        "adult": {"age", "sex_male", "native_us", "race_white", "race_other"},
        "bank": {"age", "euribor3m", "previous_success"},
        "compas": {"age", "sex_female", "sex_male", "race_asian", "juv_fel_count"},
    }
    free = {"adult": "hours_per_week", "bank": "housing", "compas": "priors_count"}
    assert expected[arrays["name"]] <= frozen
    assert free[arrays["name"]] not in frozen


@each
def test_meta_tells_origin_and_coding(arrays):
    meta = json.loads(str(arrays["meta"]))
    assert meta["name"] == arrays["name"]
    assert meta["seed"] == 0
    assert len(meta["mean"]) == len(meta["std"]) == arrays["x"].shape[1]
    assert meta["licence"] and meta["target"] and meta["citation"]
    assert all(address.startswith("https://") for address in meta["source"])
    assert all(len(digest) == 64 for digest in meta["sha256"].values())


def test_same_seed_same_bytes_other_seed_other_split(prepared, raw_dir, tmp_path):
    again = tabular.prepare("compas", raw_dir=raw_dir, data_dir=tmp_path, seed=0)
    assert again.read_bytes() == (prepared / "compas.npz").read_bytes()
    first = fingerprint(load("compas", data_dir=tmp_path))
    tabular.prepare("compas", raw_dir=raw_dir, data_dir=tmp_path, seed=1)
    assert fingerprint(load("compas", data_dir=tmp_path)) != first
    assert [p.name for p in tmp_path.iterdir()] == ["compas.npz"], "leftover files"


@pytest.mark.parametrize("name", NAMES)
def test_reference_levels_leave_no_null_direction(name, prepared):
    full, dropped = (load(n, data_dir=prepared) for n in (name, f"{name}_ref"))

    def null_directions(x):
        values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
        return int((values < 1e-3 * values[0]).sum())

    assert null_directions(full.train.x.astype(np.float64)) == len(full.groups)
    assert null_directions(dropped.train.x.astype(np.float64)) == 0
    assert len(dropped.columns) == len(full.columns) - len(full.groups)


@pytest.mark.parametrize(
    ("name", "least"), [("adult", 0.88), ("bank", 0.75), ("compas", 0.7)]
)
def test_logistic_regression_learns(name, least, prepared):
    dataset = load(name, data_dir=prepared)
    model = LogisticRegression(max_iter=500).fit(*dataset.train)
    scores = model.decision_function(dataset.test.x)
    auc = roc_auc_score(dataset.test.y, scores)
    assert auc > least
    assert auc < 0.95, "too good: a column may leak the answer"
