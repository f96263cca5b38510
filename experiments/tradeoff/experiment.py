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

import functools
from typing import Any

import jax
from absl import flags as absl_flags

from experiments.loop import asked, parts
from experiments.loop.known import Known
from experiments.measures.evaluation import Evaluator
from experiments.measures.numbers import measured
from experiments.problems import presets
from experiments.tradeoff.report import write_exhibit, write_report
from r2et_jax import attacks, metrics

_KEPT = ("p@k", "aauc", "sensitivity")
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
    common = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=attacks.NAMES,
        single=("attacks", "k", "epsilon"),
    )
    chosen = parts.chosen(common, _OWN)
    known = Known(common.given["records"], common, (part.problem for part in chosen))
    folder, store = parts.start(chosen, common, experiment=FLAGS.experiment, own=_OWN)
    for problem, own, k in parts.in_turn(chosen):
        _measure_dataset(problem, k, own, store, known)
    written, groups = parts.write_reports(folder, store, chosen, _OWN, write_report)
    written.append(write_exhibit(folder, store, groups, written))
    print("\n".join(map(str, written)))


def _measure_dataset(problem, k, common, store, known):
    settings = problem.protocol(common.preset)
    (attack,), (epsilon,) = common.attacks, common.epsilon
    programs: dict[Any, tuple] = {}
    for one in parts.models(
        FLAGS.experiment,
        problem,
        k,
        common,
        description="attack",
        tolerances=presets.TOLERANCES,
    ):
        cell = {**one.fields, "attack": attack, "epsilon": epsilon}
        if store.has(**cell):
            continue
        if (shared := known.of(cell, _KEPT)) is not None:
            store.append(shared)
            continue
        if one.model not in programs:
            evaluator = Evaluator(
                problem,
                one.model,
                k=k,
                num_test=settings.num_test,
                strongest_budget=settings.strongest_budget,
            )
            logits = jax.jit(functools.partial(problem.view.logits, one.model))
            programs[one.model] = evaluator, logits
        evaluator, logits = programs[one.model]
        test = problem.inputs("test")
        auc = metrics.roc_auc(test.y, logits(one.params, test.x, test.partner))
        attacked = evaluator.attacked(one.params, attack, epsilon)
        kept = [record for record in attacked if record["metric"] in _KEPT]
        kept.append(measured("auc", auc, None, len(test.y)))
        store.append([{**cell, **record} for record in kept])
