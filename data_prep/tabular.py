r"""Prepare the tabular data sets: raw public files -> <data_dir>/<name>.npz.

  python -m data_prep.tabular --datasets=adult,bank,compas --data_dir=data --seed=0

Without --raw_dir the official files are downloaded (into <data_dir>/raw) and kept.
Checksums are compared either way. The columns, how they are coded and which of them
are immutable stand in data_prep/adult.py (28 columns), bank.py (18), compas.py (16).

Rows are split 70/15/15, stratified by label; rows that are equal after coding stay in
one part, and how many there were is printed and stored. Missing numbers become the
training split's median; numeric columns are standardised with the training split's
mean and standard deviation; binary and one-hot columns stay 0 and 1. The box of legal
values is [0, 1] for these and the range over all rows for numeric columns.

Written: x [m, n] float32, y [m] int32, row indices train, valid, test (shuffled),
columns [n], groups [n] (the number of a column's one-hot group, -1 outside of any),
immutable (column indices), lower and upper [n], and meta, a JSON string: name, format
version, seed, target, mean, std, copies, group names, notes, and each raw file's
address, SHA-256, licence and citation. Read it with r2et_jax.datasets.load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from data_prep import adult, bank, compas
from data_prep._main import named_folder, run
from data_prep.sources import SOURCES, Source, fetch
from data_prep.tables import Table
from r2et_jax.checks import check_in
from r2et_jax.datasets import Dataset
from r2et_jax.datasets.splitting import split_apart
from r2et_jax.datasets.tabular import FORMAT_VERSION, copies_in_words, load_npz
from r2et_jax.files import replacing

TABLES = {"adult": adult.table, "bank": bank.table, "compas": compas.table}

_DATASETS = flags.DEFINE_list("datasets", sorted(TABLES), "Data sets to prepare.")
flags.DEFINE_string(
    "raw_dir", None, "Folder of the raw files; they are downloaded without it."
)
flags.DEFINE_string("data_dir", "data", "Folder of the prepared files.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the split.", lower_bound=0, upper_bound=2**32 - 1
)


def prepare(
    name: str,
    *,
    raw_dir: Path | None,
    data_dir: Path,
    seed: int = 0,
    sources: Mapping[str, tuple[Source, ...]] = SOURCES,
) -> Path:
    """Prepare one data set and return the file that was written."""
    contents = {
        source.member or source.file: fetch(
            source, raw_dir=raw_dir, cache_dir=data_dir / "raw"
        )
        for source in sources[name]
    }
    table = TABLES[name](contents)
    return write(name, table, data_dir=data_dir, seed=seed, sources=sources[name])


def write(
    name: str, table: Table, *, data_dir: Path, seed: int, sources: Sequence[Source]
) -> Path:
    """Split, fill, standardise and write a table: the whole file or none."""
    (train, valid, test), (x, mean, std), copies = split_apart(
        table.x, table.y, lambda train: standardize(table, train), seed=seed
    )
    numeric = np.isin(table.columns, table.numeric)
    group_of = np.full(len(table.columns), -1, np.int32)
    for number, group in enumerate(table.groups.values()):
        group_of[np.isin(table.columns, group)] = number
    meta = {
        "name": name,
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "target": table.target,
        "licence": sources[0].licence,
        "source": [source.url for source in sources],
        "sha256": {source.member or source.file: source.sha256 for source in sources},
        "citation": sources[0].citation,
        "numeric": list(table.numeric),
        "group_names": list(table.groups),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "copies": copies,
        "notes": table.notes,
    }
    path = data_dir / f"{name}.npz"
    data_dir.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                x=x,
                y=table.y,
                train=train,
                valid=valid,
                test=test,
                columns=np.array(table.columns),
                groups=group_of,
                immutable=np.flatnonzero(np.isin(table.columns, table.immutable)),
                lower=np.where(numeric, x.min(axis=0), np.float32(0)),
                upper=np.where(numeric, x.max(axis=0), np.float32(1)),
                meta=np.array(json.dumps(meta)),
            )
        load_npz(partial)  # validates before the file takes its place
    return path


def standardize(
    table: Table, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill and scale numeric columns by the training rows; return x, mean, std."""
    x = table.x.copy()
    mean, std = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for name in table.numeric:
        i = table.columns.index(name)
        column = x[:, i]
        missing = np.isnan(column)
        if missing[train].all():
            raise ValueError(f"column {name!r} has no value in the training split")
        column[missing] = np.nanmedian(column[train])
        mean[i], std[i] = column[train].mean(), column[train].std()
        if std[i] == 0:
            raise ValueError(
                f"column {name!r} is constant ({mean[i]}) over the training split, "
                "expected at least two values"
            )
    return ((x - mean) / std).astype(np.float32), mean, std


def summary(dataset: Dataset, path: Path) -> str:
    """Return rows, columns, positives in each split, copies and the file."""
    splits = ", ".join(
        f"{name} {split.y.size} ({split.y.mean():.1%} positive)"
        for name in ("train", "valid", "test")
        for split in [getattr(dataset, name)]
    )
    rows = sum(split.y.size for split in (dataset.train, dataset.valid, dataset.test))
    return (
        f"{dataset.name}: {rows} rows, {len(dataset.columns)} columns; {splits}; "
        f"{copies_in_words(dataset.meta['copies'], rows)}; wrote {path}"
    )


def main(argv: Sequence[str]) -> None:
    """Prepare the data sets that the flags name."""
    del argv
    names = list(dict.fromkeys(_DATASETS.value))
    if not names:
        raise ValueError(f"--datasets is empty; known: {', '.join(sorted(TABLES))}")
    for name in names:
        check_in("dataset", name, TABLES)
    raw_dir, data_dir = named_folder("raw_dir"), named_folder("data_dir")
    for name in names:
        path = prepare(name, raw_dir=raw_dir, data_dir=data_dir, seed=_SEED.value)
        print(summary(load_npz(path), path), flush=True)


if __name__ == "__main__":
    run(main)
