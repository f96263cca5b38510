"""How R2ET depends on its hyperparameters, one at a time, the others at their defaults.

k: trained with k, P@k measured. k_prime: pairs of the forms that take some. lambda_1,
lambda_2: weights of the penalties, in multiples of the middle of the preset's grid, one
fit for each weight. schedule: from a vanilla model or from scratch. reference: the
model whose ranking is kept. Other than for the weights, a short grid of weights is
searched by the one selection rule.

    python -m experiments.sensitivity --datasets=compas --factors=k_prime,schedule
"""

from __future__ import annotations

import functools

from absl import flags as absl_flags

from experiments.console import flags
from experiments.loop import asked, runs
from experiments.sensitivity import report
from experiments.sensitivity.measure import FACTORS, measure_dataset
from r2et_jax import attacks


def _define(values):
    absl_flags.DEFINE_list(
        "factors",
        None,
        f"hyperparameters that are varied, of {', '.join(FACTORS)} (default: all)",
        flag_values=values,
    )


FLAGS = asked.describe("sensitivity", further=("factors",), define=_define)


def main(values):
    options = asked.read(FLAGS, values, attacks=attacks.NAMES, single=("k", "attacks"))
    given = options.given["factors"]
    factors = FACTORS if given is None else given
    factors = flags.parse_names("factors", factors, known=FACTORS)
    options = options._replace(config={**options.config, "factors": list(factors)})
    runs.run(
        options,
        functools.partial(measure_dataset, factors),
        report.write_report,
        title=report.TITLE,
        questions=report.QUESTIONS,
        figures={
            "sensitivity": "P@k under attack against one hyperparameter at a time, the "
            "vanilla model as a dashed line."
        },
    )
