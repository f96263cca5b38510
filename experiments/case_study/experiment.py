"""Explanations of a few test inputs before and after the attack, method by method.

Attacks the test inputs of the models that the robustness experiment trained (trains
them if they are not there), chooses examples by a rule that sees neither inputs nor
explanations, and draws them.

    python -m experiments.case_study --datasets=mnist,planted
"""

from __future__ import annotations

from typing import Any, NamedTuple

from absl import flags as absl_flags

from experiments.case_study import report
from experiments.case_study.measure import (
    attack_methods,
    choose_examples,
)
from experiments.console import flags
from experiments.loop import asked, parts, training_flags
from experiments.problems import presets
from experiments.problems.registry import Problem
from r2et_jax import attacks, checks


def _define(values):
    training_flags.define_training(values)
    absl_flags.DEFINE_integer(
        "num_examples",
        3,
        "test inputs that are drawn, at even quantiles from .1 to .9 of the first "
        "method's P@k",
        flag_values=values,
    )
    absl_flags.DEFINE_float(
        "tolerance",
        presets.MAIN_TOLERANCE,
        "validation AUC that the models may give up against vanilla, one of "
        f"{', '.join(map(str, presets.TOLERANCES))}",
        flag_values=values,
    )
    asked.define_of_pairs(values, folds=False)


FLAGS = flags.describe(
    "case_study",
    defaults=presets.FLAGS["case_study"],
    further=(
        *training_flags.NAMES,
        "num_examples",
        "tolerance",
        "pooling",
        "absent_edges",
    ),
    define=_define,
)


class Study(NamedTuple):
    """What is drawn of one data set.

    Attributes:
      problem: the data.
      options: the flags that are meant for it.
      cell: the fields by which the records of one method are found, but the method.
      methods: their names, the one that orders the examples first.
    """

    problem: Problem
    options: flags.Options
    cell: dict[str, Any]
    methods: tuple[str, ...]


def main(values):
    options = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=attacks.NAMES,
        single=("attacks", "k", "epsilon"),
    )
    count = options.given["num_examples"]
    checks.check_count("num_examples", count)
    tolerance = options.given["tolerance"]
    checks.check_in("tolerance", tolerance, presets.TOLERANCES)
    chosen = parts.chosen(options, parts.LARGEST, folds=(0,))
    for problem, _ in chosen:
        size = len(problem.dataset.test.y)
        if count > size:
            raise ValueError(
                f"--num_examples={count} is too many: {problem.name} has {size} test "
                "inputs"
            )
    folder, store = parts.start(chosen, options, varying=parts.LARGEST)
    studies = []
    for problem, part_options, k in parts.in_turn(chosen):
        study = _study(problem, part_options, k, tolerance)
        attack_methods(study, folder, store)
        choose_examples(study, count, folder, store)
        studies.append(study)
    for path in report.write_report(folder, store, studies):
        print(path)


def _study(problem: Problem, options, k: int, tolerance: float) -> Study:
    cell = {
        "dataset": problem.name,
        "seed": options.seeds[0],
        "attack": options.attacks[0],
        "epsilon": options.epsilon[0],
        "k": k,
        "tolerance": tolerance,
    }
    methods = options.methods
    if "vanilla" in methods:
        methods = ("vanilla", *(name for name in methods if name != "vanilla"))
    return Study(problem, options, cell, methods)
