"""Convergence of multi-objective descent on all gaps of a ranking.

Trains methods (or finds their models), descends the gaps of test inputs, and records
how fast the directions fall (theory: 1/√T) and whether inputs with a larger initial gap
and models with a thicker ranking take more steps until a top-k feature leaves.

    python -m experiments.convergence --datasets=adult,bank,compas
"""

from __future__ import annotations

from experiments.console import flags
from experiments.convergence.measure import (
    measure_dataset,
)
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
    options = FLAGS.read(
        values,
        datasets=asked.known_tables(values),
        methods=objectives.NAMES,
        attacks=(convergence.ATTACK,),
    )
    if options.epsilon:
        raise ValueError("--epsilon has no use here: the region is unbounded")
    chosen = [
        parts.choose(registry.problem(data), options) for data in setup.load(options)
    ]
    folder, store = setup.open_folder(options, (part.problem for part in chosen))
    for problem, part_options, k in parts.in_turn(chosen):
        measure_dataset(problem, k, part_options, store)
    for path in write_report(folder, store, options):
        print(path)
