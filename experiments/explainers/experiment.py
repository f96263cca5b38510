"""Whether the order of methods is that of the explanation that they were trained for.

Trains methods (or finds their models), explains them by the gradient, by SmoothGrad and
by Integrated Gradients, attacks each explanation through itself, and compares the
orders of the methods by P@k. Graphs are explained by gradient × input, which SmoothGrad
averages there. SmoothGrad's draws are fixed: they are the same for an input before and
after the attack, which knows them.

    python -m experiments.explainers --datasets=adult,bank,compas
"""

from __future__ import annotations

import jax

from experiments.explainers.measure import EFFORTS, measure, views
from experiments.explainers.report import FIGURES, QUESTIONS, write_report
from experiments.loop import asked, parts, runs
from experiments.measures import evaluation
from r2et_jax.attacks.protocols import SINGLE

FLAGS = asked.describe("explainers")


def main(values):
    common = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=SINGLE,
        single=("attacks", "k", "epsilon"),
    )
    runs.run(
        FLAGS.experiment,
        common,
        _measure_dataset,
        write_report,
        title="P@k under attack by explainer",
        questions=QUESTIONS,
        figures=FIGURES,
    )


def _measure_dataset(problem, k, common, store):
    effort = EFFORTS[common.preset, problem.view.tabular]
    num_test = min(effort.num_inputs, problem.protocol(common.preset).num_test)
    inputs = problem.inputs("test", num_test)
    x, partner, _ = inputs
    (name,), (epsilon,) = common.attacks, common.epsilon
    budget = problem.budget(epsilon)
    explained = views(
        problem.view, effort, channels=x.shape[1] // problem.num_features
    ).items()
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="explain"
    ):
        context = problem.view.context(one.model, one.params, partner)
        for explainer, view in explained:
            cell = {**one.fields, "attack": name, "epsilon": epsilon}
            cell["explainer"] = explainer
            if not store.has(**cell):
                run = evaluation.compiled_attack(one.model, name, k, view, budget=0)
                key = jax.random.key(0)
                result = run(one.params, x, budget, key=key, context=context)
                measurements = measure(result, k=k, units=inputs.units)
                store.append([{**cell, **record} for record in measurements])
