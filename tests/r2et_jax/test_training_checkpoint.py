"""Checkpoints: what comes back, damage, kills, other configurations, two at once."""

import concurrent.futures
import doctest
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from r2et_jax.training import resume

# Adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion

CONFIG = {
    "method": "r2et",
    "seeds": (0, 1),
    "protocol": {"epochs": 60, "rate": 1e-3, "attack": {"steps": 200}},
    "data_sha256": "ab12",
}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


class State(NamedTuple):
    params: Any
    optimizer_state: Any
    reference: Any
    key: Any


def initial():
    params = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2), "b": jnp.zeros(2)}
    return State(params, OPTIMIZER.init(params), None, jax.random.key(3))


@jax.jit
def advance(state):
    """A step whose gradient depends on the key that the state carries."""
    key, now = jax.random.split(state.key)
    gradient = jax.tree.map(
        lambda leaf: leaf + jax.random.normal(now, leaf.shape), state.params
    )
    updates, optimizer_state = OPTIMIZER.update(
        gradient, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, optimizer_state=optimizer_state, key=key)


def identical(restored, wanted):
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(getattr(b, "dtype", float), jax.dtypes.prng_key):
            assert a.dtype == b.dtype and isinstance(a, jax.Array)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        else:
            assert isinstance(a, np.ndarray)
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def numbered(value):
    return {"w": np.full((40, 5), value, np.float32), "count": np.int32(value)}


def saved(folder, *values, keep=2):
    checkpoints = resume.Checkpoints(folder, config=CONFIG, keep=keep)
    for value in values:
        checkpoints.save(value, numbered(value), extra={"losses": [value / 7]})
    return checkpoints


def folders(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_docstring_examples_run():
    result = doctest.testmod(resume)
    assert result.attempted > 0 and result.failed == 0


def test_training_goes_on_bit_by_bit(tmp_path):
    state = initial()
    for _ in range(3):
        state = advance(state)
    extra = {"auc": [0.5, float("inf")], "nested": {"x": None}, "pair": (1, 2)}
    resume.Checkpoints(tmp_path / "a" / "b", config=CONFIG).save(3, state, extra=extra)
    again = resume.Checkpoints(tmp_path / "a" / "b", config=CONFIG)
    restored = again.restore(initial())
    identical(restored.state, state)
    assert restored.epoch == 3 and restored.extra == {**extra, "pair": [1, 2]}
    straight, resumed = state, restored.state
    for _ in range(3):
        straight, resumed = advance(straight), advance(resumed)
    identical(jax.device_get(resumed), straight)


TREES = {
    "bfloat16, booleans": [jnp.arange(3, dtype=jnp.bfloat16), jnp.ones(2, bool)],
    "bits of floats": np.array([0.0, -0.0, np.nan, -np.nan, np.inf, 5e-324]),
    "other byte order": np.arange(3, dtype=">f4"),
    "no elements": (np.zeros((0, 3), np.int8), None, {}),
    "nothing at all": {"a": None},
    "numbers": [True, 3, 2.5, np.float16(1.5), 1j],
    "strided": np.arange(12.0).reshape(3, 4).T[::2],
    "odd offsets": [np.ones(3, np.int8), np.ones(2), np.ones((), np.uint8)],
    "keys": {
        "batch": jax.random.split(jax.random.key(1), (2, 3)),
        "rbg": jax.random.key(7, impl="rbg"),
        "none": jax.random.split(jax.random.key(1), 0),
        "raw": jax.random.PRNGKey(1),
    },
    "names with signs": {"a/b": np.ones(1), "a": {"b": np.zeros(1)}, "ε.": np.ones(2)},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees_come_back(tmp_path, name):
    checkpoints = resume.Checkpoints(tmp_path, config={})
    checkpoints.save(0, TREES[name])
    identical(checkpoints.restore(TREES[name]).state, TREES[name])

    def struct(leaf):
        leaf = leaf if hasattr(leaf, "dtype") else np.array(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    structs = jax.tree.map(struct, TREES[name])
    identical(checkpoints.restore(structs).state, TREES[name])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept(tmp_path, keep):
    checkpoints = saved(tmp_path, 0, 1, 2, 3, keep=keep)
    left = folders(tmp_path)
    assert len(left) == keep
    assert sum(1 for _ in tmp_path.iterdir()) == keep + 1  # and the lock
    restored = checkpoints.restore(numbered(0))
    assert restored.epoch == 3 and restored.extra == {"losses": [3 / 7]}
    identical(restored.state, numbered(3))
    # An epoch that is saved again counts as the last.
    checkpoints.save(3, numbered(9))
    identical(checkpoints.restore(numbered(0)).state, numbered(9))
    assert len(folders(tmp_path)) == keep


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_any_damaged_file_is_found_or_does_no_harm(tmp_path, damage):
    saved(tmp_path / "0", 1, 2)
    files = [path for path in folders(tmp_path / "0")[-1].rglob("*") if path.is_file()]
    passed_over = set()
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        if number:
            saved(folder, 1, 2)
        # Orbax draws the names of its data files: the same place in the listing.
        listing = [p for p in folders(folder)[-1].rglob("*") if p.is_file()]
        assert len(listing) == len(files)
        damage(listing[number])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            restored = resume.Checkpoints(folder, config=CONFIG).restore(numbered(0))
        assert restored.epoch == (1 if told else 2)
        identical(restored.state, numbered(restored.epoch))
        for warning in told:
            assert "is damaged and was passed over" in str(warning.message)
            assert str(folders(folder)[-1]) in str(warning.message)
            passed_over.add(file.name if file.parent.name != "d" else "data")
    assert {"checkpoint.json", "data"} <= passed_over


@pytest.mark.parametrize("edit", [("1.0", "2.0"), ('"epoch": 2', '"epoch": 3')])
def test_a_changed_record_is_damage(tmp_path, edit):
    checkpoints = resume.Checkpoints(tmp_path, config=CONFIG)
    for epoch in (1, 2):
        checkpoints.save(epoch, numbered(epoch), extra={"auc": 1.0})
    record = folders(tmp_path)[-1] / "checkpoint.json"
    text = record.read_text()
    assert edit[0] in text
    record.write_text(text.replace(*edit))
    with pytest.warns(UserWarning, match="checkpoint.json does not match its SHA-256"):
        assert checkpoints.restore(numbered(0)).epoch == 1


def test_arrays_of_another_checkpoint_are_damage(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    first, second = folders(tmp_path)
    (first / "arrays").rename(tmp_path / "kept")
    (second / "arrays").rename(first / "arrays")
    (tmp_path / "kept").rename(second / "arrays")
    with pytest.warns(UserWarning, match="arrays do not match their SHA-256") as told:
        assert checkpoints.restore(numbered(0)) is None
    assert len(told) == 2


def test_damaged_ones_are_no_longer_kept_after_a_save(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    (folders(tmp_path)[-1] / "checkpoint.json").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.restore(numbered(0)).epoch == 1
    checkpoints.save(2, numbered(2))
    assert len(folders(tmp_path)) == 2
    truncate(folders(tmp_path)[-1] / "checkpoint.json")
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.restore(numbered(0)).epoch == 1


def test_an_empty_folder_holds_nothing(tmp_path):
    checkpoints = resume.Checkpoints(tmp_path / "new", config=CONFIG)
    assert checkpoints.restore(numbered(0)) is None
    checkpoints.delete()
    assert not (tmp_path / "new").exists()


def test_delete_removes_what_is_its_own(tmp_path):
    checkpoints = saved(tmp_path / "a", 1, 2)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    checkpoints.delete()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]
    assert checkpoints.restore(numbered(0)) is None
    other = saved(tmp_path / "b", 1)
    other.delete()
    assert not (tmp_path / "b").exists()
    other.save(4, numbered(4))
    assert other.restore(numbered(0)).epoch == 4


def test_another_configuration_is_refused_entry_by_entry(tmp_path):
    saved(tmp_path, 1, 2)
    truncate(folders(tmp_path)[-1] / "checkpoint.json")
    before = sorted(tmp_path.rglob("*"))
    other = {
        "method": "r2et",
        "seeds": [0, 2],
        "protocol": {"epochs": 60, "rate": 1e-3, "attack": {"steps": 100}, "k": 8},
    }
    with pytest.raises(ValueError, match="of another configuration") as error:
        resume.Checkpoints(tmp_path, config=other)
    assert str(error.value).splitlines()[1:] == [
        '  data_sha256: saved "ab12", given nothing',
        "  protocol.attack.steps: saved 200, given 100",
        "  protocol.k: saved nothing, given 8",
        "  seeds: saved [0, 1], given [0, 2]",
    ]
    assert sorted(tmp_path.rglob("*")) == before
    resume.Checkpoints(tmp_path, config={**CONFIG, "seeds": [0, 1]})


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        (
            {"w": np.zeros((40, 4), np.float32), "count": np.int32(0)},
            ['  [\'w\']: saved ["<f4", [40, 5]], given ["<f4", [40, 4]]'],
        ),
        (
            {"w": np.zeros((40, 5), np.float64), "n": np.int32(0)},
            [
                "  ['count']: saved [\"<i4\", []], given nothing",
                "  ['n']: saved nothing, given [\"<i4\", []]",
                '  [\'w\']: saved ["<f4", [40, 5]], given ["<f8", [40, 5]]',
            ],
        ),
    ],
)
def test_another_structure_is_refused(tmp_path, template, lines):
    checkpoints = saved(tmp_path, 1)
    with pytest.raises(ValueError, match="differs from the template") as error:
        checkpoints.restore(template)
    assert str(error.value).splitlines()[1:] == lines


def test_mistakes_are_named_and_leave_no_trace(tmp_path):
    with pytest.raises(ValueError, match="keep must be an integer of at least 1"):
        resume.Checkpoints(tmp_path, config={}, keep=0)
    with pytest.raises(TypeError, match="not JSON serializable"):
        resume.Checkpoints(tmp_path, config={"rate": jnp.ones(2)})
    checkpoints = resume.Checkpoints(tmp_path, config={})
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0"):
        checkpoints.save(-1, {})
    with pytest.raises(ValueError, match=r"\['a'\]\[0\] must be an array of numbers"):
        checkpoints.save(0, {"a": ["text"]})
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(0, {}, extra={"auc": np.float32(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["arrays", "record", "appearing", "removing"])
def test_an_interrupted_save_leaves_those_before(tmp_path, monkeypatch, where):
    checkpoints = saved(tmp_path, 1, 2)

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        target, name = {
            "arrays": (orbax.checkpoint.StandardCheckpointer, "save"),
            "record": (resume, "write_text"),
            "appearing": (resume.os, "replace"),
            "removing": (resume.shutil, "rmtree"),
        }[where]
        patch.setattr(target, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(3, numbered(3))
    restored = saved(tmp_path).restore(numbered(0))
    assert restored.epoch == (3 if where == "removing" else 2)
    identical(restored.state, numbered(restored.epoch))
    assert len(folders(tmp_path)) == 2
    checkpoints.save(4, numbered(4))
    assert checkpoints.restore(numbered(0)).epoch == 4
    assert len(folders(tmp_path)) == 2


KILLED = """
import sys
import numpy as np
from r2et_jax.training.resume import Checkpoints
checkpoints = Checkpoints(sys.argv[1], config={"run": 1})
for epoch in range(10_000):
    state = {"w": np.random.default_rng(epoch).normal(size=500_000)}
    checkpoints.save(epoch, state, extra={"epochs": [epoch]})
    print(epoch, flush=True)
"""


def test_a_process_killed_while_it_saves_can_be_resumed(tmp_path):
    root = Path(resume.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        seen = [int(process.stdout.readline()) for _ in range(4)][-1]
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob(".partial-save-*")):
            assert time.monotonic() < give_up, "no save was seen under way"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len([path for path in folders(tmp_path) if path.name[0] != "."]) >= 2
    checkpoints = resume.Checkpoints(tmp_path, config={"run": 1})
    restored = checkpoints.restore({"w": np.zeros(500_000)})
    assert restored.epoch >= seen and restored.extra == {"epochs": [restored.epoch]}
    wanted = np.random.default_rng(restored.epoch).normal(size=500_000)
    identical(restored.state, {"w": wanted})
    assert all(path.name[0] != "." for path in folders(tmp_path))
    checkpoints.save(restored.epoch + 1, {"w": wanted})


def test_two_at_once_take_turns(tmp_path):
    def work(offset):
        checkpoints = resume.Checkpoints(tmp_path / "a", config=CONFIG)
        for value in range(offset, offset + 5):
            checkpoints.save(value, numbered(value))
            restored = checkpoints.restore(numbered(0))
            identical(restored.state, numbered(restored.epoch))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [0, 100]))
    assert len(folders(tmp_path / "a")) == 2
    assert saved(tmp_path / "a").restore(numbered(0)).epoch in (4, 104)
