"""Saved models that were damaged, or that point out of their folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saved
from r2et_jax.models import MLP
from r2et_jax.training.checkpoint import load_model, save_model
from r2et_jax.training.packing import params_sha256

CHECKOUT = Path(saved.__file__).parents[1]
MODEL = MLP(hidden=(4,))


@pytest.fixture
def folder(tmp_path):
    params = MODEL.init(jax.random.key(0), jnp.zeros(3))
    saved.save(tmp_path / "model", MODEL, params, {"auc": 0.75})
    return tmp_path / "model"


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit(folder, change):
    """Change the description as somebody would who knows no SHA-256."""
    path = folder / "description.json"
    told = json.loads(path.read_text())
    told.pop("description_sha256")
    path.write_text(json.dumps(change(told)))


@pytest.mark.parametrize(
    "pointer",
    ["../victim", "{victim}", ".", "", "..", "params-xyz", "params/../../victim", 3,
     None, ["params"], "params-0123456789ab/..", "params-0123456789ab\n"],
)  # fmt: skip
def test_a_pointer_out_of_the_folder_is_refused_by_name(tmp_path, folder, pointer):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("years of work")
    if isinstance(pointer, str):
        pointer = pointer.format(victim=victim)
    edit(folder, lambda told: {**told, "params_folder": pointer})
    before = contents(tmp_path)
    with pytest.raises(ValueError) as loading:
        saved.load(folder)
    with pytest.raises(ValueError) as saving:
        saved.save(folder, MODEL, {"w": np.ones(2)})
    for error in (loading, saving):
        assert f"{pointer!r}" in str(error.value) and str(folder) in str(error.value)
    assert contents(tmp_path) == before


def test_a_link_to_another_folder_is_refused(tmp_path, folder):
    victim = tmp_path / "victim"
    (params,) = (path for path in folder.iterdir() if path.is_dir())
    os.rename(params, victim)
    params.symlink_to(victim, target_is_directory=True)
    before = contents(tmp_path)
    for act in (saved.load, lambda path: saved.save(path, MODEL, {"w": np.ones(2)})):
        with pytest.raises(ValueError, match="is a link to another folder"):
            act(folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["[]", "3", "null", '"params"', "{", "", "[" * 100000])
def test_a_description_of_another_shape_is_refused(folder, text):
    (folder / "description.json").write_text(text)
    before = contents(folder)
    for act in (saved.load, lambda path: saved.save(path, MODEL, {"w": np.ones(2)})):
        with pytest.raises(ValueError, match="description.json.*delete .*model"):
            act(folder)
    assert contents(folder) == before


def test_every_flipped_byte_is_noticed_or_changes_nothing(folder):
    """In every file at several places; that of white space in JSON changes nothing."""
    params, description = saved.load(folder)[1:]
    files, refused = contents(folder), 0
    for path, data in files.items():
        for place in np.linspace(0, len(data) - 1, 9).astype(int):
            flipped = bytearray(data)
            flipped[place] ^= 0x55
            path.write_bytes(flipped)
            try:
                loaded = saved.load(folder)
            except ValueError as error:
                text = str(error)
                assert "is damaged" in text and f"delete {folder}" in text
                assert "\n" not in text
                refused += 1
            else:
                assert path.name == "description.json"
                jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
                assert loaded.description == description
        path.write_bytes(data)
    assert refused >= 9 * len(files) - 4
    saved.load(folder)


def test_parameters_of_another_model_are_noticed(tmp_path, folder):
    """Sound files, which belong to another description."""
    other = tmp_path / "other"
    saved.save(other, MODEL, MODEL.init(jax.random.key(1), jnp.zeros(3)))
    told = json.loads((other / "description.json").read_text())
    kept = ("params_folder", "files_sha256")
    os.rename(other / told["params_folder"], folder / told["params_folder"])
    edit(folder, lambda mine: {**mine, **{name: told[name] for name in kept}})
    with pytest.raises(ValueError, match="have another params_sha256.*delete"):
        saved.load(folder)


def test_a_folder_is_a_path():
    with pytest.raises(ValueError, match="folder must be a path, got None"):
        saved.load(None)
    with pytest.raises(ValueError, match="folder must be a path, got 3"):
        saved.save(3, MLP(), {})


def test_the_hash_is_written_with_every_model(tmp_path):
    params = {"a": {"w": np.arange(3.0)}}
    save_model(tmp_path, params, {"params_sha256": "of an earlier one"})
    loaded, told = load_model(tmp_path)
    assert told == {"params_sha256": params_sha256(params)}
    assert params_sha256(loaded) == told["params_sha256"]


def test_a_model_without_a_hash_is_read_with_a_warning(folder):
    def without(told):
        return {n: v for n, v in told.items() if not n.endswith("sha256")}

    edit(folder, without)
    with pytest.warns(UserWarning, match="saved without params_sha256"):
        assert saved.load(folder).description["auc"] == 0.75


def test_the_order_of_a_description_stays(tmp_path):
    description = {"weights": {"gap": 0.1, "curvature": 0.2}, "a": [1], 3: "text"}
    save_model(tmp_path, {"w": np.ones(1)}, description)
    told = load_model(tmp_path)[1]
    assert list(told)[:3] == ["weights", "a", "3"]
    assert list(told["weights"]) == ["gap", "curvature"]


ONE = np.ones(2)


@pytest.mark.parametrize("params", [[ONE], {"a": (ONE,)}, {1: ONE}])
def test_parameters_that_would_come_back_otherwise_are_refused(tmp_path, params):
    with pytest.raises(ValueError, match="params must be nested dicts, got a leaf at"):
        save_model(tmp_path / "a", params, {})
    assert not (tmp_path / "a").exists()


FULL = """
import resource, sys
import numpy as np
from r2et_jax.training.checkpoint import save_model
params = {"w": np.random.default_rng(0).normal(size=(50, 50))}
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    save_model(sys.argv[1], params, {"text": "x" * int(sys.argv[3])})
except (ValueError, OSError) as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "length"), [(1000, 1), (30_000, 60_000)])
def test_a_full_disk_is_named_and_leaves_what_was_there(folder, limit, length):
    """The system refuses files above a size, as it refuses those of a full disk: first
    the parameters, then the description.
    """
    before = contents(folder)
    command = [sys.executable, "-c", FULL, folder, str(limit), str(length)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert str(folder) in done.stdout and "File too large" in done.stdout, done
    assert contents(folder) == before
