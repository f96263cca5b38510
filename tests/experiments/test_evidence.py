"""The binary that runs the project's claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.console import cli
from experiments.evidence import claims
from experiments.evidence import curvature as claims_curvature

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


@pytest.mark.parametrize("name", ["exact_h", "ssr"])
def test_memory_of_a_penalty_is_measured_in_a_process_of_its_own(name):
    found = claims_curvature.memory(
        name, num_features=70, hidden=(4,), num_outputs=3, batch=2
    )
    # An interpreter with JAX in it, and no more than a small network beside it.
    assert 50 * 2**20 < found["peak_bytes"] < claims_curvature.MEMORY_LIMIT
    assert found["dense_bytes"] == 2 * 70**2 * 4
    assert found["value"] > 0 and found["slope"] > 0


def test_findings_on_curvature_state_value_and_target(monkeypatch):
    shape = {"num_features": 6, "hidden": (4,), "num_outputs": 1}
    measured = {"peak_bytes": 5.0, "value": 0.1, "slope": 0.2}
    asked = []

    def memory(name, **options):
        asked.append((name, options))
        return measured

    monkeypatch.setattr(claims_curvature, "WIDE", shape)
    monkeypatch.setattr(claims_curvature, "memory", memory)
    for limit, holds in ((6, True), (4, False)):
        monkeypatch.setattr(claims_curvature, "MEMORY_LIMIT", limit)
        asked.clear()
        findings = list(claims.CLAIMS["curvature_memory"].measure(None))
        assert asked == [("exact_h", shape), ("ssr", shape)]
        for finding in findings:
            assert finding.numbers["value"] == 5 and finding.numbers["target"] == limit
            assert finding.holds is holds
