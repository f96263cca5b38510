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
from experiments.correlation.measure import SHARE, measure_dataset
from experiments.loop import asked, runs
from experiments.measures import thickness
from r2et_jax.attacks.protocols import SINGLE


def _define(values):
    absl_flags.DEFINE_float(
        "share",
        None,
        "P@k in (0, 1] below which an input counts as manipulated (default: tables 1, "
        f"the first loss; others {SHARE:g}, since of a large top set one is lost at "
        "once)",
        flag_values=values,
    )


FLAGS = asked.describe("correlation", further=("share",), define=_define)


def main(values):
    options = asked.read(
        FLAGS,
        values,
        attacks=[name for name in SINGLE if name != thickness.ADVERSARY],
        single=("k", "attacks", "epsilon"),
    )
    share = options.given["share"]
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--share must lie in (0, 1], got {share}")
    runs.run(
        options,
        measure_dataset,
        report.write_report,
        title="What tells an input's resistance: curvature, gap or thickness",
        questions=report.QUESTIONS,
        figures=report.FIGURES,
    )
