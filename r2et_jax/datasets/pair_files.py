"""Pairs in .npz files: each input once, all folds, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from r2et_jax.datasets.arrays import check_shape, float32, integers, texts
from r2et_jax.datasets.containers import SPLITS
from r2et_jax.datasets.npz import read_arrays, read_meta, write_arrays
from r2et_jax.datasets.pairs import KINDS, PairDataset, PairTable
from r2et_jax.files import replacing

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

    Example:
      >>> import tempfile
      >>> from r2et_jax.datasets import load, planted
      >>> folder, mine = tempfile.mkdtemp(), planted()._replace(name="mine")
      >>> save_pairs_npz(f"{folder}/mine.npz", mine)
      >>> load("mine", data_dir=folder).kind
      'graph'
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
    arrays = {
        "inputs": inputs,
        "labels": table.labels,
        "pairs": table.pairs,
        "shape": np.array(table.shape),
        "regions": np.array(table.regions, str),
        "lower": table.lower,
        "upper": table.upper,
        "truth": truth,
        "meta": np.array(json.dumps(meta)),
    }
    with replacing(path) as partial:
        write_arrays(partial, arrays)
        load_table(partial)


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
    _check_form(path, arrays, meta)
    inputs, pairs = arrays["inputs"], arrays["pairs"]
    where, count = str(path), len(inputs)
    for column, what, high in (
        (0, "folds", max(len(pairs) - 1, 0)),
        (1, "splits", len(SPLITS) - 1),
        (slice(2, 4), "inputs", count - 1),
    ):
        integers(where, f"pairs ({what})", pairs[:, column], low=0, high=high)
    largest = np.iinfo(np.int32).max
    return PairTable(
        name=meta["name"],
        kind=meta["kind"],
        inputs=_scaled(float32(where, "inputs", inputs), meta["scale"]),
        labels=integers(
            where, "labels", arrays["labels"], low=0, high=max(count - 1, 0)
        ).astype(np.int32),
        pairs=pairs.astype(np.int32),
        shape=tuple(
            integers(where, "shape", arrays["shape"], low=1, high=largest).tolist()
        ),
        regions=texts(where, "regions", arrays["regions"]),
        lower=float32(where, "lower", arrays["lower"], infinite=True),
        upper=float32(where, "upper", arrays["upper"], infinite=True),
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

    Example:
      >>> data = load_pairs_npz("data/hiv.npz", fold=1)  # doctest: +SKIP
    """
    return load_table(path).fold(fold)


def _check_form(
    path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]
) -> None:
    """Raise unless the arrays' lengths agree and meta says how they are to be read."""
    check_shape(str(path), "inputs", arrays["inputs"], ("u", "n"))
    count, n = arrays["inputs"].shape
    shapes = {
        "labels": (count,),
        "pairs": ("p", 4),
        "shape": ("axes",),
        "regions": ("v",),
        "lower": (n,),
        "upper": (n,),
        "truth": (n if arrays["truth"].size else 0,),
    }
    for field, shape in shapes.items():
        check_shape(str(path), field, arrays[field], shape)
    for field, known in (("kind", KINDS), ("scale", (1, 255))):
        value = meta.get(field)
        if type(value) is not type(known[0]) or value not in known:
            raise ValueError(
                f"{path}: meta has the {field} {value!r}, expected one of {known}"
            )


def _scaled(inputs: np.ndarray, scale: int) -> np.ndarray:
    return inputs.astype(np.float32) / np.float32(scale)
