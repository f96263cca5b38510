import functools
import json

import pytest
from matplotlib.figure import Figure

from experiments.store import locks, output

CONFIG = dict(datasets=("adult",), k=(8,), epsilon=(0.1, 1.0), output_dir="a", steps=3)


def test_config_holds_flags_versions_device_and_revision(tmp_path):
    folder = output.prepare_output_dir(tmp_path / "a" / "b", CONFIG, experiment="x")
    locks.release()
    content = json.loads((folder / "config.json").read_text())
    assert content["experiment"] == "x"
    assert content["flags"]["epsilon"] == [0.1, 1.0]
    expected = {"python", "jax", "jaxlib", "flax", "optax", "numpy", "r2et_jax"}
    assert set(content["versions"]) == expected
    assert content["versions"]["jax"] and content["device"]
    assert content["git_revision"] is None or len(content["git_revision"]) >= 40
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_the_same_configuration_resumes(tmp_path):
    output.prepare_output_dir(tmp_path, CONFIG, experiment="x")
    before = (tmp_path / "config.json").read_bytes()
    moved = {**CONFIG, "output_dir": "elsewhere", "progress": False}
    output.prepare_output_dir(tmp_path, moved, experiment="x")
    assert (tmp_path / "config.json").read_bytes() == before


def test_another_configuration_is_refused_flag_by_flag(tmp_path):
    output.prepare_output_dir(tmp_path, CONFIG, experiment="x")
    other = {**CONFIG, "k": (8, 10), "steps": 4, "rho": 2.0}
    with pytest.raises(ValueError) as caught:
        output.prepare_output_dir(tmp_path, other, experiment="y")
    message = str(caught.value)
    for part in (
        "experiment was 'x', now 'y'",
        "--k was 8, now 8,10",
        "--steps was 3, now 4",
        "--rho was absent, now 2.0",
        "Choose another --output_dir",
    ):
        assert part in message
    assert "--epsilon" not in message and "--output_dir was" not in message


def test_new_versions_are_noted_once(tmp_path, monkeypatch):
    output.prepare_output_dir(tmp_path, CONFIG, experiment="x")
    first = output.environment()
    second = {**first, "device": "another"}
    monkeypatch.setattr(output, "environment", lambda: second)
    for _ in range(2):
        output.prepare_output_dir(tmp_path, CONFIG, experiment="x")
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["device"] == first["device"]
    assert content["resumed_with"] == [second]


def test_records_or_configuration_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"records.jsonl without config.json"):
        output.prepare_output_dir(tmp_path, CONFIG, experiment="x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a configuration"):
        output.prepare_output_dir(tmp_path, CONFIG, experiment="x")


def test_an_interrupted_write_keeps_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    output.write_text_atomic(path, "old ±\n")

    def fail(*_):
        raise OSError("killed")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="killed"):
        output.write_text_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old ±\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_is_saved_as_png(tmp_path):
    output.save_figure(tmp_path / "a.png", Figure())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_no_revision_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert output.git_revision() is None


def test_other_data_are_refused_by_name_and_hash(tmp_path):
    old, new = "a" * 64, "b" * 64
    prepare = functools.partial(
        output.prepare_output_dir, tmp_path, CONFIG, experiment="x"
    )
    prepare(data={"compas": old})
    prepare(data={"compas": old})
    before = (tmp_path / "config.json").read_bytes()
    assert json.loads(before)["data_sha256"] == {"compas": old}
    for data, text in (
        ({"compas": new}, f"compas had the SHA-256 {old[:12]}…, now {new[:12]}…"),
        ({}, f"compas had the SHA-256 {old[:12]}…, now none"),
        ({"compas": old, "hiv": new}, f"hiv had the SHA-256 none, now {new[:12]}…"),
    ):
        with pytest.raises(ValueError, match="holds results of other data") as caught:
            prepare(data=data)
        assert text in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{", "", '{"experiment": "x"}', '{"experiment": "x", "flags": [1]}',
     '{"experiment": "x", "flags": {}, "resumed_with": 3}',
     '{"experiment": "x", "flags": {}, "data_sha256": "a"}', "[" * 100_000],
)  # fmt: skip
def test_a_configuration_of_another_shape_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json is not a configuration"):
        output.prepare_output_dir(tmp_path, {}, experiment="x")
    assert (tmp_path / "config.json").read_text() == text


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "a.txt"
    target.write_text("old")
    link.symlink_to(target)
    output.write_text_atomic(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*table.md"):
        output.write_text_atomic(tmp_path / "table.md", "text")
    assert list(tmp_path.iterdir()) == []
