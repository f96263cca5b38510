"""The official archive of CIFAR-10 for Python: five training batches and a test batch.

Each batch is a pickle of a dict with data [10000, 3072] (uint8: 1024 red values, then
green, then blue, row by row) and labels, a list of 10000 numbers 0…9.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import PurePosixPath

import numpy as np

from data_prep import restricted_pickle

TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
NAMES = "batches.meta"


def read(
    content: bytes, file: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Read the archive.

    Args:
      content: of the .tar.gz file.
      file: its name, for messages.

    Returns:
      Images [m, 32, 32, 3] (uint8), labels [m], which rows are test images [m]
      (bool), and the names of the classes.

    Raises:
      ValueError: a batch that is missing or has another layout.
    """
    wanted = (*TRAINING, TEST, NAMES)
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:  # read into memory, nothing is unpacked to a path
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted:
                    members[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file} is not a complete tar.gz file ({error})") from error
    missing = [name for name in wanted if name not in members]
    if missing:
        raise ValueError(f"{file}: {missing[0]} is missing, expected {wanted}")
    batches = [_batch(members[name], name) for name in (*TRAINING, TEST)]
    sizes = [labels.size for _, labels in batches]
    is_test = np.repeat([False] * len(TRAINING) + [True], sizes)
    meta = restricted_pickle.loads(members[NAMES], NAMES)
    names = meta.get("label_names") if isinstance(meta, dict) else None
    labels = np.concatenate([labels for _, labels in batches])
    if not isinstance(names, list) or len(names) <= labels.max():
        raise ValueError(
            f"{NAMES}: expected label_names, a list of at least {labels.max() + 1} "
            f"names, got {names!r}"
        )
    images = np.concatenate([images for images, _ in batches])
    return images, labels, is_test, [str(name) for name in names]


def _batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = restricted_pickle.loads(content, name)
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        raise ValueError(f"{name}: expected a dict with data and labels")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise ValueError(f"{name}: data must be an array of uint8")
    if data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f"{name}: data must have shape [m, 3072], got {data.shape}")
    try:
        labels = np.array(batch["labels"], np.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: labels must be integers ({error})") from error
    if labels.shape != data.shape[:1] or labels.min(initial=0) < 0:
        raise ValueError(
            f"{name}: expected {data.shape[0]} labels 0, 1, …, got shape "
            f"{labels.shape}, the least {labels.min(initial=0)}"
        )
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
