"""Convergence of multi-objective descent on all gaps of a ranking.

Trains methods (or finds their models), descends the gaps of test inputs, and records
how fast the directions fall (theory: 1/√T) and whether inputs with a larger initial gap
and models with a thicker ranking take more steps until a top-k feature leaves.

    python -m experiments.convergence --datasets=adult,bank,compas
"""

from __future__ import annotations

from experiments.console import flags
from experiments.convergence.measure import RADIUS, mean_thickness, measure
from experiments.convergence.report import write_report
from experiments.loop import asked, parts, setup
from experiments.measures import convergence
from experiments.problems import presets, registry
from r2et_jax import objectives

FLAGS = flags.describe(
    "convergence",
    defaults=presets.FLAGS["convergence"],
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=asked.known_tables(values),
        methods=objectives.NAMES,
        attacks=(convergence.ATTACK,),
    )
    if common.epsilon:
        raise ValueError("--epsilon has no use here: the region is unbounded")
    chosen = [
        parts.choose(registry.problem(data), common) for data in setup.load(common)
    ]
    folder, store = setup.open_folder(
        common, (part.problem for part in chosen), experiment=FLAGS.experiment
    )
    for problem, own, k in parts.in_turn(chosen):
        _measure_dataset(problem, k, own, store)
    for path in write_report(folder, store, common):
        print(path)


def _measure_dataset(problem, k, common, store):
    effort = convergence.EFFORTS[common.preset]
    x = problem.inputs("test", effort.num_inputs).x
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="descent"
    ):
        cell = {**one.fields, "attack": convergence.ATTACK, "epsilon": None}
        if not store.has(**cell):
            measurements = measure(one.model, one.params, x, k=k, effort=effort)
            store.append([{**cell, **record} for record in measurements])
        thick = {**one.fields, "attack": "none", "epsilon": RADIUS}
        if not store.has(**thick):
            store.append({**thick, **mean_thickness(problem, one, k, common.preset)})
