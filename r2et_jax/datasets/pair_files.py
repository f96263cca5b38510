"""Pairs in .npz files: each input once, all folds, no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from r2et_jax.datasets.npz import read_arrays, read_meta
from r2et_jax.datasets.pairs import PairDataset, PairTable

FORMAT_VERSION = 1
_KEYS = (
    "inputs", "labels", "pairs", "shape", "regions", "lower", "upper", "truth", "meta",
)  # fmt: skip


def save_pairs_npz(path: str | Path, table: PairTable, *, scale: int = 1) -> None:
    """Write a `PairTable`, after checking every fold: the whole file or none.

    Args:
      path: the .npz file; one that is there is replaced.
      table: the table.
      scale: 255 writes inputs in [0, 1] as the bytes of an image, a quarter of the
        size, if they are multiples of 1/255; 1 writes float32.

    Returns:
      None.

    Raises:
      ValueError: an unsound fold, or inputs that scale would change.
    """
    path = Path(path)
    for fold in range(max(table.num_folds, 1)):
        table.fold(fold)
    inputs = table.inputs
    if scale != 1:
        inputs = np.rint(table.inputs * scale).astype(np.uint8)
        if not np.array_equal(_scaled(inputs, scale), table.inputs):
            raise ValueError(f"{table.name}: inputs are no multiples of 1/{scale}")
    meta = {
        **table.meta,
        "name": table.name,
        "kind": table.kind,
        "format_version": FORMAT_VERSION,
        "scale": scale,
    }
    truth = np.zeros(0, bool) if table.truth is None else table.truth
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                inputs=inputs,
                labels=table.labels,
                pairs=table.pairs,
                shape=np.array(table.shape),
                regions=np.array(table.regions, str),
                lower=table.lower,
                upper=table.upper,
                truth=truth,
                meta=np.array(json.dumps(meta)),
            )
        load_table(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_table(path: str | Path) -> PairTable:
    """Read all folds of pairs that `save_pairs_npz` has written.

    Args:
      path: the .npz file.

    Returns:
      A `PairTable`; `PairTable.fold` validates what it gives.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, or another format version.
    """
    path = Path(path)
    arrays = read_arrays(path, _KEYS)
    meta = read_meta(path, arrays, FORMAT_VERSION)
    pairs = arrays["pairs"]
    if pairs.ndim != 2 or pairs.shape[1] != 4:
        raise ValueError(f"{path}: pairs must have shape [p, 4], got {pairs.shape}")
    return PairTable(
        name=meta["name"],
        kind=meta["kind"],
        inputs=_scaled(arrays["inputs"], meta["scale"]),
        labels=arrays["labels"].astype(np.int32),
        pairs=pairs,
        shape=tuple(arrays["shape"].tolist()),
        regions=tuple(arrays["regions"].tolist()),
        lower=arrays["lower"].astype(np.float32),
        upper=arrays["upper"].astype(np.float32),
        truth=arrays["truth"] if arrays["truth"].size else None,
        meta=meta,
    )


def load_pairs_npz(path: str | Path, *, fold: int = 0) -> PairDataset:
    """Read one fold of pairs, validated.

    Args:
      path: a file that `save_pairs_npz`, `python -m data_prep.images` or
        `python -m data_prep.brain_graphs` has written.
      fold: 0 … 4 for graphs, 0 for images.

    Returns:
      A validated `PairDataset`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, another format version, no such fold, or unsound
        content (see `validate`).
    """
    return load_table(path).fold(fold)


def _scaled(inputs: np.ndarray, scale: int) -> np.ndarray:
    return inputs.astype(np.float32) / np.float32(scale)
