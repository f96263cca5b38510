"""Trains a model, audits it, hardens it, audits again: what this project is for.

    python -m experiments.quickstart

On data that come with scikit-learn: a network with one hidden layer, then the same one
hardened by R2ET and by the certified ranking hinge, which does best on tables. Penalty
weights and checkpoints are chosen on validation data; all that is printed, and the
pages, are of test inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from absl import flags as absl_flags
from tqdm import tqdm

from experiments.quickstart import measure, report
from r2et_jax import datasets, models


class _Flags(NamedTuple):
    """The two flags: there is nothing to be set."""

    experiment: str = "quickstart"

    def define(self) -> absl_flags.FlagValues:
        values = absl_flags.FlagValues()
        absl_flags.DEFINE_string(
            "output_dir", "results/quickstart", "folder of the pages",
            flag_values=values,
        )  # fmt: skip
        absl_flags.DEFINE_bool(
            "progress", True, "show progress bars", flag_values=values
        )
        return values


FLAGS = _Flags()


def main(values):
    folder = Path(values["output_dir"].value)
    data = datasets.breast_cancer()
    model = models.MLP(activation="softplus")
    outcome = measure.measure(
        model,
        measure.train(model, data),
        data,
        measure.Request(),
        folder=folder / "search",
        progress=lambda what: _bar(what) if values["progress"].value else None,
    )
    pages = report.save(outcome, folder)
    print("\n".join(report.lines(outcome)))
    print("pages, to be opened in a browser:", *map(str, pages))


def _bar(description: str) -> measure.Progress:
    bar = tqdm(desc=description, dynamic_ncols=True, leave=False)

    def progress(done: int, total: int, what: str) -> None:
        bar.total, bar.n = total, done
        bar.set_postfix_str(what, refresh=True)
        if done == total:
            bar.close()

    return progress
