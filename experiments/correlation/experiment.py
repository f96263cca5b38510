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

from experiments.console import flags
from experiments.correlation import report
from experiments.correlation.measure import measure
from experiments.loop import parts, runs
from experiments.measures import thickness
from experiments.problems import presets
from r2et_jax import attacks, objectives

_SHARE = 0.8


def _define(values):
    parts.define_of_pairs(values)
    absl_flags.DEFINE_float(
        "share",
        None,
        "P@k in (0, 1] below which an input counts as manipulated (default: tables 1, "
        f"the first loss; others {_SHARE:g}, since of a large top set one is lost at "
        "once)",
        flag_values=values,
    )


FLAGS = flags.describe(
    "correlation",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,r2et_nh",
            "standard": "vanilla,wd,sp,r2et_nh,r2et",
            "paper": "vanilla,wd,sp,r2et_nh,r2et",
        },
        "attacks": thickness.ATTACK,
        "k": str(presets.TABULAR_K),
        "epsilon": "1",
        "seeds": runs.SEEDS,
    },
    own=(*parts.OF_PAIRS, "share"),
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=objectives.NAMES,
        attacks=[name for name in attacks.SINGLE if name != thickness.ADVERSARY],
    )
    runs.check_single(common, ("k", "attacks", "epsilon"))
    share = common.given["share"]
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--share must lie in (0, 1], got {share}")
    chosen = [
        parts.choose_largest(problem, common) for problem in parts.problems(common)
    ]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        report.write_report,
        experiment=FLAGS.experiment,
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
