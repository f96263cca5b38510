"""Single images with classes, kept as bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from r2et_jax.datasets.arrays import check_shape, integers
from r2et_jax.datasets.containers import SPLITS, Dataset, Split, check_rows, validate
from r2et_jax.datasets.npz import read_arrays, read_meta

FORMAT_VERSION = 2  # 2: equal images stand in one part
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
    arrays = read_arrays(path, _KEYS)
    meta = read_meta(path, arrays, FORMAT_VERSION)
    images, where = arrays["images"], str(path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(
            f"{path}: images must be bytes of shape [m, height, width] or [m, height, "
            f"width, channels], got {images.dtype} of shape {images.shape}"
        )
    check_shape(where, "y", arrays["y"], (len(images),))
    y = integers(where, "y", arrays["y"], low=0, high=len(images) - 1)
    y = y.astype(np.int32)
    check_rows(where, arrays, len(images))
    shape = images.shape[1:]
    n = math.prod(shape)
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
