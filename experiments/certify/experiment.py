"""Certified and attacked P@k against the budget: what of the robustness is provable.

Trains methods (or finds their models), bounds the P@k of every test input from below
over the whole ball, and attacks the same inputs and the same map with the strongest
attack at the same budget. Certified > attacked would disprove the bound; such inputs
are counted.

    python -m experiments.certify --datasets=adult --methods=vanilla,sp,skip+cert_rank
"""

from __future__ import annotations

from experiments.certify import report
from experiments.certify.measure import clean_auc, measure
from experiments.console import flags
from experiments.loop import asked, parts, setup
from experiments.measures.evaluation import STRONGEST
from experiments.models.fitting import LOGISTIC
from experiments.problems import presets, registry
from r2et_jax import objectives

FLAGS = flags.describe(
    "certify",
    defaults=presets.FLAGS["certify"],
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=asked.known_tables(values),
        methods=(*objectives.NAMES, LOGISTIC),
        attacks=(STRONGEST,),
    )
    chosen = [
        parts.choose(registry.problem(data), common) for data in setup.load(common)
    ]
    folder, store = setup.open_folder(
        common, (part.problem for part in chosen), experiment=FLAGS.experiment
    )
    for problem, own, k in parts.in_turn(chosen):
        _measure_dataset(problem, k, own, store)
    for path in report.write_report(folder, store, common):
        print(path)


def _measure_dataset(problem, k, common, store):
    settings = problem.protocol(common.preset)
    x = problem.inputs("test", settings.num_test).x
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="certify", by_seed=True
    ):
        clean = {**one.fields, "attack": "none", "epsilon": None}
        if not store.has(**clean):
            test = problem.dataset.test
            store.append({**clean, **clean_auc(one.model, one.params, test)})
        for epsilon in common.epsilon:
            cell = {**one.fields, "attack": STRONGEST, "epsilon": epsilon}
            if not store.has(**cell):
                measurements = measure(
                    one.model,
                    one.params,
                    x,
                    k=k,
                    epsilon=epsilon,
                    budget=settings.strongest_budget,
                )
                store.append([{**cell, **record} for record in measurements])
