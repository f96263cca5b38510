"""Runs one claim that this project makes and prints its number.

    python -m experiments.evidence --list
    python -m experiments.evidence --claim=saturation --datasets=adult

A claim prints what was measured, what was expected, and whether it holds; the exit
status is 0 where it holds and 2 where it does not.
"""

from __future__ import annotations

import json
import sys

from absl import flags as absl_flags

from experiments.console import flags
from experiments.evidence import claims
from experiments.loop import asked
from experiments.problems import presets
from experiments.store import output, records
from r2et_jax import checks, datasets


def _define(values):
    absl_flags.DEFINE_string(
        "claim", None, "name of the claim, see --list", flag_values=values
    )
    absl_flags.DEFINE_bool(
        "list", False, "list the claims and leave", flag_values=values
    )


FLAGS = flags.describe(
    "evidence",
    defaults=presets.FLAGS["evidence"],
    define=_define,
)


def main(values):
    if values["list"].value:
        for name, claim in claims.CLAIMS.items():
            print(f"{name}: {claim.statement}")
        return
    claimed = values["claim"].value
    if claimed is None:
        raise ValueError("name a claim with --claim=NAME; --list shows them")
    checks.check_in("claim", claimed, claims.CLAIMS)
    claim = claims.CLAIMS[claimed]
    tables = asked.known_tables(values)
    common = FLAGS.read(values, datasets=(*tables, *datasets.names("pairs")))
    if not common.datasets:
        common = common._replace(datasets=claim.datasets)
    print(f"claim: {claim.statement}")
    holds = True
    found = []
    for finding in claim.measure(common):
        verdict = "holds" if finding.holds else "DOES NOT HOLD"
        holds &= finding.holds
        print(f"  {finding.subject}: {finding.text} [{verdict}]", flush=True)
        found.append(finding)
    folder = common.output_dir / claimed
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            "claim": claim.statement,
            "environment": output.environment(),
            "findings": [finding._asdict() for finding in found],
        },
        indent=1,
        default=records.number,
    )
    output.write_text_atomic(folder / "findings.json", text + "\n")
    print("held" if holds else "not held", f"({folder / 'findings.json'})")
    sys.exit(0 if holds else 2)
