"""Models that are kept in a folder for all experiments: each is trained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from r2et_jax.training.checkpoint import load_model
from r2et_jax.types import Params

try:
    import fcntl
except ImportError:  # Windows: there, run one process at a time
    fcntl = None


def kept_or_fitted(
    folder: Path,
    fit: Callable[[], tuple[Params, dict[str, Any]]],
    config: dict[str, Any],
) -> tuple[Params, dict[str, Any]]:
    """The model of a configuration in a folder, else what `fit` puts there.

    One process at a time fits it; others wait, and then find it.
    """
    try:
        return _kept(folder, config)
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _kept(folder, config)
        except FileNotFoundError:
            return fit()


def _kept(folder: Path, config: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    params, description = load_model(folder)
    if description.get("config") != config:
        raise ValueError(
            f"the model in {folder} is of another configuration: its config is "
            f"{_differing(description.get('config'), config)}; {_remedy(folder)}"
        )
    return params, description


def _differing(there: Any, config: dict[str, Any]) -> str:
    if not isinstance(there, dict):
        return f"{there!r}"
    names = [n for n in {**there, **config} if there.get(n) != config.get(n)]
    return "; ".join(f"{n} = {there.get(n)!r}, not {config.get(n)!r}" for n in names)


def check_choices(
    folder: Path, params: Params, choices: Any, shape: tuple[int, int]
) -> None:
    """Raise unless there are parameters and a choice of each seed and tolerance."""
    seeds, tolerances = shape
    right = (
        isinstance(choices, list)
        and [len(row) if isinstance(row, list) else None for row in choices]
        == [tolerances] * seeds
    )
    if not right or not all(_is_choice(choice) for row in choices for choice in row):
        raise ValueError(
            f"the model in {folder}: choices must be {seeds} lists of {tolerances} "
            f"choices each, got {str(choices)[:60]}; {_remedy(folder)}"
        )
    for leaf in jax.tree.leaves(params):
        if leaf.shape[:2] != shape:
            raise ValueError(
                f"the model in {folder}: parameters must have the leading axes "
                f"{shape}, got {leaf.shape}; {_remedy(folder)}"
            )


def _is_choice(value: Any) -> bool:
    names = {"weights", "epoch", "valid_auc", "valid_precision", "num_admissible"}
    return isinstance(value, dict) and {*names, "fallback"} <= value.keys()


def _remedy(folder: Path) -> str:
    return f"delete {folder} to train it again"
