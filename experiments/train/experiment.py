"""Training of the named methods, each chosen model saved in a folder of its own.

Trains by the one protocol (a grid of penalty weights, pruning, selection on validation
data) and writes every chosen model into OUTPUT_DIR/models, from where
`r2et_jax.saved.load(folder)` and `python -m experiments.attack` read it. Killed at any
moment, the same command goes on and ends with the same parameters, bit by bit.

    python -m experiments.train --datasets=adult --methods=r2et --seeds=0
    python -m experiments.train --datasets=mnist --methods=r2et_nh
    python -m experiments.train --datasets=hiv --methods=r2et_nh --fold=1

Pairs of images or graphs train Siamese networks; k of images and graphs is the data
set's own where --k is not given.
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.console import flags
from experiments.loop import asked, parts, setup, training_flags
from experiments.models.fitting import Fitter
from experiments.problems import presets
from experiments.problems.registry import Problem
from experiments.train.measure import train
from experiments.train.report import write_report


def _define(values):
    training_flags.define_training(values)
    training_flags.define_weights(values)
    absl_flags.DEFINE_integer(
        "fold",
        0,
        "part of the cross-validation of graphs that is the test part",
        flag_values=values,
    )
    asked.define_of_pairs(values, folds=False)


FLAGS = flags.describe(
    "train",
    defaults=presets.FLAGS["train"],
    further=(*training_flags.NAMES, "weights"),
    define=_define,
)


def main(values):
    options = asked.read(FLAGS, values, methods=asked.WITH_LOGISTIC)
    for name in ("attacks", "epsilon"):
        if getattr(options, name):
            raise ValueError(f"--{name} has no use here: see experiments.attack")
    weights = training_flags.of_weights(options, alone=True)
    chosen = [parts.choose(problem, options, ("k",)) for problem in _problems(options)]
    settings = {
        problem.name: problem.protocol(part_options.preset)._replace(**weights)
        for problem, part_options in chosen
    }
    config = _config(options, chosen)
    folder, store = setup.open_folder(
        options._replace(config=config),
        (part.problem for part in chosen),
    )
    saved = []
    for problem, part_options, k in parts.in_turn(chosen):
        fitter = Fitter(
            problem,
            seeds=part_options.seeds,
            protocol=settings[problem.name],
            k=k,
            models_dir=part_options.models_dir,
            progress=part_options.progress,
        )
        for method in part_options.methods:
            saved += train(fitter, method, part_options, folder, store)
    sizes = tuple(
        dict.fromkeys(k for _, part_options in chosen for k in part_options.k)
    )
    write_report(folder, store, sizes)
    print("\n".join(map(str, saved)))


def _problems(options) -> list[Problem]:
    fold = options.given["fold"]
    problem = parts.problems(options, folds=(fold,))
    if fold:
        kinds = {single.view.kind for single in problem}
        parts.check_use("fold", str(fold), "graph", kinds, options)
    return problem


def _config(options, chosen):
    """Every flag that is of account: what is for pairs does not tell tables apart."""
    config = parts.with_choices(options.config, chosen, ("k",))
    kinds = {problem.view.kind for problem, _ in chosen}
    for name, kind in (("fold", "graph"), ("pooling", "image")):
        if kind in kinds:
            config = {**config, name: options.given[name]}
    return {**config, **parts.of_graphs(options)} if "graph" in kinds else config
