"""Trained models in folders of their own, with all that it takes to judge them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments.problems.registry import Problem, problem
from r2et_jax import datasets, metrics, models, saved, score
from r2et_jax.models.siamese import class_apply
from r2et_jax.training.packing import params_sha256
from r2et_jax.types import Array, Params

Data = datasets.Dataset | datasets.PairDataset | Problem

# What a search cost, as far as a choice tells it.
_SEARCH_COST = ("settings_tried", "settings_left", "train_seconds")
_SHA256 = "params_sha256"


class _Entry(NamedTuple):
    """What an entry of a description must be, in words, and whether a value is it."""

    words: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TEXT = _Entry("text", _is_text)
_INTEGER = _Entry("an integer of at least 0", _is_integer)
# Of the entries that are read; any may be missing, or null.
_ENTRIES = {
    **dict.fromkeys(
        ("dataset", "data_sha256", "method", "schedule", "kind", "norm"), _TEXT
    ),
    **dict.fromkeys(("seed", "fold", "k"), _INTEGER),
    "tolerance": _Entry("a number", lambda v: type(v) in (int, float)),
    "columns": _Entry(
        "a list of names", lambda v: isinstance(v, list) and all(map(_is_text, v))
    ),
    "split_sizes": _Entry(
        "an object of integers",
        lambda v: isinstance(v, dict) and all(map(_is_integer, v.values())),
    ),
}
_SPLITS = ("train", "valid", "test")
# Training inputs that are embedded at a time.
_EMBEDDED = 1024
# Deviations of an embedding below this share of the largest one are rounding.
_CONSTANT = 1e-6


def describe_data(dataset: Data) -> dict[str, Any]:
    """What a model's description says of the data that it was trained on."""
    of_data = problem(dataset)
    data = of_data.dataset
    told = {"dataset": of_data.name, "data_sha256": of_data.fingerprint}
    if of_data.view.tabular:
        told["columns"] = list(data.columns)
    else:
        told |= {
            "kind": of_data.view.kind,
            "shape": list(of_data.shape),
            "fold": of_data.fold,
            "norm": of_data.view.norm,
        }
    sizes = {name: len(getattr(data, name).y) for name in _SPLITS}
    return {**told, "split_sizes": sizes}


def write(folder: Path, model: Any, params: Params, description: dict[str, Any]) -> str:
    """Save a model, unless it is there already, and return its params_sha256."""
    sha256 = params_sha256(params)
    try:
        if read(folder).description[_SHA256] == sha256:
            return sha256
    except (FileNotFoundError, ValueError):
        pass  # nothing there, or what a reader could not use
    saved.save(folder, model, params, description)
    return sha256


def read(folder: Path) -> saved.Saved:
    """A saved model, whose description is of the shape that it is read by.

    Raises:
      FileNotFoundError: if the folder does not exist or holds no saved model.
      ValueError: if the model is damaged, or its description of another shape.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    model = saved.load(folder)
    if not isinstance(model.model, nn.Module):
        raise ValueError(
            f"the model in {folder} must be a Flax module to be attacked here, got the "
            f"function {model.description['architecture']['function']}: audit it with "
            "r2et-audit"
        )
    for name, entry in _ENTRIES.items():
        value = model.description.get(name)
        if value is not None and not entry.holds(value):
            raise ValueError(
                f"the description of the model in {folder}: {name} must be "
                f"{entry.words}, got {value!r}"
            )
    return model


def check_data(description: dict[str, Any], dataset: Data, *, folder: Path) -> None:
    """Raise unless a data set is the one that a model was trained on, value by value.

    Raises:
      ValueError: names the model's folder and what differs.
    """
    now = describe_data(dataset)
    if description.get("data_sha256", now["data_sha256"]) == now["data_sha256"]:
        return
    raise ValueError(
        f"the data set {now['dataset']} is not the one that the model in {folder} was "
        f"trained on: {_difference(description, now)}"
    )


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    differences = [
        f"its {name} split had {size} rows, now {now['split_sizes'].get(name)}"
        for name, size in then.get("split_sizes", {}).items()
        if size != now["split_sizes"].get(name)
    ]
    given = now.get("columns", [])
    columns = then.get("columns", given)
    if len(columns) != len(given):
        differences.append(f"it had {len(columns)} columns, now {len(given)}")
    elif columns != given:
        pairs = zip(columns, given, strict=True)
        i, (old, new) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        differences.append(f"column {i} was {old!r}, now {new!r}")
    if not differences:
        differences.append(
            f"same columns and sizes, other values (SHA-256 {then['data_sha256'][:12]}…"
            f", now {now['data_sha256'][:12]}…)"
        )
    return "; ".join(differences)


def check_takes(loaded: saved.Saved, dataset: Data, *, folder: Path) -> None:
    """Raise unless a model turns one input, or pair, of a data set into its logits.

    Raises:
      ValueError: names the model's folder and the numbers that differ.
    """
    data = problem(dataset)
    n, name = data.sample.shape[-1], data.name
    if data.view.paired != isinstance(loaded.model, models.Siamese):
        class_name = type(loaded.model).__name__
        needed = "a Siamese network" if data.view.paired else "a network of one input"
        raise ValueError(
            f"the model in {folder} is of the class {class_name}, {name!r} needs "
            f"{needed}"
        )
    trained = len(loaded.description.get("columns", range(n)))
    if trained != n:
        raise ValueError(
            f"the model in {folder} takes {trained} features, {name} has {n}"
        )
    shape_of_input = (2, n) if data.view.paired else (n,)
    x = jax.ShapeDtypeStruct(shape_of_input, np.float32)
    try:
        shape = jax.eval_shape(loaded.model.apply, loaded.params, x).shape
    # Flax, JAX and the module itself each have errors of their own for wrong shapes.
    except Exception as error:
        raise ValueError(
            f"the model in {folder} does not take the {n} features of {name}: {error}"
        ) from error
    if shape != (data.num_outputs,):
        wanted = "one logit" if data.num_outputs == 1 else f"{data.num_outputs} logits"
        raise ValueError(f"the model in {folder} must give {wanted}, got shape {shape}")


def test_auc(data: Problem, model: Any, params: Params) -> float:
    """AUC of the test inputs, or of the test pairs."""
    test = data.inputs("test")
    logits = np.asarray(data.view.logits(model, params, test.x, test.partner))
    return float(metrics.roc_auc(test.y, logits))


def with_classifier(
    data: Problem, model: models.Siamese, params: Params
) -> tuple[models.Siamese, Params]:
    """A model of pairs whose classifier of single inputs is fitted.

    Training looks at pairs alone and leaves the classifier at its random start. Here it
    becomes the logistic regression of the classes on the standardised embeddings of the
    training inputs, each once, linear in the embedding as `classify` is. Nothing is
    drawn at random, and neither the encoder nor the logit of a pair changes.

    Args:
      data: pairs of images or graphs.
      model: the Siamese module.
      params: its parameters.

    Returns:
      The module, with as many outputs as there are classes (one for two of them), and
      its parameters.

    Raises:
      ValueError: if a class has no training input.
    """
    # Imported where it is needed: slow to import.
    from sklearn.linear_model import LogisticRegression

    train = data.dataset.train
    labels = train.labels[np.unique([train.first, train.second])]
    classes = np.unique(train.labels)
    if not np.array_equal(np.unique(labels), classes):
        raise ValueError(
            f"{data.name}: the training inputs have the classes "
            f"{np.unique(labels).tolist()}, expected {classes.tolist()}"
        )
    inputs = data.train_inputs()
    parts = [
        np.asarray(data.view.context(model, params, inputs[i : i + _EMBEDDED]))
        for i in range(0, len(inputs), _EMBEDDED)
    ]
    embedded = np.concatenate(parts).astype(np.float64)
    mean, spread = embedded.mean(axis=0), embedded.std(axis=0)
    spread = np.where(spread > _CONSTANT * spread.max(), spread, np.inf)
    fit = LogisticRegression(max_iter=2000).fit((embedded - mean) / spread, labels)
    kernel = (fit.coef_ / spread).T
    classifier = {
        "kernel": kernel.astype(np.float32),
        "bias": (fit.intercept_ - mean @ kernel).astype(np.float32),
    }
    leaves = {**params["params"], "classifier": classifier}
    return model.clone(num_outputs=kernel.shape[1]), {**params, "params": leaves}


@functools.partial(jax.jit, static_argnums=0)
def class_logits(model: models.Siamese, params: Params, x: Array) -> Array:
    """Logits [m, C] of single inputs [m, n], by the classifier of a model of pairs."""
    return jax.vmap(class_apply(model), (None, 0))(params, x)


def class_accuracy(
    data: Problem, model: models.Siamese, params: Params
) -> tuple[float, int]:
    """Share of the first inputs of test pairs that are classified rightly, and m."""
    test = data.dataset.test
    once = np.unique(test.first)
    logits = class_logits(model, params, test.inputs[once])
    right = np.asarray(jax.vmap(score.predicted_class)(logits)) == test.labels[once]
    return float(np.mean(right)), len(once)


def choice_records(cell: dict[str, Any], choice: dict[str, Any]):
    """What selection chose, as records."""
    chosen = {
        "epoch": choice["epoch"],
        "valid_auc": choice["valid_auc"],
        "valid_p@k": choice["valid_precision"],
        "num_admissible": choice["num_admissible"],
        "fallback": float(choice["fallback"]),
        **{name: choice.get(name) for name in _SEARCH_COST},
        **{f"weight_{term}": w for term, w in choice["weights"].items()},
    }
    return [
        {**cell, "metric": name, "value": float(value), "stderr": None, "n": 1}
        for name, value in chosen.items()
        if value is not None
    ]
