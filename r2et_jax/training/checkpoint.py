"""Saved models: a folder with the parameters (Orbax) and what they are (JSON)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.files import holding, remove_abandoned
from r2et_jax.training.packing import params_sha256
from r2et_jax.types import Params

_DESCRIPTION = "description.json"
# Names the folder of the parameters, in the description as it is stored. Of no other
# form, so that nothing outside of the model's folder is read or deleted.
_POINTER = "params_folder"
_PARAMS = "params"
_FORM = re.compile(rf"{_PARAMS}(-[0-9a-f]{{12}})?")
_PARAMS_SHA256 = "params_sha256"
_FILES_SHA256 = "files_sha256"  # of the folder of the parameters
_SHA256 = "description_sha256"


def save_model(
    folder: str | os.PathLike[str], params: Params, description: dict[str, Any]
) -> None:
    """Write parameters and their description; the model appears whole or not at all.

    A kill at any moment leaves the model that was there before: parameters get a
    folder of their own, and the description, replaced in one go, points to it.

    Args:
      folder: where to write; a model that is there already is replaced.
      params: pytree of arrays in nested dicts.
      description: JSON object: configuration, choices, metrics. The SHA-256 of the
        parameters is added as "params_sha256".

    Raises:
      ValueError: for parameters in another structure or with NaN or infinities, or if
        the folder holds a damaged description.json; nothing is touched.
      OSError: if it cannot be written, with the path.
    """
    folder = Path(folder).absolute()
    earlier = _earlier(folder)
    _check_nested(params)
    params = jax.tree.map(np.asarray, params)
    _check_finite(params)
    name = f"{_PARAMS}-{uuid.uuid4().hex[:12]}"
    # As it comes back from JSON: lists for tuples, text for keys.
    stored = json.loads(json.dumps(description))
    stored |= {_PARAMS_SHA256: params_sha256(params), _POINTER: name}
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder, earlier)
    partial = folder / f".{name}.json"
    with holding(partial):
        _write(folder, name, partial, params, stored)
    # That one alone: another process may be writing beside us.
    if earlier is not None:
        shutil.rmtree(folder / earlier, ignore_errors=True)


def checkpointer_of_orbax():
    """Orbax's checkpointer of arrays; its import takes a quarter of a second."""
    import orbax.checkpoint

    return orbax.checkpoint.StandardCheckpointer()


def _write(
    folder: Path, name: str, partial: Path, params: Params, stored: dict[str, Any]
) -> None:
    try:
        with checkpointer_of_orbax() as checkpointer:
            checkpointer.save(folder / name, params)
        stored[_FILES_SHA256] = files_sha256(folder / name)
        stored[_SHA256] = _digest(stored)
        write_text(partial, json.dumps(stored, indent=1))
        os.replace(partial, folder / _DESCRIPTION)
    except Exception:  # disk full: leave nothing behind
        partial.unlink(missing_ok=True)
        for path in folder.glob(f"{name}*"):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _clean(folder: Path, earlier: str | None) -> None:
    """Remove what killed processes have left that were saving a model here."""
    for path in folder.glob(f".{_PARAMS}-*.json"):
        remove_abandoned(path)
    for path in folder.glob(f"{_PARAMS}-*"):
        name = path.name.partition(".")[0]  # Orbax writes to NAME.orbax-…-tmp first
        if not _FORM.fullmatch(name) or (folder / f".{name}.json").exists():
            continue
        # Asked after that: of who has finished in between, the description is there.
        if name not in (earlier, _earlier(folder)):
            shutil.rmtree(path, ignore_errors=True)


def load_model(folder: str | os.PathLike[str]) -> tuple[Params, dict[str, Any]]:
    """Read what `save_model` wrote.

    Returns:
      The parameters as NumPy arrays, and the description, with their "params_sha256".

    Raises:
      FileNotFoundError: if the folder holds no saved model.
      ValueError: if what is there cannot be read, or is not what was written.
    """
    folder = Path(folder).absolute()
    stored = _stored(folder)
    name = _params_folder(folder, stored)
    del stored[_POINTER]
    files = stored.pop(_FILES_SHA256, None)
    # Before Orbax reads them: what it does with damaged files is not bounded.
    if files is not None and files != files_sha256(folder / name):
        raise _damaged(folder, f"the files in {name} do not match their SHA-256")
    try:
        with checkpointer_of_orbax() as checkpointer:
            params = checkpointer.restore(folder / name)
        params = jax.tree.map(np.asarray, params)
        read_sha256 = params_sha256(params)
    # Whatever Orbax meets in torn files: it has no error of its own for them.
    except Exception as error:
        raise _damaged(folder, error) from error
    if _PARAMS_SHA256 not in stored:
        warnings.warn(
            f"the model in {folder} was saved without {_PARAMS_SHA256}: whether its "
            "parameters are those that were saved is not known",
            stacklevel=2,
        )
    elif stored[_PARAMS_SHA256] != read_sha256:
        raise _damaged(
            folder,
            f"its parameters have another {_PARAMS_SHA256} than its description says, "
            f"{read_sha256[:12]}…, not {str(stored[_PARAMS_SHA256])[:12]}…",
        )
    return params, stored


def write_text(path: Path, text: str) -> None:
    """Write a file that is on disk on return; an OSError names its path."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def files_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder)).encode()
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(hashlib.sha256(name).digest() + content)
    return digest.hexdigest()


def _check_nested(params: Params) -> None:
    """Raise unless parameters come back from Orbax as they are."""
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        for key in path:
            if not isinstance(getattr(key, "key", None), str):
                shown = jax.tree_util.keystr(path)
                raise ValueError(f"params must be nested dicts, got a leaf at {shown}")


def _check_finite(params: Params) -> None:
    """Raise for parameters that training has lost."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            count = np.count_nonzero(~np.isfinite(leaf))
            raise ValueError(
                f"params must be finite to be saved, got NaN or infinity in {count} of "
                f"{leaf.size} values at params{jax.tree_util.keystr(path)}: training "
                "has diverged, or met such values in its data"
            )


def _stored(folder: Path) -> dict[str, Any]:
    """The description as it stands in the file, sound.

    Raises:
      FileNotFoundError: if the folder holds no saved model.
      ValueError: if it is damaged.
    """
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"no saved model in {folder}")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{_DESCRIPTION} is no JSON: {error}") from error
    if not isinstance(stored, dict):
        kind = type(stored).__name__
        raise _damaged(folder, f"{_DESCRIPTION} must hold a JSON object, got a {kind}")
    told = stored.pop(_SHA256, None)
    if told is not None and told != _digest(stored):
        raise _damaged(folder, f"{_DESCRIPTION} does not match its {_SHA256}")
    return stored


def _params_folder(folder: Path, stored: dict[str, Any]) -> str:
    """Name of the folder of the parameters, which lies in the model's own."""
    name = stored.setdefault(_POINTER, _PARAMS)
    if not isinstance(name, str) or not _FORM.fullmatch(name):
        raise _damaged(
            folder,
            f"{_POINTER} must be a name such as {_PARAMS}-0123456789ab, got {name!r}",
        )
    if (folder / name).is_symlink():
        raise _damaged(folder, f"{_POINTER} {name!r} is a link to another folder")
    return name


def _earlier(folder: Path) -> str | None:
    """Folder of the parameters of the model that is there, if any."""
    try:
        return _params_folder(folder, _stored(folder))
    except FileNotFoundError:
        return None


def _damaged(folder: Path, why: Any) -> ValueError:
    return ValueError(
        f"the saved model in {folder} is damaged: {why}; delete {folder} to save or "
        "train it again"
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
