"""Robustness of the top-k explanation: methods × data sets × seeds × attacks × ε.

Trains every method, chooses its checkpoints on validation data by one rule, attacks
the explanations of test inputs and writes records, a table and figures.

    python -m experiments.robustness --datasets=adult,bank,compas
    python -m experiments.robustness --datasets=mnist
    python -m experiments.robustness --datasets=mnist --norm=linf --output_dir=DIR
    python -m experiments.robustness --datasets=planted,hiv
    python -m experiments.robustness --datasets=cifar10
    python -m experiments.robustness --datasets=adult --scheduler=tcp://host:8786
"""

from __future__ import annotations

import functools

from absl import flags as absl_flags

from experiments.console import flags
from experiments.loop import asked, cluster, parts, training_flags
from experiments.problems import presets
from experiments.robustness import claims
from experiments.robustness.measure import measure_dataset
from experiments.robustness.report import summary, write_report
from r2et_jax import attacks, datasets
from r2et_jax.datasets.registry import REFERENCE_SUFFIX

# Flags whose default is a data set's own choice for images and graphs.
_OWN = ("methods", "k", "epsilon", "seeds")


def _define(values):
    training_flags.define_training(values)
    absl_flags.DEFINE_list(
        "reference_methods",
        None,
        "methods that are also measured with one reference level of each category "
        "dropped (default: smoke none; standard, paper "
        f"{presets.REFERENCE_METHODS['paper']})",
        flag_values=values,
    )
    asked.define_norm(values)
    cluster.define(values)


FLAGS = asked.describe(
    "robustness", further=(*training_flags.NAMES, *asked.OF_IMAGES), define=_define
)


def main(values):
    options = asked.read(
        FLAGS, values, methods=asked.WITH_LOGISTIC, attacks=attacks.NAMES
    )
    cluster.check(options.given["scheduler"])
    named = options.datasets
    # Only tables have categories: runs of pairs do not differ by what is said of them.
    tables = set(named) & set(datasets.names())
    reduced = _reference_methods(options)
    reduced = reduced if tables else ()
    if reduced:
        names = (name + REFERENCE_SUFFIX for name in named)
        more = tuple(n for n in names if n in datasets.names() and n not in named)
        options = options._replace(datasets=(*named, *more))
    config = {**options.config, "reference_methods": list(reduced)}
    options = options._replace(config=config)
    norm = options.given["norm"]
    chosen = []
    for problem in parts.problems(options, norm=norm):
        theirs = {} if problem.view.tabular else {"k": (problem.most_k,)}
        chosen.append(parts.choose(problem, options, _OWN, **theirs))
    folder, store = parts.start(chosen, options, varying=_OWN)
    cells = (
        (data, theirs if data.name in named else theirs._replace(methods=reduced), k)
        for data, theirs, k in parts.in_turn(chosen)
    )
    if (scheduler := options.given["scheduler"]) is None:
        for problem, theirs, k in cells:
            measure_dataset(problem, k, theirs, store)
    else:
        there = options._replace(data_dir=options.data_dir.resolve())
        load = functools.partial(parts.problems, there, norm=norm)
        with cluster.connect(scheduler) as client:
            cluster.measure(
                client, measure_dataset, cells, store, load=load, show=options.progress
            )
    written, groups = parts.write_reports(folder, store, chosen, _OWN, write_report)
    for theirs in groups:
        for k in theirs.k:
            print(summary(store, theirs, k))
    exhibited = claims.write_exhibit(folder, store, groups, written)
    print("\n".join(map(str, [folder / "records.jsonl", *written, exhibited])))


def _reference_methods(options) -> tuple[str, ...]:
    """Those of the flag, else the preset's that are measured at all."""
    given = options.given["reference_methods"]
    if given is not None:
        names = [name for name in given if name]
        reduced = [name + REFERENCE_SUFFIX for name in options.datasets]
        if names and not set(reduced) & set(datasets.names()):
            raise ValueError(
                "--reference_methods is for tables with categories, "
                f"{','.join(options.datasets)} has none: got {','.join(names)}"
            )
        known = asked.WITH_LOGISTIC
        return flags.parse_names("reference_methods", names, known=known, sums=True)
    usual = presets.REFERENCE_METHODS[options.preset].split(",")
    return tuple(name for name in usual if name in options.methods)
