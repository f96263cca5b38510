"""What every experiment on trained models begins with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.console.flags import Options
from experiments.models.fitting import Fitter
from experiments.problems.registry import LOGISTIC, Problem, problem
from experiments.store import output
from experiments.store.records import RecordStore
from r2et_jax import datasets, objectives
from r2et_jax.datasets.soundness import validate


def load(
    options: Options, *, folds: tuple[int, ...] = (0,)
) -> list[datasets.Dataset | datasets.PairDataset]:
    """Load the data sets, graphs once for each fold, and check them and the methods.

    Raises:
      ValueError: sums of methods that clash, unsound data, an unknown fold.
      FileNotFoundError: data that were not prepared.
    """
    for method in options.methods:
        if method != LOGISTIC:
            objectives.method(method)
    loaded = []
    for name in options.datasets:
        dataset = datasets.load(name, data_dir=options.data_dir)
        if getattr(dataset, "kind", None) == "graph":
            parts = [
                datasets.load(name, data_dir=options.data_dir, fold=fold)
                for fold in folds
            ]
        else:
            parts = [dataset]
        loaded += parts
    for dataset in loaded:
        validate(dataset)
    return loaded


def open_folder(
    options: Options, problems: Iterable[Problem]
) -> tuple[Path, RecordStore]:
    """The output folder of a configuration on some data, and the records in it so far.

    Raises:
      ValueError: if the folder is of another configuration or of other data, or if
        another run is writing to it.
    """
    problems = list(problems)
    folder = output.prepare_output_dir(
        options.output_dir,
        options.config,
        experiment=options.experiment,
        data={_label(data): data.fingerprint for data in problems},
    )
    store = RecordStore(folder / output.RECORDS, data=data_sha256(problems))
    return folder, store


def data_sha256(problems: Iterable[Problem]) -> dict[tuple[str, int], str]:
    """(data set, fold) -> SHA-256 of its data, for records."""
    return {(data.name, data.fold): data.fingerprint for data in problems}


def _label(data: Problem) -> str:
    return f"{data.name} fold {data.fold}" if data.fold else data.name


def fitter(dataset: datasets.Dataset | Problem, k: int, options: Options) -> Fitter:
    """The fitter of a run's preset, seeds and folder of models."""
    data = problem(dataset)
    return Fitter(
        data,
        seeds=options.seeds,
        protocol=data.protocol(options.preset),
        k=k,
        models_dir=options.models_dir,
        progress=options.progress,
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
    data = problem(dataset)
    return {
        "experiment": experiment,
        "dataset": data.name,
        "model": data.architecture(model),
        "method": method,
        "schedule": schedule,
        "seed": seed,
        "fold": data.fold,
        "k": k,
        "tolerance": tolerance,
    }
