"""The flags of experiments on trained models, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from absl import flags as absl_flags

from experiments.console import flags
from experiments.console.flags import ExperimentFlags, Options
from experiments.problems import presets
from experiments.problems.registry import LOGISTIC, POOLINGS
from r2et_jax import datasets, objectives
from r2et_jax.datasets import registry
from r2et_jax.datasets.registry import prepared
from r2et_jax.threat.definition import ABSENT_RULES, NORMS

# Flags of no account for tables.
OF_PAIRS = ("folds", "pooling", "absent_edges")
# Flags of no account for all data but images.
OF_IMAGES = ("norm",)
# Names of --methods; with the model that is not trained by an objective.
METHODS = objectives.NAMES
WITH_LOGISTIC = (*METHODS, LOGISTIC)


def describe(
    experiment: str,
    *,
    further: Sequence[str] = (),
    define: Callable[[absl_flags.FlagValues], None] | None = None,
) -> ExperimentFlags:
    """The common flags, those of `OF_PAIRS` and the experiment's own.

    Args:
      experiment: its name, with its defaults in `presets.FLAGS`.
      further, define: as of `flags.describe`.
    """

    def define_all(values):
        if define is not None:
            define(values)
        define_of_pairs(values)

    return flags.describe(
        experiment,
        defaults=presets.FLAGS[experiment],
        further=(*further, *OF_PAIRS),
        define=define_all,
    )


def read(
    described: ExperimentFlags,
    values: absl_flags.FlagValues,
    *,
    attacks: Collection[str] | None = None,
    methods: Collection[str] | None = METHODS,
    without: Collection[str] = (),
    single: Sequence[str] = (),
) -> Options:
    """The parsed values of a run on any data that are known or prepared.

    Args:
      described: the flags.
      values: of its `define`, parsed.
      attacks, methods: names that may be given; None for any.
      without: data sets that may not.
      single: list flags that take one entry.

    Raises:
      ValueError: see `ExperimentFlags.read` and `check_single`.
    """
    known = known_datasets(values["data_dir"].value)
    options = described.read(
        values,
        datasets=[name for name in known if name not in without],
        methods=methods,
        attacks=attacks,
    )
    check_single(options, single)
    return options


def check_single(options: Options, names: Sequence[str]) -> None:
    """Raise ValueError if a list flag has several entries."""
    for name in names:
        given = getattr(options, name)
        if len(given) > 1:
            listed = ",".join(map(str, given))
            raise ValueError(f"--{name} takes one entry here, got {listed}")


def known_datasets(data_dir: str | Path) -> tuple[str, ...]:
    """Names of the tables, pairs and single images, and what else --data_dir holds."""
    further = prepared(data_dir)
    return (*registry.known(), *further)


def known_tables(values: absl_flags.FlagValues) -> tuple[str, ...]:
    """Names of the tables, and of those of one's own in --data_dir."""
    prepared_tables = prepared(values["data_dir"].value, "tabular")
    return (*datasets.names(), *prepared_tables)


def define_of_pairs(values: absl_flags.FlagValues, *, folds: bool = True) -> None:
    """Define --pooling, --absent_edges and --folds, which `parts.problems` reads.

    Args:
      values: where.
      folds: whether --folds is one of them.
    """
    absl_flags.DEFINE_enum(
        "pooling",
        None,
        POOLINGS,
        "of the convolutional network for images (default: max)",
        flag_values=values,
    )
    define_absent_edges(values)
    if folds:
        absl_flags.DEFINE_list(
            "folds",
            None,
            "parts of the cross-validation of graphs that are the test part (default: "
            "smoke 0; standard, paper 0,1,2,3,4)",
            flag_values=values,
        )


def define_absent_edges(values: absl_flags.FlagValues) -> None:
    """Define --absent_edges, which `parts.of_graphs` reads."""
    absl_flags.DEFINE_enum(
        "absent_edges",
        None,
        ABSENT_RULES,
        "of graphs under attack: free to appear, or frozen at zero (default: frozen "
        "where the graphs are sparse)",
        flag_values=values,
    )


def define_norm(values: absl_flags.FlagValues) -> None:
    """Define --norm, for `parts.problems`."""
    absl_flags.DEFINE_enum(
        "norm",
        None,
        NORMS,
        "of the attacks on images; their models are chosen in l2 in any case (default: "
        "l2)",
        flag_values=values,
    )
