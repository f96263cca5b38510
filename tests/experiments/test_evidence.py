"""The binary that runs the project's claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.console import cli
from experiments.evidence import experiment as evidence
from experiments.evidence import measure

ROOT = Path(__file__).resolve().parents[2]


def test_every_claim_is_listed():
    shown = subprocess.run(
        [sys.executable, "-m", "experiments.evidence", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert shown.returncode == 0
    names = [line.split(":")[0] for line in shown.stdout.splitlines()]
    assert names == list(evidence.STATEMENTS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--claim=nonsense",), "saturation"),
        ((), "--list"),
        (("--claim=saturation", "--datasets=nonsense"), "nonsense"),
        (("--claim=graph_forms",), "judged by `python -m experiments.cost`, no longer"),
    ],
    ids=["unknown", "none", "dataset", "elsewhere"],
)
def test_a_mistake_is_one_line(arguments, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("R2ET_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.call(evidence, *arguments, f"--output_dir={tmp_path}")
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert expected in error


@pytest.mark.parametrize("claim", evidence.ELSEWHERE)
def test_what_judges_a_claim_of_before_is_there(claim):
    place = evidence.ELSEWHERE[claim].split()[-1]
    if place.startswith("experiments."):
        file = ROOT / place.replace(".", "/") / "__main__.py"
    else:
        file = ROOT / place
        slow = "pytest.mark.slow" in file.read_text("utf-8")
        assert slow == ("-m slow" in evidence.ELSEWHERE[claim])
    assert file.is_file()


def test_a_claim_that_fails_is_said_to(monkeypatch, tmp_path):
    """The verdict comes from the numbers, and goes into the exit status."""
    finding = measure.Finding("adult", "measured .5", {"value": 0.5}, False)
    wrong = evidence.Statement("all is well", (), lambda _: [finding])
    monkeypatch.setitem(evidence.STATEMENTS, "wrong", wrong)
    with pytest.raises(SystemExit) as stop:
        cli.call(evidence, "--claim=wrong", f"--output_dir={tmp_path}")
    assert stop.value.code == 2
    kept = json.loads((tmp_path / "wrong" / "findings.json").read_text())
    assert kept["findings"][0]["holds"] is False
