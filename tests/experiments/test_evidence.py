"""The binary that runs the project's claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.console import cli
from experiments.evidence import claims

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.evidence", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_claim_is_listed():
    shown = run("--list")
    assert shown.returncode == 0
    names = [line.split(":")[0] for line in shown.stdout.splitlines()]
    assert names == list(claims.CLAIMS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--claim=nonsense",), "strongest_below_published"),
        ((), "--list"),
        (("--claim=saturation", "--datasets=nonsense"), "nonsense"),
    ],
    ids=["unknown", "none", "dataset"],
)
def test_a_mistake_is_one_line(arguments, expected, tmp_path):
    result = run(*arguments, f"--output_dir={tmp_path}")
    assert result.returncode == 1
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_a_claim_that_fails_is_said_to(monkeypatch, tmp_path):
    """The verdict comes from the numbers, and goes into the exit status."""
    from experiments.evidence import experiment as evidence

    finding = claims.Finding("adult", "measured .5", {"value": 0.5}, False)
    monkeypatch.setitem(
        claims.CLAIMS, "wrong", claims.Claim("all is well", (), lambda _: [finding])
    )
    with pytest.raises(SystemExit) as stop:
        cli.call(evidence, "--claim=wrong", f"--output_dir={tmp_path}")
    assert stop.value.code == 2
    kept = json.loads((tmp_path / "wrong" / "findings.json").read_text())
    assert kept["findings"][0]["holds"] is False
