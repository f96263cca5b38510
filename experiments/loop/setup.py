"""What every experiment on trained models begins with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.console.flags import Common
from experiments.models.fitting import LOGISTIC, Fitter
from experiments.problems.registry import Problem, problem
from experiments.store import output
from experiments.store.records import RecordStore
from r2et_jax import datasets, objectives
from r2et_jax.datasets.soundness import validate


def load(
    common: Common, *, folds: tuple[int, ...] = (0,)
) -> list[datasets.Dataset | datasets.PairDataset]:
    """Load the data sets, graphs once for each fold, and check them and the methods.

    Raises:
      ValueError: sums of methods that clash, unsound data, an unknown fold.
      FileNotFoundError: data that were not prepared.
    """
    for method in common.methods:
        if method != LOGISTIC:
            objectives.method(method)
    loaded = []
    for name in common.datasets:
        dataset = datasets.load(name, data_dir=common.data_dir)
        if getattr(dataset, "kind", None) == "graph":
            found = [
                datasets.load(name, data_dir=common.data_dir, fold=fold)
                for fold in folds
            ]
        else:
            found = [dataset]
        loaded += found
    for dataset in loaded:
        validate(dataset)
    return loaded


def open_folder(
    common: Common, problems: Iterable[Problem]
) -> tuple[Path, RecordStore]:
    """The output folder of a configuration on some data, and the records in it so far.

    Raises:
      ValueError: if the folder is of another configuration or of other data, or if
        another run is writing to it.
    """
    problems = list(problems)
    folder = output.prepare_output_dir(
        common.output_dir,
        common.config,
        experiment=common.experiment,
        data={_label(found): found.fingerprint for found in problems},
    )
    store = RecordStore(folder / output.RECORDS, data=data_sha256(problems))
    return folder, store


def data_sha256(problems: Iterable[Problem]) -> dict[tuple[str, int], str]:
    """(data set, fold) -> SHA-256 of its data, for records."""
    return {(found.name, found.fold): found.fingerprint for found in problems}


def _label(found: Problem) -> str:
    return f"{found.name} fold {found.fold}" if found.fold else found.name


def fitter(dataset: datasets.Dataset | Problem, k: int, common: Common) -> Fitter:
    """The fitter of a run's preset, seeds and folder of models."""
    found = problem(dataset)
    return Fitter(
        found,
        seeds=common.seeds,
        protocol=found.protocol(common.preset),
        k=k,
        models_dir=common.models_dir,
        progress=common.progress,
    )


def model_fields(
    experiment: str,
    dataset: datasets.Dataset | Problem,
    model: Any,
    *,
    method: str,
    seed: int,
    k: int,
    tolerance: float,
    schedule: str = "pretrain",
) -> dict[str, Any]:
    """The fields that the records of one trained model share."""
    found = problem(dataset)
    return {
        "experiment": experiment,
        "dataset": found.name,
        "model": found.architecture(model),
        "method": method,
        "schedule": schedule,
        "seed": seed,
        "fold": found.fold,
        "k": k,
        "tolerance": tolerance,
    }
