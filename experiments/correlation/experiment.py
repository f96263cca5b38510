"""What tells how long an input's top-k set withstands an attack.

Of every test input the first iteration of an attack at which a top-k feature leaves,
of images and graphs at which P@k falls below a share, against the norm of the Hessian,
the gaps of its ranking and its thickness under three distributions. Inputs for which
no iteration did it are censored: correlations are given without them, and with them as
the longest of all.

    python -m experiments.correlation --datasets=adult,bank,compas
    python -m experiments.correlation --datasets=mnist
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.correlation import report
from experiments.correlation.measure import measure
from experiments.loop import asked, parts, runs
from experiments.measures import thickness
from r2et_jax.attacks.protocols import SINGLE

_SHARE = 0.8


def _define(values):
    absl_flags.DEFINE_float(
        "share",
        None,
        "P@k in (0, 1] below which an input counts as manipulated (default: tables 1, "
        f"the first loss; others {_SHARE:g}, since of a large top set one is lost at "
        "once)",
        flag_values=values,
    )


FLAGS = asked.describe("correlation", own=("share",), define=_define)


def main(values):
    common = asked.read(
        FLAGS,
        values,
        attacks=[name for name in SINGLE if name != thickness.ADVERSARY],
        single=("k", "attacks", "epsilon"),
    )
    share = common.given["share"]
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--share must lie in (0, 1], got {share}")
    runs.run(
        FLAGS.experiment,
        common,
        _measure_dataset,
        report.write_report,
        title="What tells an input's resistance: curvature, gap or thickness",
        questions=report.QUESTIONS,
        figures=report.FIGURES,
    )


def _measure_dataset(problem, k, common, store):
    effort = thickness.effort(problem, common.preset)
    share = common.given["share"]
    if share is None:
        share = 1.0 if problem.view.tabular else _SHARE
    for one in parts.models(
        FLAGS.experiment, problem, k, common, description="correlation"
    ):
        (epsilon,), (attack,) = common.epsilon, common.attacks
        cell = {**one.fields, "attack": attack, "epsilon": epsilon, "share": share}
        if not store.has(**cell):
            measurements = measure(
                problem,
                one.model,
                one.params,
                k=k,
                epsilon=epsilon,
                attack=attack,
                effort=effort,
                share=share,
            )
            store.append([{**cell, **record} for record in measurements])
