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

from typing import Any

from absl import flags as absl_flags

from experiments.console import flags
from experiments.faithfulness import report
from experiments.faithfulness.measure import Measurer
from experiments.loop import parts, runs
from experiments.models.fitting import LOGISTIC
from experiments.problems import presets
from r2et_jax import objectives

BASELINES = ("zero", "mean", "conditional")
RANKINGS = ("saliency", "random")
NUM_INPUTS = {"smoke": 50, "standard": 500, "paper": 1000}
_OWN = ("k", "seeds")
_METHODS = "vanilla,wd,sp,r2et_nh,r2et,r2et_mm,rat"


def _define(values):
    absl_flags.DEFINE_list(
        "baselines",
        list(BASELINES),
        f"what stands for removed features: {', '.join(BASELINES)}",
        flag_values=values,
    )
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "faithfulness",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": {
            "smoke": "vanilla,wd,r2et_nh,r2et",
            "standard": _METHODS,
            "paper": _METHODS,
        },
        "k": str(presets.TABULAR_K),
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
    own=(*parts.OF_PAIRS, "baselines"),
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=(*objectives.NAMES, LOGISTIC),
    )
    for name in ("attacks", "epsilon"):
        if getattr(common, name):
            raise ValueError(f"--{name} has no use here: nothing is attacked")
    given = common.given["baselines"]
    baselines = flags.parse_names("baselines", given, known=BASELINES)
    runs.check_single(common, ("k",))
    chosen = [parts.choose(problem, common, _OWN) for problem in parts.problems(common)]
    folder, store = parts.start(chosen, common, experiment=FLAGS.experiment, own=_OWN)
    for problem, own, k in parts.in_turn(chosen):
        _measure_dataset(problem, k, own, baselines, store)

    def write(*args, **part):
        return report.write_report(*args, baselines, **part)

    written, groups = parts.write_reports(folder, store, chosen, _OWN, write)
    written.append(report.write_exhibit(folder, store, groups, baselines, written))
    print("\n".join(map(str, written)))


def _measure_dataset(problem, k, common, baselines, store):
    limit = min(NUM_INPUTS[common.preset], problem.protocol(common.preset).num_test)
    measurers: dict[Any, Measurer] = {}
    for one in parts.models(FLAGS.experiment, problem, k, common, description="remove"):
        if one.model not in measurers:
            measurers[one.model] = Measurer(problem, one.model, num_inputs=limit)
        for baseline in baselines:
            for ranking in RANKINGS:
                cell = {**one.fields, "attack": "none", "epsilon": None}
                cell |= {"baseline": baseline, "ranking": ranking}
                if not store.has(**cell):
                    measure = measurers[one.model].records
                    measurements = measure(one.params, baseline, ranking)
                    store.append([{**cell, **record} for record in measurements])
