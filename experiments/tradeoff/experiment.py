"""Robustness against accuracy: P@k under attack, clean and attacked AUC, Pareto fronts.

Trains methods (or finds their models), attacks test inputs at the largest budget, and
sets P@k beside the AUC of the test split (cAUC) and that of the attacked inputs (aAUC).
A point is a method at one of the tolerances of validation AUC by which checkpoints are
chosen. Fronts are those of means over seeds; seeds are resampled, those of all methods
together, to tell how sure a place on a front is.

    python -m experiments.tradeoff --datasets=adult,bank,compas
    python -m experiments.tradeoff --datasets=mnist
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.loop import asked, parts
from experiments.tradeoff.known import Known
from experiments.tradeoff.measure import measure_dataset
from experiments.tradeoff.report import write_exhibit, write_report
from r2et_jax import attacks

# Images and graphs have methods of their own as well.
_OWN = ("methods", "k", "epsilon", "seeds")


def _define(values):
    absl_flags.DEFINE_string(
        "records",
        None,
        "folder of a run of robustness of the same models: what it has measured, or "
        "will have by then, is not measured again",
        flag_values=values,
    )


FLAGS = asked.describe("tradeoff", define=_define)


def main(values):
    options = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=attacks.NAMES,
        single=("attacks", "k", "epsilon"),
    )
    chosen = parts.chosen(options, _OWN)
    known = Known(options.given["records"], options, (part.problem for part in chosen))
    folder, store = parts.start(chosen, options, varying=_OWN)
    for problem, part_options, k in parts.in_turn(chosen):
        measure_dataset(problem, k, part_options, store, known)
    written, groups = parts.write_reports(folder, store, chosen, _OWN, write_report)
    written.append(write_exhibit(folder, store, groups, written))
    print("\n".join(map(str, written)))
