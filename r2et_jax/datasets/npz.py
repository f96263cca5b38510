"""Reading of .npz files that may be damaged, foreign or of an older form."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_arrays(
    path: Path, keys: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of a file, without unpickling.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a complete .npz file, or one without an array of `keys`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no data set file {path}")
    try:
        # Opened here, since np.load leaves a truncated file open. A .npy file gives
        # a bare array, which is no context: TypeError.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            wanted = (*keys, *optional)
            arrays = {key: file[key] for key in wanted if key in file}
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a complete .npz file ({error})") from error
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(
            f"{path}: array {missing[0]!r} is missing, expected {', '.join(keys)}"
        )
    return arrays


def read_meta(
    path: Path, arrays: dict[str, np.ndarray], version: int
) -> dict[str, Any]:
    """What the array "meta", a JSON string, says.

    Raises:
      ValueError: for another format version.
    """
    meta = json.loads(str(arrays["meta"]))
    if meta.get("format_version") != version:
        raise ValueError(
            f"{path}: format version {meta.get('format_version')!r}, expected "
            f"{version}: prepare the file again"
        )
    return meta
