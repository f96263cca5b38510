"""Saved models: a folder with the parameters (Orbax) and what they are (JSON)."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from r2et_jax.types import Params

_PARAMS = "params"
_DESCRIPTION = "description.json"
# Names the folder of the parameters, in the description as it is stored.
_POINTER = "params_folder"


def save_model(
    folder: str | os.PathLike[str], params: Params, description: dict[str, Any]
) -> None:
    """Write parameters and their description; the model appears whole or not at all.

    A kill at any moment leaves the model that was there before: parameters get a
    folder of their own, and the description, replaced in one go, points to it.

    Args:
      folder: where to write; a model that is there already is replaced.
      params: pytree of arrays in nested dicts.
      description: JSON object: configuration, choices, metrics.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{_PARAMS}-{uuid.uuid4().hex[:12]}"
    text = json.dumps({**description, _POINTER: name}, indent=1, sort_keys=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / name, jax.tree.map(np.asarray, params))
    partial = folder / f".{name}.json"
    partial.write_text(text, encoding="utf-8")
    earlier = _pointer(folder)
    os.replace(partial, folder / _DESCRIPTION)
    # That one alone: another process may be writing beside us.
    if earlier is not None:
        shutil.rmtree(folder / earlier, ignore_errors=True)


def _pointer(folder: Path) -> str | None:
    """Name of the folder of the parameters of the model that is there, if any."""
    try:
        text = (folder / _DESCRIPTION).read_text(encoding="utf-8")
        return json.loads(text).get(_POINTER, _PARAMS)
    except (OSError, ValueError, AttributeError):
        return None


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
        name = description.pop(_POINTER, _PARAMS)
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(folder / name)
    # Whatever Orbax meets in torn files: it has no error of its own for them.
    except Exception as error:
        raise ValueError(f"the saved model in {folder} is damaged: {error}") from error
    return jax.tree.map(np.asarray, params), description
