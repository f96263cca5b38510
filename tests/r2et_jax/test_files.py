import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from r2et_jax import files
from r2et_jax.files import holding, remove_abandoned, replacing
from r2et_jax.training.checkpoint import load_model, save_model

CHECKOUT = Path(files.__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a[1].txt"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists() and partial.parent == tmp_path
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("second")
        1 / 0  # noqa: B018
    assert path.read_text() == "first" and names(tmp_path) == ["a[1].txt"]


WRITES = """
import sys, time
from r2et_jax.files import replacing
with replacing(sys.argv[1]) as partial:
    partial.write_text("half")
    print(partial, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is about to write tmp_path / "it", and what it writes to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "it")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_what_a_killed_process_has_left_is_removed(tmp_path, writer):
    process, partial = writer
    other = tmp_path / ".other.1.tmp"
    other.touch()
    with replacing(tmp_path / "it") as written:
        written.write_text("whole")
    assert partial.read_text() == "half", "its writer is at work"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    with replacing(tmp_path / "it") as written:
        written.write_text("whole")
    assert names(tmp_path) == [other.name, "it"]


def test_what_is_held_is_not_removed(tmp_path):
    path = tmp_path / "held"
    with holding(path):
        assert not remove_abandoned(path) and path.exists()
    assert remove_abandoned(path) and not path.exists()
    assert remove_abandoned(path)


SAVES = """
import sys
import numpy as np
from r2et_jax.training.checkpoint import save_model
for i in range(10_000):
    save_model(sys.argv[1], {"w": np.full(200_000, float(i))}, {"i": i})
    print(i, flush=True)
"""


def test_a_process_killed_while_it_saves_a_model_leaves_nothing_for_long(tmp_path):
    folder = tmp_path / "model"
    process = subprocess.Popen(
        [sys.executable, "-c", SAVES, str(folder)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            process.stdout.readline()
        give_up = time.monotonic() + 60
        while not list(folder.glob("params-*.orbax*")):
            assert time.monotonic() < give_up, "no save was seen under way"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = load_model(folder)[1]["i"]
    assert before >= 1 and len(names(folder)) > 2
    save_model(folder, {"w": np.ones(3)}, {"i": -1})
    description, kept = names(folder)
    assert description == "description.json" and kept.startswith("params-")
    assert load_model(folder)[1]["i"] == -1


def test_a_model_that_another_process_is_saving_is_left_alone(tmp_path):
    save_model(tmp_path, {"w": np.zeros(3)}, {})
    mine = tmp_path / "params-0123456789ab"
    mine.mkdir()
    with holding(tmp_path / f".{mine.name}.json"):
        save_model(tmp_path, {"w": np.ones(3)}, {})
        assert mine.is_dir()
    save_model(tmp_path, {"w": np.zeros(3)}, {})
    assert not mine.exists() and len(names(tmp_path)) == 2
