"""One run at a time in an output folder, whatever becomes of the one before."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.console import cli, flags
from experiments.store import locks, output

CHECKOUT = Path(locks.__file__).parents[2]
OTHER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from experiments.store import locks
try:
    locks.hold(Path(sys.argv[1]))
except ValueError as error:
    sys.exit(str(error))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
print("left", flush=True)
locks.release()
"""


def other(folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", OTHER, folder, str(seconds)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def released():
    yield
    locks.release()


def test_a_second_process_is_refused_and_a_kill_lets_it_in(tmp_path):
    holder = other(tmp_path, 60)
    assert holder.stdout.readline() == "held\n"
    for _ in range(2):  # nor does a refusal let the next one in
        with pytest.raises(ValueError, match="another run writes to .*wait for its"):
            output.prepare_output_dir(tmp_path, {}, experiment="x")
    assert not (tmp_path / "config.json").exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    output.prepare_output_dir(tmp_path, {}, experiment="x")


def test_the_same_process_goes_on_and_others_wait_for_its_end(tmp_path):
    locks.hold(tmp_path)
    locks.hold(tmp_path)
    assert "another run writes to" in other(tmp_path, 0).communicate()[1]
    locks.release()
    assert other(tmp_path, 0).communicate()[0] == "held\nleft\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt, TypeError])
def test_a_run_lets_go_however_it_ends(tmp_path, end):
    def main(values):
        locks.hold(tmp_path)
        assert (tmp_path / ".lock").exists()
        if end is not None:
            raise end

    try:
        cli.call(SimpleNamespace(FLAGS=flags.describe("x", defaults={}), main=main))
    except (SystemExit, TypeError):
        pass
    assert other(tmp_path, 0).communicate()[0] == "held\nleft\n"


def test_many_at_once_are_never_inside_together(tmp_path):
    """Those that get in say so, and when they leave."""
    command = [sys.executable, "-c", OTHER, tmp_path, ".02"]
    with open(tmp_path / "log", "ab") as log:
        done = [
            subprocess.Popen(
                command, cwd=CHECKOUT, stdout=log, stderr=subprocess.DEVNULL
            )
            for _ in range(12)
        ]
    assert {process.wait() for process in done} <= {0, 1}
    text = (tmp_path / "log").read_text()
    assert text == "held\nleft\n" * text.count("left") != ""
