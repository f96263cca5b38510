"""Trained models in folders of their own, with all that it takes to judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2et_jax import datasets, saved, training
from r2et_jax.types import Params

# What a search cost, as far as a choice tells it.
_EFFORT = ("settings_tried", "settings_left", "train_seconds")
_SHA256 = "params_sha256"
_SPLITS = ("train", "valid", "test")


def describe_data(dataset: datasets.Dataset) -> dict[str, Any]:
    """What a model's description says of the data that it was trained on."""
    return {
        "dataset": dataset.name,
        "data_sha256": datasets.fingerprint(dataset),
        "columns": list(dataset.columns),
        "split_sizes": {name: len(getattr(dataset, name).x) for name in _SPLITS},
    }


def write(folder: Path, model: Any, params: Params, description: dict[str, Any]) -> str:
    """Save a model, unless it is there already, and return its params_sha256."""
    sha256 = training.params_sha256(params)
    try:
        if read(folder).description.get(_SHA256) == sha256:
            return sha256
    except (FileNotFoundError, ValueError):
        pass  # nothing there, or what a reader could not use
    saved.save(folder, model, params, {**description, _SHA256: sha256})
    return sha256


def read(folder: Path) -> saved.Saved:
    """A saved model whose parameters are those that its description names.

    Raises:
      FileNotFoundError: if the folder does not exist or holds no saved model.
      ValueError: if the model is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    found = saved.load(folder)
    sha256 = training.params_sha256(found.params)
    if found.description.get(_SHA256, sha256) != sha256:
        raise ValueError(
            f"the saved model in {folder} is damaged: its parameters have another "
            f"{_SHA256} than its description says"
        )
    return found


def check_data(
    description: dict[str, Any], dataset: datasets.Dataset, *, folder: Path
) -> None:
    """Raise unless a data set is the one that a model was trained on, value by value.

    Raises:
      ValueError: names the model's folder and what differs.
    """
    now = describe_data(dataset)
    if description.get("data_sha256", now["data_sha256"]) == now["data_sha256"]:
        return
    raise ValueError(
        f"the data set {dataset.name} is not the one that the model in {folder} was "
        f"trained on: {_difference(description, now)}"
    )


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    found = [
        f"its {name} split had {size} rows, now {now['split_sizes'].get(name)}"
        for name, size in then.get("split_sizes", {}).items()
        if size != now["split_sizes"].get(name)
    ]
    columns, given = then.get("columns", now["columns"]), now["columns"]
    if len(columns) != len(given):
        found.append(f"it had {len(columns)} columns, now {len(given)}")
    elif columns != given:
        pairs = zip(columns, given, strict=True)
        i, (old, new) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        found.append(f"column {i} was {old!r}, now {new!r}")
    if not found:
        found.append(
            f"same columns and sizes, other values (SHA-256 {then['data_sha256'][:12]}…"
            f", now {now['data_sha256'][:12]}…)"
        )
    return "; ".join(found)


def check_takes(found: saved.Saved, dataset: datasets.Dataset, *, folder: Path) -> None:
    """Raise unless a model turns one input of a data set into one logit.

    Raises:
      ValueError: names the model's folder and the numbers that differ.
    """
    n = dataset.train.x.shape[1]
    trained = len(found.description.get("columns", dataset.columns))
    if trained != n:
        raise ValueError(
            f"the model in {folder} takes {trained} features, {dataset.name} has {n}"
        )
    x = jax.ShapeDtypeStruct((n,), np.float32)
    try:
        shape = jax.eval_shape(found.model.apply, found.params, x).shape
    # Flax, JAX and the module itself each have errors of their own for wrong shapes.
    except Exception as error:
        raise ValueError(
            f"the model in {folder} does not take the {n} features of {dataset.name}: "
            f"{error}"
        ) from error
    if shape != (1,):
        raise ValueError(
            f"the model in {folder} must give one logit, got shape {shape}"
        )


def choice_records(cell: dict[str, Any], choice: dict[str, Any]):
    """What selection chose, as records."""
    chosen = {
        "epoch": choice["epoch"],
        "valid_auc": choice["valid_auc"],
        "valid_p@k": choice["valid_precision"],
        "num_admissible": choice["num_admissible"],
        "fallback": float(choice["fallback"]),
        **{name: choice.get(name) for name in _EFFORT},
        **{f"weight_{term}": w for term, w in choice["weights"].items()},
    }
    return [
        {**cell, "metric": name, "value": float(value), "stderr": None, "n": 1}
        for name, value in chosen.items()
        if value is not None
    ]
