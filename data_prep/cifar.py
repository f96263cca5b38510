"""The official archive of CIFAR-10 for Python: five training batches and a test batch.

Each batch is a pickle of a dict with data [10000, 3072] (uint8: 1024 red values, then
green, then blue, row by row) and labels, a list of 10000 numbers 0…9.
"""

from __future__ import annotations

import io
import reprlib
import tarfile
from pathlib import PurePosixPath

import numpy as np

from data_prep import restricted_pickle
from data_prep.unpacking import gunzip

TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
NAMES = "batches.meta"
_CLASSES = 10
# Of the archive, unpacked; the official one has 186 MB.
_MOST_BYTES = 2**28


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
    unpacked = gunzip(io.BytesIO(content), _MOST_BYTES, file)
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:  # read into memory, nothing is unpacked to a path
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted:
                    if name in members:
                        raise ValueError(f"{file} holds {name} twice, expected it once")
                    members[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
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
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or len(names) <= labels.max():
        raise ValueError(
            f"{NAMES}: expected label_names, a list of at least {labels.max() + 1} "
            f"names, got {reprlib.repr(names)}"
        )
    images = np.concatenate([images for images, _ in batches])
    return images, labels, is_test, names


def _batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = restricted_pickle.loads(content, name)
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        raise ValueError(f"{name}: expected a dict with data and labels")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise ValueError(f"{name}: data must be an array of uint8")
    if data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f"{name}: data must have shape [m, 3072], got {data.shape}")
    labels = batch["labels"]
    if not isinstance(labels, list) or len(labels) != data.shape[0] or not labels:
        raise ValueError(
            f"{name}: expected images and a label for each, got {data.shape[0]} images "
            f"and as labels {reprlib.repr(labels)}"
        )
    for label in labels:
        if type(label) is not int or not 0 <= label < _CLASSES:
            raise ValueError(
                f"{name}: got {reprlib.repr(label)} as a label, expected an integer in "
                f"0…{_CLASSES - 1}"
            )
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels)
