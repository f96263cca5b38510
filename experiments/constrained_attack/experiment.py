"""Constrained attacks: P@k against sensitivity, five weightings × learning rates.

A constrained attack lowers the overlap of the top-k features while it keeps the
predicted class. Every model is attacked by every weighting of the two objectives;
P@k and sensitivity (the share of inputs whose predicted class changed) are those of
one and the same perturbed input.

Of pairs of images or graphs the Siamese network's prediction should stay, and the class
of each single input; the partner is not moved, so that its class stays by itself, and
its part of the constraint is 0 and left out. Sensitivity is the share of inputs of
which any of the predictions changed. The classifier of single inputs, at which training
on pairs never looks, is fitted to the embeddings of the training inputs before the
attacks. k and seeds are by default the data set's own, ε the largest of its budgets.

    python -m experiments.constrained_attack --datasets=adult,bank,compas
    python -m experiments.constrained_attack --datasets=mnist
"""

from __future__ import annotations

import functools

from absl import flags as absl_flags

from experiments.console import flags
from experiments.constrained_attack import claims, report
from experiments.constrained_attack import measure as constrained
from experiments.constrained_attack.measure import ATTACK, measure_dataset
from experiments.loop import asked, runs
from experiments.problems import presets
from r2et_jax import checks, datasets
from r2et_jax.attacks.constrained import WEIGHTINGS


def _define(values):
    for name, (meaning, default) in _LISTS.items():
        shown = default if isinstance(default, str) else "by preset"
        absl_flags.DEFINE_list(
            name,
            None,
            f"{meaning}, comma-separated (default: {shown})",
            flag_values=values,
        )


FLAGS = asked.describe("constrained_attack", define=_define)
_LISTS = {
    "weightings": (
        "rules for the weights of the objectives",
        ",".join(WEIGHTINGS),
    ),
    "learning_rates": (
        "learning rates of the weights, for gda and hedge",
        presets.LEARNING_RATES,
    ),
    "ranking_weights": (
        "weights of the ranking objective, for fixed weights",
        presets.RANKING_WEIGHTS,
    ),
}


def main(values):
    options = asked.read(
        FLAGS,
        values,
        methods=asked.WITH_LOGISTIC,
        attacks=(ATTACK,),
        without=datasets.names("images"),
    )
    given = {name: _given(name, options) for name in _LISTS}
    variants = _variants(given)
    options = options._replace(config={**options.config, **given})
    runs.run(
        options,
        functools.partial(measure_dataset, variants),
        report.write_report,
        title="P@k against the predictions that an attack changes",
        questions=claims.QUESTIONS,
        figures={
            "front": "P@k against sensitivity at the last iterate of every attack, "
            "with the front."
        },
    )


def _given(name: str, options: flags.Options) -> list[str]:
    """The entries of a list flag, or the preset's."""
    value = options.given[name]
    if value is not None:
        return value
    return flags.by_preset(_LISTS[name][1], options.preset).split(",")


def _variants(given) -> list[constrained.Variant]:
    rates = flags.parse_floats("learning_rates", given["learning_rates"])
    weights = flags.parse_floats("ranking_weights", given["ranking_weights"])
    for rate in rates:
        checks.check_positive("learning rate", rate)
    if any(weight > 1 for weight in weights):
        raise ValueError(f"--ranking_weights must lie in 0…1, got {max(weights)}")
    names = flags.parse_names("weightings", given["weightings"], known=WEIGHTINGS)
    return constrained.variants(names, rates, weights)
