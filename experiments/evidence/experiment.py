"""Runs one claim of this project that no exhibit judges, and prints its numbers.

    python -m experiments.evidence --list
    python -m experiments.evidence --claim=saturation --datasets=adult

A claim prints what was measured, what was expected, and whether it holds; the exit
status is 0 where it holds and 2 where it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import flags as absl_flags

from experiments.console import flags
from experiments.evidence import gradcert, measure, radii, report
from experiments.loop import asked
from experiments.problems import presets
from r2et_jax import checks, datasets


class Statement(NamedTuple):
    """A statement, its default data sets, and what measures it on a run's flags."""

    text: str
    datasets: tuple[str, ...]
    measure: Callable[[flags.Options], Iterator[measure.Finding]]


STATEMENTS = {
    "saturation": Statement(
        "twice the evaluations lower strongest by less than .01 at the number of the "
        "preset, on vanilla, softplus and weight decay",
        ("adult", "bank", "compas", "mnist", "hiv", "planted"),
        measure.saturation,
    ),
    "radii": Statement(
        "the median certified radius of the whole top set is at least .9 of the "
        "smallest change found that alters it",
        ("adult", "bank", "compas"),
        radii.radii,
    ),
    "many_radii": Statement(
        "certified P@k of 1,000 inputs at ten radii takes less than 60 s, with "
        "compilation, by the bounds of one layer and by those of programs",
        ("adult",),
        radii.many_radii,
    ),
    "gradcert": Statement(
        "on GradCert's dense network for MNIST ours is at least as robust as theirs by "
        "each certificate, at an accuracy of .97, .95 and .9 for l∞ radii of .025, .05 "
        "and .1",
        ("mnist_digits",),
        gradcert.gradcert,
    ),
}
# Claims of before -> what judges them in evidence's place.
_SLOW = "python -m pytest -m slow tests"
ELSEWHERE = {
    "constrained_differs": "python -m experiments.constrained_attack",
    "constraints": "python -m pytest tests/r2et_jax/test_attacks_contract.py",
    "convergence_rate": "python -m experiments.convergence",
    "curvature_dense": f"{_SLOW}/r2et_jax/test_objectives_curvature_dense.py",
    "curvature_estimators": f"{_SLOW}/experiments/test_curvature_of_pairs.py",
    "curvature_memory": "python -m experiments.cost",
    "graph_forms": "python -m experiments.cost",
    "grid_search": f"{_SLOW}/r2et_jax/test_attacks_grid.py",
    "larger_gap_needs_more_steps": "python -m experiments.convergence",
    "strongest_below_published": "python -m experiments.robustness",
    "strongest_speed": "python -m experiments.cost",
}


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
        for name, statement in STATEMENTS.items():
            print(f"{name}: {statement.text}")
        return
    claimed = values["claim"].value
    if claimed is None:
        raise ValueError("name a claim with --claim=NAME; --list shows them")
    if claimed in ELSEWHERE:
        raise ValueError(
            f"the claim {claimed!r} is judged by `{ELSEWHERE[claimed]}`, no longer by "
            "evidence"
        )
    checks.check_in("claim", claimed, STATEMENTS)
    statement = STATEMENTS[claimed]
    tables = asked.known_tables(values)
    images = datasets.names("images")
    options = FLAGS.read(values, datasets=(*tables, *datasets.names("pairs"), *images))
    if not options.datasets:
        options = options._replace(datasets=statement.datasets)
    print(f"claim: {statement.text}")
    findings = []
    for finding in statement.measure(options):
        print(report.line(finding), flush=True)
        findings.append(finding)
    path = report.write_report(options.output_dir / claimed, statement.text, findings)
    holds = all(finding.holds for finding in findings)
    print("held" if holds else "not held", f"({path})")
    sys.exit(0 if holds else 2)
