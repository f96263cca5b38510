"""Single images with classes, kept as bytes."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from r2et_jax.datasets.containers import SPLITS, Dataset, Split, validate

FORMAT_VERSION = 1
_KEYS = ("images", "y", *SPLITS, "meta")


def load_images_npz(path: str | Path) -> Dataset:
    """Read images that `python -m data_prep.images` has written, divided by 255.

    The file holds images [m, height, width] or [m, height, width, channels] (uint8),
    y [m], the row indices train, valid and test, and meta (one JSON string).

    Args:
      path: the .npz file.

    Returns:
      A validated `Dataset` of flattened images in [0, 1]; `meta["shape"]` is the
      shape of one image, columns are named "pixel_row_column_channel".

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, another format version, or unsound content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no data set file {path}")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _KEYS if key in file}
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a complete .npz file ({error})") from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(
            f"{path}: array {missing[0]!r} is missing, expected {', '.join(_KEYS)}"
        )
    meta = json.loads(str(arrays["meta"]))
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {meta.get('format_version')!r}, expected "
            f"{FORMAT_VERSION}: prepare the file again"
        )
    images, y = arrays["images"], arrays["y"].astype(np.int32)
    rows = np.concatenate([arrays[name] for name in SPLITS])
    if not np.array_equal(np.sort(rows), np.arange(len(images))):
        raise ValueError(
            f"{path}: train, valid and test must hold each of the rows "
            f"0…{len(images) - 1} once, got {rows.size} indices"
        )
    shape = images.shape[1:]
    n = int(np.prod(shape))
    flat = images.reshape(len(images), n)
    dataset = Dataset(
        name=meta["name"],
        **{name: Split(_unit(flat[arrays[name]]), y[arrays[name]]) for name in SPLITS},
        columns=tuple("pixel_" + "_".join(map(str, at)) for at in np.ndindex(*shape)),
        groups=(),
        immutable=(),
        lower=np.zeros(n, np.float32),
        upper=np.ones(n, np.float32),
        meta={**meta, "shape": list(shape)},
    )
    validate(dataset)
    return dataset


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)
