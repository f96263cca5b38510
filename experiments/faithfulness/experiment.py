"""Faithfulness of the explanations: DFFOT, COMP and SUFF, methods × data × baselines.

Trains methods (or finds their models), removes the features of test inputs in the order
of their saliency, and records how soon the predicted class flips (DFFOT) and how far
the probability of the predicted class falls without the top features (COMP) and with
them alone (SUFF). What stands for a removed feature is a baseline: zero, the mean of
the training inputs, or values of training inputs that are alike in the kept features
(`r2et_jax.metrics.faithfulness`, which says what this does to one-hot columns). The
same is measured with features in random order, the floor under all these numbers.

Of pairs of images or graphs it is the first input whose features are removed, and the
probability is that of the pair; the partner stays as it is.

    python -m experiments.faithfulness --datasets=adult,bank,compas
    python -m experiments.faithfulness --datasets=mnist
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.console import flags
from experiments.faithfulness import report
from experiments.faithfulness.measure import BASELINES, measure_dataset
from experiments.loop import asked, parts

_OWN = ("k", "seeds")


def _define(values):
    absl_flags.DEFINE_list(
        "baselines",
        list(BASELINES),
        f"what stands for removed features: {', '.join(BASELINES)}",
        flag_values=values,
    )


FLAGS = asked.describe("faithfulness", further=("baselines",), define=_define)


def main(values):
    options = asked.read(FLAGS, values, methods=asked.WITH_LOGISTIC)
    for name in ("attacks", "epsilon"):
        if getattr(options, name):
            raise ValueError(f"--{name} has no use here: nothing is attacked")
    given = options.given["baselines"]
    baselines = flags.parse_names("baselines", given, known=BASELINES)
    asked.check_single(options, ("k",))
    chosen = parts.chosen(options, _OWN)
    folder, store = parts.start(chosen, options, varying=_OWN)
    for problem, part_options, k in parts.in_turn(chosen):
        measure_dataset(problem, k, part_options, baselines, store)

    def write(*args, **part):
        return report.write_report(*args, baselines, **part)

    written, groups = parts.write_reports(folder, store, chosen, _OWN, write)
    written.append(report.write_exhibit(folder, store, groups, baselines, written))
    print("\n".join(map(str, written)))
