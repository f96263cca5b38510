import json
import math

import numpy as np
import pytest

from experiments.store.records import REQUIRED, RecordStore, number, select


def record(**fields):
    base = dict(
        experiment="robustness", dataset="adult", model="mlp", method="r2et",
        schedule="scratch", seed=0, fold=None, attack="er", epsilon=1.0, k=8,
        metric="p@k", value=0.5, stderr=0.01, n=100,
    )  # fmt: skip
    return {**base, **fields}


def cell(seed, metrics=("p@k", "auc", "same")):
    return [record(seed=seed, metric=metric, value=seed / 7) for metric in metrics]


def test_a_resumed_store_holds_what_was_appended(tmp_path):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(cell(0))
    store.append(record(seed=1))
    before = path.read_bytes()
    resumed = RecordStore(path)
    assert resumed.select() == store.select()
    assert len(resumed) == 4
    assert path.read_bytes() == before
    assert resumed.has(seed=0, dataset="adult") and not resumed.has(seed=2)
    resumed.append(cell(2))
    assert path.read_bytes().startswith(before)
    assert [r["seed"] for r in RecordStore(path).select(metric="p@k")] == [0, 1, 2]


def test_every_line_is_a_flat_record(tmp_path):
    store = RecordStore(tmp_path / "records.jsonl")
    store.append(cell(3))
    for line in (tmp_path / "records.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert set(REQUIRED) <= set(row)
        assert not any(isinstance(value, (list, dict)) for value in row.values())


@pytest.mark.parametrize("last", [cell(1), record(seed=1)], ids=["many", "one"])
def test_killed_at_any_byte_a_cell_is_whole_or_absent(tmp_path, last):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(cell(0))
    start = path.stat().st_size
    store.append(last)
    whole = path.read_bytes()
    complete = store.select()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        resumed = RecordStore(path)
        if size >= len(whole) - 1:  # at most the last newline is missing
            expected = complete
        elif size >= start - 1:
            expected = complete[:3]
        else:
            expected = []
        assert resumed.select() == expected, size
        # The file is repaired: the run goes on and ends as if never killed.
        if size in (0, start - 1, start, start + 40, len(whole) - 1):
            if not resumed.has(seed=0):
                resumed.append(cell(0))
            if not resumed.has(seed=1):
                resumed.append(last)
            assert path.read_bytes() == whole
    assert [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_failed_write_leaves_no_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(cell(0))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            store.append(cell(1))
    assert path.read_bytes() == before and not store.has(seed=1)
    store.append(cell(1))
    assert RecordStore(path).has(seed=1)


def test_a_corrupt_line_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    RecordStore(path).append(cell(0))
    lines = path.read_text().splitlines()
    for damaged in ("{not json", "[1, 2]", '{"seed": 1}', ""):
        path.write_text("\n".join([lines[0], damaged, lines[2]]) + "\n")
        with pytest.raises(ValueError, match="line 2 is corrupt"):
            RecordStore(path)
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(ValueError, match="line 2 is corrupt: cell_left is 0, expected"):
        RecordStore(path)
    path.write_text("\n".join(lines * 2) + "\n")
    with pytest.raises(ValueError, match="line 4: repeats an earlier record"):
        RecordStore(path)


def test_a_number_that_is_not_finite_becomes_null_with_a_note(tmp_path):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(record(value=math.nan, stderr=-math.inf, note="seed diverged"))
    row = json.loads(path.read_text())
    assert row["value"] is None and row["stderr"] is None
    assert row["note"] == "seed diverged; value is nan; stderr is -inf"
    assert math.isnan(number(RecordStore(path).select()[0]["value"]))
    with pytest.raises(ValueError, match="must say why in its `note`"):
        store.append(record(seed=1, value=None))


def test_numpy_scalars_are_stored_as_numbers(tmp_path):
    path = tmp_path / "records.jsonl"
    RecordStore(path).append(
        record(value=np.float64(0.1), seed=np.int64(3), n=np.array(7), stderr=None)
    )
    row = RecordStore(path).select(seed=3)[0]
    assert (row["value"], row["n"], row["stderr"]) == (0.1, 7, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(value=[1.0]), "a record is flat: value must be"),
        (dict(value="high"), "value must be a number, got 'high'"),
        (dict(n=1.5), "n must be a nonnegative integer, got 1.5"),
        (dict(n=None), "n must be a nonnegative integer, got None"),
        (dict(cell_left=0), "cell_left is set by the store"),
        (dict(extra=np.ones(2)), "a record is flat: extra"),
    ],
)
def test_unfit_values_are_refused(tmp_path, fields, message):
    store = RecordStore(tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match=message):
        store.append(record(**fields))
    assert len(store) == 0 and not (tmp_path / "records.jsonl").exists()


def test_missing_fields_and_repeats_are_refused(tmp_path):
    store = RecordStore(tmp_path / "records.jsonl")
    incomplete = record()
    del incomplete["k"], incomplete["n"]
    with pytest.raises(ValueError, match="missing: k, n"):
        store.append(incomplete)
    with pytest.raises(ValueError, match="at least one record"):
        store.append([])
    store.append(record())
    with pytest.raises(ValueError, match="recorded before"):
        store.append(record(value=0.7))
    with pytest.raises(ValueError, match="recorded before"):
        store.append([record(seed=1), record(seed=1)])
    store.append(record(explainer="ig"))  # a further field makes another record


def test_select_by_value_and_by_any_of_several():
    records = [record(seed=s, attack=a) for s in range(3) for a in ("er", "mse")]
    assert len(select(records, attack="er")) == 3
    assert len(select(records, attack="er", seed=(0, 2))) == 2
    assert len(select(records, seed={1})) == 2
    assert select(records, explainer=None) == []


def test_the_values_behind_a_mean_are_kept_and_do_not_name_the_record(tmp_path):
    store = RecordStore(tmp_path / "records.jsonl")
    store.append(record(values=[1, 0.5, None, float("nan")]))
    again = RecordStore(tmp_path / "records.jsonl")
    assert again.select()[0]["values"] == [1, 0.5, None, None]
    with pytest.raises(ValueError, match="was recorded before"):
        again.append(record(values=[0.0]))
    for wrong in ("1 2", [True], ["a"], [[1.0]]):
        with pytest.raises(ValueError, match="values must be a list of numbers"):
            again.append(record(seed=9, values=wrong))


def damaged(tmp_path, *lines):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError) as caught:
        RecordStore(path)
    assert path.read_bytes() == b"".join(lines)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            dict(seed=[0]),
            "seed must be text, a finite number, a boolean or null, got [0]",
        ),
        (dict(method={"a": 1}), "method must be text"),
        (dict(dataset=None), "dataset must be text, got None"),
        (dict(value="high"), "value must be a number or null, got 'high'"),
        (dict(value=True), "value must be a number or null, got True"),
        (dict(n=-1), "n must be an integer of at least 0, got -1"),
        (dict(n=2.0), "n must be an integer of at least 0, got 2.0"),
        (dict(epsilon="1"), "epsilon must be a number or null, got '1'"),
        (dict(cell_left="0"), "cell_left must be an integer of at least 0, got '0'"),
        (dict(values=3), "values must be a list of numbers or null, got 3"),
        (dict(values=[[1]]), "values must be a list of numbers or null"),
        (dict(extra=[1] * 1000), "extra must be text"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, fields, text):
    whole = json.dumps({**record(), "cell_left": 0}).encode() + b"\n"
    line = json.dumps({**record(seed=1), "cell_left": 0, **fields}).encode() + b"\n"
    message = damaged(tmp_path, whole, line)
    assert text in message and "line 2 is corrupt" in message and len(message) < 500


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "[" * 100_000])
def test_what_is_no_number_in_json_is_named(tmp_path, value):
    line = json.dumps({**record(value=0.25), "cell_left": 0}).replace("0.25", value)
    assert "line 1 is corrupt" in damaged(tmp_path, line.encode() + b"\n")


def test_a_changed_number_is_noticed(tmp_path):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(cell(1))
    store.append(cell(2))
    whole = path.read_bytes()
    old = json.dumps(2 / 7).encode()
    changed = whole.replace(old, old[:-1] + b"3", 1)
    assert changed != whole
    text = damaged(tmp_path, changed)
    assert "lines 4 to 6 do not match their cell_sha256" in text
    path.write_bytes(whole)
    assert RecordStore(path).select() == store.select()


def test_a_file_with_other_line_ends_is_not_emptied(tmp_path):
    path = tmp_path / "records.jsonl"
    store = RecordStore(path)
    store.append(cell(1))
    lines = path.read_bytes().split(b"\n")[:-1]
    assert "line 1 is corrupt" in damaged(tmp_path, b"\r".join(lines) + b"\r")
    assert "line 1 is corrupt" in damaged(tmp_path, b" ".join(lines))
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    assert RecordStore(path).select() == store.select()


@pytest.mark.parametrize(
    "tail", [b"[" * 100_000, b"1" * 9, b"\0" * 9, b"\xef\xbb\xbf{"]
)
def test_an_end_that_no_kill_has_left_is_not_dropped(tmp_path, tail):
    path = tmp_path / "records.jsonl"
    RecordStore(path).append(cell(1))
    whole = path.read_bytes()
    assert "line 4 is corrupt" in damaged(tmp_path, whole + tail)
    assert path.read_bytes() == whole + tail


def test_a_torn_file_behind_a_link_is_repaired_in_its_place(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "r.jsonl", tmp_path / "records.jsonl"
    RecordStore(target).append(cell(1))
    whole = target.read_bytes()
    target.write_bytes(whole + b'{"torn')
    link.symlink_to(target)
    RecordStore(link, repair=False)
    assert target.read_bytes() == whole + b'{"torn'
    RecordStore(link)
    assert link.is_symlink() and target.read_bytes() == whole


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(ValueError, match="records.jsonl is not a file"):
        RecordStore(tmp_path / "records.jsonl")


def test_records_name_their_data_and_those_of_other_data_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    old, new = "a" * 64, "b" * 64
    store = RecordStore(path, data={("adult", None): old})
    store.append(record())
    store.append(record(dataset="bank"))
    assert [r.get("data_sha256") for r in store.select()] == [old, None]
    again = RecordStore(path, data={("adult", None): old, ("bank", 0): new})
    assert again.has(dataset="adult", seed=0)
    both = f"line 1 is of other data of adult: .*{old[:12]}….*now {new[:12]}…"
    with pytest.raises(ValueError, match=both):
        RecordStore(path, data={("adult", None): new})


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    store = RecordStore(tmp_path / "records.jsonl")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*records.jsonl"):
        store.append(record())
    assert (tmp_path / "records.jsonl").read_bytes() == b""
