"""Saved models: a folder with the parameters (Orbax) and what they are (JSON)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from r2et_jax.types import Params

_PARAMS = "params"
_DESCRIPTION = "description.json"


def save_model(
    folder: str | os.PathLike[str], params: Params, description: dict[str, Any]
) -> None:
    """Write parameters and their description; the folder appears whole or not at all.

    Args:
      folder: where to write; a model that is there already is replaced.
      params: pytree of arrays in nested dicts.
      description: JSON object: configuration, choices, metrics.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial / _PARAMS, jax.tree.map(np.asarray, params))
    text = json.dumps(description, indent=1, sort_keys=True)
    (partial / _DESCRIPTION).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def load_model(folder: str | os.PathLike[str]) -> tuple[Params, dict[str, Any]]:
    """Read what `save_model` wrote.

    Returns:
      The parameters as NumPy arrays, and the description.

    Raises:
      FileNotFoundError: if the folder holds no saved model.
      ValueError: if what is there cannot be read.
    """
    folder = Path(folder).absolute()
    if not (folder / _DESCRIPTION).is_file():
        raise FileNotFoundError(f"no saved model in {folder}")
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(folder / _PARAMS)
    except (json.JSONDecodeError, FileNotFoundError) as error:
        raise ValueError(f"the saved model in {folder} is damaged: {error}") from error
    return jax.tree.map(np.asarray, params), description
