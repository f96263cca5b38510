"""Tells what was measured of a statement, line by line and in findings.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from experiments.evidence.measure import Finding
from experiments.store import output, records


def line(finding: Finding) -> str:
    """One measurement and whether it came out, for a terminal."""
    verdict = "holds" if finding.holds else "DOES NOT HOLD"
    return f"  {finding.subject}: {finding.text} [{verdict}]"


def write_report(folder: Path, statement: str, findings: Iterable[Finding]) -> Path:
    """Write findings.json into a folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "claim": statement,
        "environment": output.environment(),
        "findings": [finding._asdict() for finding in findings],
    }
    text = json.dumps(content, indent=1, default=records.number)
    output.write_text_atomic(folder / "findings.json", text + "\n")
    return folder / "findings.json"
