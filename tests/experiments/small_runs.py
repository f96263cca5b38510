"""Each experiment on the smallest problem with several cells, and what measures it.

A run is made once for all tests, also of other processes: what it measured lies in its
folder, and its models beside it serve the other runs.
"""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from experiments.certify import experiment as certify
from experiments.certify import measure as certify_measure
from experiments.certify.measure import Certifier
from experiments.console import cli
from experiments.constrained_attack import experiment as constrained_attack
from experiments.constrained_attack import measure as constrained_measure
from experiments.convergence import experiment as convergence
from experiments.convergence import measure as convergence_measure
from experiments.correlation import experiment as correlation
from experiments.correlation import measure as correlation_measure
from experiments.explainers import experiment as explainers
from experiments.explainers import measure as explainers_measure
from experiments.faithfulness import experiment as faithfulness
from experiments.faithfulness.measure import Measurer
from experiments.gradient_profile import experiment as gradient_profile
from experiments.gradient_profile import measure as gradient_profile_measure
from experiments.loop import parts, setup
from experiments.measures import convergence as convergence_measures
from experiments.measures import evaluation, thickness
from experiments.models import candidates
from experiments.motivation import experiment as motivation
from experiments.motivation import measure as motivation_measure
from experiments.problems import presets, protocols
from experiments.problems.views import TABULAR
from experiments.sensitivity import experiment as sensitivity
from experiments.sensitivity import measure as sensitivity_measure
from experiments.store import output
from experiments.store.records import REQUIRED
from experiments.thickness import experiment as thickness_run
from experiments.thickness import measure as thickness_measure
from experiments.thickness import stability
from experiments.tradeoff import experiment as tradeoff
from r2et_jax import models

# One for all, so that a model is trained once.
TINY = protocols.PRESETS["smoke"]._replace(
    pretrain_epochs=4,
    epochs=2,
    eval_every=1,
    num_valid=10,
    num_test=12,
    strongest_evaluations=1300,
)
THICKNESS = thickness.Sampling(6, 4, 3)
PLAN = stability.Learning((8, 32), 16, 8, 1e-2, 40, thickness.Sampling(0, 2, 2))
LEARNT = {"vanilla": ()}
CORRELATION = thickness.Sampling(9, 3, 3)
CONVERGENCE = convergence_measures.Lengths(5, 12, 12)
VANILLA = ("--methods=vanilla",)
CALLS = "calls.json"


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of their columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def untrained(problem, k, options, *, description):
    """`parts.models` without training: random parameters of some size."""
    model = models.MLP(hidden=(16,))
    for method in options.methods:
        for seed in options.seeds:
            key = jax.random.key(seed + len(method))
            params = model.init(key, problem.sample)
            params = jax.tree.map(lambda leaf: 2.5 * leaf, params)
            fields = setup.model_fields(
                options.experiment,
                problem,
                model,
                method=method,
                seed=seed,
                k=k,
                tolerance=0.01,
            )
            yield parts.Trained(fields, model, params, {})


def random_attack(model, name, k, view=TABULAR, *, evaluations):
    """`evaluation.compiled_attack` that compiles in a fraction of the time."""
    del name
    return evaluation.compiled_attack(model, "random", k, view, evaluations=evaluations)


class SmallRun(NamedTuple):
    """An experiment, and how it becomes small.

    Attributes:
      experiment: its module.
      arguments: of its command line, besides the common ones.
      measuring: (owner, name) of all that measures a cell, or a part of one.
      items: (mapping, key, value) that its protocol has else.
      attributes: (owner, name, value), likewise.
    """

    experiment: Any
    arguments: tuple[str, ...]
    measuring: tuple[tuple[Any, str], ...]
    items: tuple[tuple[dict, Any, Any], ...] = ()
    attributes: tuple[tuple[Any, str, Any], ...] = ()

    def change(self, patch: pytest.MonkeyPatch) -> None:
        """Make the protocol small, for as long as the patch holds."""
        patch.setitem(protocols.PRESETS, "smoke", TINY)
        # Compiles in a fraction of the time of the attack that chooses models.
        patch.setattr(candidates, "_ATTACK", "random")
        patch.delenv("R2ET_DEBUG", raising=False)
        for mapping, key, value in self.items:
            patch.setitem(mapping, key, value)
        for owner, name, value in self.attributes:
            patch.setattr(owner, name, value)

    def call(self, folder: Path, models_dir: Path, *arguments: str) -> None:
        """Run it, or go on with what is in the folder."""
        options = "--preset=smoke", "--noprogress", "--seeds=0,3"
        folders = f"--output_dir={folder}", f"--models_dir={models_dir}"
        cli.call(self.experiment, *options, *self.arguments, *folders, *arguments)


RUNS = {
    "certify": SmallRun(
        certify,
        ("--methods=sp,logistic", "--epsilon=.05,.5"),
        ((Certifier, "clean"), (Certifier, "measure")),
        (),
        ((certify_measure, "compiled_attack", random_attack),),
    ),
    "constrained_attack": SmallRun(
        constrained_attack,
        (*VANILLA, "--learning_rates=.1", "--weightings=unconstrained,gda"),
        ((constrained_measure, "measure"),),
    ),
    "convergence": SmallRun(
        convergence,
        VANILLA,
        ((convergence_measure, "measure"), (convergence_measure, "mean_thickness")),
        ((convergence_measures.LENGTHS, "smoke", CONVERGENCE),),
    ),
    "correlation": SmallRun(
        correlation,
        (*VANILLA, "--attacks=random"),
        ((correlation_measure, "measure"),),
        ((thickness.SAMPLINGS, ("smoke", True), CORRELATION),),
    ),
    "explainers": SmallRun(
        explainers,
        ("--methods=vanilla,wd",),
        ((evaluation, "compiled_attack"), (explainers_measure, "measure")),
        (
            (
                explainers_measure.DRAWS,
                ("smoke", True),
                explainers_measure.Draws(8, 3, 3),
            ),
        ),
        ((parts, "models", untrained),),
    ),
    "faithfulness": SmallRun(
        faithfulness,
        # Of these seeds the vanilla models are told from a random order.
        ("--methods=vanilla,r2et_nh", "--seeds=0,1"),
        ((Measurer, "records"),),
    ),
    "gradient_profile": SmallRun(
        gradient_profile,
        VANILLA,
        ((gradient_profile_measure, "explain"), (gradient_profile_measure, "measure")),
    ),
    "motivation": SmallRun(
        motivation,
        ("--methods=vanilla,r2et", "--attacks=random,er_surrogate"),
        ((motivation_measure, "perturb"), (motivation_measure, "measure")),
        (),
        ((parts, "models", untrained),),
    ),
    "sensitivity": SmallRun(
        sensitivity,
        ("--k=4", "--factors=k_prime,lambda_1", "--epsilon=.5", "--attacks=random"),
        ((sensitivity_measure, "measure"),),
    ),
    "thickness": SmallRun(
        thickness_run,
        (*VANILLA, "--attacks=random"),
        ((thickness_measure, "measure"), (stability, "differences")),
        (
            (thickness.SAMPLINGS, ("smoke", True), THICKNESS),
            (stability.LEARNINGS, ("smoke", True), PLAN),
        ),
        ((presets, "LEARNT_METHODS", LEARNT),),
    ),
    "tradeoff": SmallRun(
        tradeoff,
        ("--methods=vanilla,r2et_nh", "--attacks=random", "--epsilon=.5"),
        ((evaluation.Evaluator, "attacked"),),
    ),
}  # fmt: skip


class Counted:
    """What measures, with its calls counted and, where asked for, one interrupted.

    Args:
      patch: by which the names are replaced.
      measuring: as of `SmallRun`.
    """

    def __init__(self, patch: pytest.MonkeyPatch, measuring):
        self.calls = {_label(*named): 0 for named in measuring}
        self.stop: tuple[str, int] | None = None
        for owner, name in measuring:
            patch.setattr(owner, name, self._counting(owner, name))

    def _counting(self, owner, name):
        original, label = getattr(owner, name), _label(owner, name)

        def call(*args, **options):
            if self.stop == (label, self.calls[label]):
                raise KeyboardInterrupt
            self.calls[label] += 1
            return original(*args, **options)

        return call


def _label(owner, name: str) -> str:
    return f"{owner.__name__}.{name}"


def finished(name: str, base: Path) -> Path:
    """The folder of an uninterrupted run, which nobody may change.

    Args:
      name: of the experiment.
      base: folder that all processes share.

    Returns:
      With the calls of what measured in `CALLS` beside the records.
    """
    small, folder = RUNS[name], base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / CALLS).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            with pytest.MonkeyPatch.context() as patch:
                small.change(patch)
                counted = Counted(patch, small.measuring)
                small.call(folder, base / "models")
            (folder / CALLS).write_text(json.dumps(counted.calls))
    return folder


def cells(folder: Path) -> list[list[dict[str, Any]]]:
    """The records of each cell, all complete, but for seconds, which no run repeats."""
    recorded = [[]]
    for line in (folder / output.RECORDS).read_text().splitlines():
        record = json.loads(line)
        left = record.pop("cell_left")
        record.pop("cell_sha256", None)
        assert record.keys() >= set(REQUIRED)
        if "seconds" in record["metric"]:
            del record["value"]
        recorded[-1].append(record)
        if left == 0:
            recorded.append([])
    assert not recorded.pop()
    return recorded
