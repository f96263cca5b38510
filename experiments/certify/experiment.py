"""Certified and attacked P@k against the budget: what of the robustness is provable.

Trains methods (or finds their models), bounds the P@k of every test input from below
over the whole l2 ball, and attacks the same inputs and the same map with the strongest
attack at the same budget. Certified > attacked would disprove the bound; such inputs
are counted.

    python -m experiments.certify --datasets=adult --methods=vanilla,sp,skip+cert_rank
    python -m experiments.certify --datasets=adult --hidden=32,32 --weights=.1
    python -m experiments.certify --datasets=mnist --pooling=average
    python -m experiments.certify --datasets=adult --exact=.25

Networks with one hidden layer have bounds of their own, all others those of their
gradient's program. `--exact` looks for the exact worst case by branch and bound, of
networks with one layer of ReLU or leaky ReLU units.
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.certify import report
from experiments.certify.measure import measure_dataset
from experiments.console import flags
from experiments.loop import asked, parts, runs, training_flags
from experiments.measures.evaluation import STRONGEST
from experiments.problems import presets
from r2et_jax.checks import check_positive

# Flags whose default is a data set's own choice for images and graphs.
_OWN = ("methods", "k", "epsilon", "seeds")


def _define(values):
    absl_flags.DEFINE_list(
        "hidden",
        None,
        "widths of the hidden layers of the networks for tables (default: 32)",
        flag_values=values,
    )
    training_flags.define_training(values)
    training_flags.define_weights(values)
    absl_flags.DEFINE_enum(
        "tolerance",
        str(presets.MAIN_TOLERANCE),
        [str(tolerance) for tolerance in presets.TOLERANCES],
        "of the chosen models: validation AUC that they may lose against vanilla",
        flag_values=values,
    )
    absl_flags.DEFINE_list(
        "exact",
        None,
        "budgets at which the exact worst case is searched for, too, where the network "
        "has one hidden layer of piecewise-linear units (default: none)",
        flag_values=values,
    )
    absl_flags.DEFINE_float(
        "exact_seconds", 10.0, "time of that search, an input", flag_values=values
    )
    absl_flags.DEFINE_float(
        "variants",
        None,
        "budget at which the ways to bound networks for tables are compared by their "
        "certified P@k and their time (default: they are not)",
        flag_values=values,
    )


FLAGS = asked.describe(
    "certify",
    further=(
        *training_flags.NAMES,
        "hidden",
        "weights",
        "tolerance",
        "exact",
        "exact_seconds",
        "variants",
    ),
    define=_define,
)


def main(values):
    options = asked.read(
        FLAGS, values, methods=asked.WITH_LOGISTIC, attacks=(STRONGEST,)
    )
    exact = _exact(options)
    if options.given["variants"] is not None:
        check_positive("variants", options.given["variants"])
    chosen = [_choose(problem, options) for problem in parts.problems(options)]
    folder, store = parts.start(chosen, options, varying=_OWN)
    for problem, part_options, k in parts.in_turn(chosen):
        measure_dataset(problem, k, part_options, store, exact)
    runs.finish(
        folder,
        store,
        chosen,
        _OWN,
        report.write_report,
        title="What of the robustness is provable",
        questions=report.QUESTIONS,
        figures=report.FIGURES,
    )


def _exact(options) -> tuple[float, ...]:
    check_positive("exact_seconds", options.given["exact_seconds"])
    given = options.given["exact"]
    if given is None:
        return ()
    budgets = flags.parse_floats("exact", given)
    if not set(budgets) <= set(options.epsilon):
        raise ValueError(
            f"--exact takes budgets of --epsilon {options.epsilon}, got {budgets}"
        )
    return budgets


def _widths(given) -> tuple[int, ...]:
    # One by one: two layers may have the same width.
    largest = {"minimum": 1, "maximum": flags.LARGEST_COUNT}
    return tuple(flags.parse_ints("hidden", [item], **largest)[0] for item in given)


def _choose(problem, options) -> parts.Part:
    hidden = options.given["hidden"]
    if problem.view.tabular:
        if hidden is not None:
            problem.hidden = _widths(hidden)
    elif hidden is not None:
        raise ValueError(f"--hidden is for tables, {problem.name} is none: {hidden}")
    problem.changes = {**problem.changes, **training_flags.of_weights(options)}
    usual = {}
    if not problem.view.tabular:
        kind = problem.view.kind
        usual = {
            "methods": presets.CERTIFIED_METHODS,
            "k": (problem.most_k,),
            "epsilon": presets.CERTIFIED_BUDGETS[kind],
            "seeds": problem.seeds(options.preset, options.seeds)[:1],
        }
    return parts.choose(problem, options, **usual)
