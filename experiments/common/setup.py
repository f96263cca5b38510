"""What every experiment on trained models begins with."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import jax

from experiments.common import candidates, evaluation, output
from experiments.common.fitting import LOGISTIC, Fitter
from experiments.common.flags import Common
from experiments.common.records import RecordStore
from experiments.common.training_flags import read_protocol
from r2et_jax import checks, datasets, objectives


def open_run(
    common: Common, *, experiment: str
) -> tuple[list[datasets.Dataset], Path, RecordStore]:
    """Load and check all that a run needs, before any long work.

    Returns:
      The validated data sets, the output folder, and the records in it so far.

    Raises:
      ValueError: sums of methods that clash, unsound data, k out of range for a data
        set, a folder that holds another configuration's records.
      FileNotFoundError: data that were not prepared.
    """
    for method in common.methods:
        if method != LOGISTIC:
            objectives.method(method)
    loaded = [datasets.load(name, data_dir=common.data_dir) for name in common.datasets]
    for dataset in loaded:
        datasets.validate(dataset)
        for k in common.k:
            checks.check_k(k, dataset.train.x.shape[1])
    folder = output.prepare_output_dir(
        common.output_dir, common.config, experiment=experiment
    )
    return loaded, folder, RecordStore(folder / "records.jsonl")


def fitter(dataset: datasets.Dataset, k: int, common: Common) -> Fitter:
    """The fitter of a run's preset, seeds and folder of models."""
    return Fitter(
        dataset,
        seeds=common.seeds,
        protocol=read_protocol(common.preset),
        k=k,
        models_dir=common.models_dir,
        progress=common.progress,
    )


def free_programs() -> None:
    """Forget all compiled programs, of a data set that is done.

    Each holds memory maps, of which a process has a limited number (65,530 on Linux by
    default): some hundred methods and data sets in one process would exceed it.
    """
    for module in (candidates, evaluation):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    jax.clear_caches()
    gc.collect()


def model_fields(
    experiment: str,
    dataset: datasets.Dataset,
    model: Any,
    *,
    method: str,
    seed: int,
    k: int,
    tolerance: float,
    schedule: str = "pretrain",
) -> dict[str, Any]:
    """The fields that the records of one trained model share."""
    return {
        "experiment": experiment,
        "dataset": dataset.name,
        "model": type(model).__name__.lower(),
        "method": method,
        "schedule": schedule,
        "seed": seed,
        "fold": 0,
        "k": k,
        "tolerance": tolerance,
    }
