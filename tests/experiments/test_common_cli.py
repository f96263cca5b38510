import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments
from experiments.console import cli, failing, flags, progress

SEEN = []
EXPERIMENT = SimpleNamespace(
    FLAGS=flags.describe("binary", defaults={}), main=SEEN.append
)
CHECKOUT = Path(cli.__file__).parents[2]


def outcome(main, capsys, argv=("binary",)):
    with pytest.raises(SystemExit) as caught:
        failing.guarded(main, interrupted=experiments.INTERRUPTED)(argv)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("k must be\n  small"), 1, "error: k must be small\n"),
        (ValueError(), 1, "error: ValueError\n"),
        (FileNotFoundError(2, "No such file", "adult.npz"), 1, "adult.npz"),
        (KeyboardInterrupt(), 130, "the same command resumes"),
    ],
)
def test_an_expected_error_is_one_line(capsys, monkeypatch, error, status, text):
    monkeypatch.delenv("R2ET_DEBUG", raising=False)

    def main(argv):
        raise error

    code, printed = outcome(main, capsys)
    assert code == status and text in printed
    assert printed.startswith("error: ") and printed.count("\n") == 1


def test_debug_keeps_the_traceback(monkeypatch):
    monkeypatch.setenv("R2ET_DEBUG", "1")

    def main(argv):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        failing.guarded(main)(["binary"])


def test_bugs_are_not_hidden(monkeypatch):
    monkeypatch.delenv("R2ET_DEBUG", raising=False)

    def main(argv):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        failing.guarded(main)(["binary"])


def test_stray_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.call(EXPERIMENT, "adult")
    code, printed = caught.value.code, capsys.readouterr().err
    assert code == 1 and "unexpected arguments: adult" in printed


def test_main_is_called_with_the_flags_of_its_own_run():
    """Those of an earlier run, or of another experiment, are not among them."""
    cli.call(EXPERIMENT, "--k=3", "--noprogress")
    first, again = SEEN[-1], cli.call(EXPERIMENT, "--preset=smoke") or SEEN[-1]
    assert first["k"].value == ["3"] and not first["progress"].value
    assert again["k"].value is None and again["preset"].value == "smoke"
    assert EXPERIMENT.FLAGS.read(first).typed == ("--k=3", "--noprogress")


@pytest.mark.parametrize(
    ("flag", "named"), [("--sedes=1", "'sedes'"), ("--preset=huge", "--preset=huge")]
)
def test_a_wrong_flag_is_one_line(flag, named):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", flag],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert named in done.stderr


@pytest.mark.parametrize("show", [True, False])
def test_progress_is_shown_unless_switched_off(capsys, show):
    assert list(progress.track([1, 2], description="cells", show=show)) == [1, 2]
    assert ("cells" in capsys.readouterr().err) == show


INTERRUPTED = """
import os, runpy, signal, sys, threading
# Whoever runs the tests in the background of a shell has them ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As `python -m` does: the package is imported while argv[0] is "-m".
sys.argv = ["-m"]
import experiments
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
import time
time.sleep(20)  # for the imports of a binary
"""


def test_an_interrupt_during_the_imports_is_one_line():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and not done.stdout
    assert done.stderr == f"error: {experiments.INTERRUPTED}\n"


def test_whoever_imports_the_package_keeps_its_handler():
    assert signal.getsignal(signal.SIGINT) is not experiments.interrupted
