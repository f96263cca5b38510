r"""Prepare pairs of brain graphs: raw public files -> <data_dir>/<name>.npz.

  python -m data_prep.brain_graphs --datasets=adhd --data_dir=data --seed=0
  python -m data_prep.brain_graphs --datasets=adhd,hiv --raw_dir=raw
  python -m data_prep.brain_graphs --datasets= --npz=own.npz

adhd: KKI, unweighted sparse graphs over regions of a functional atlas; read from
KKI.nel (plain or in Brain.zip, which is downloaded without --raw_dir), or from the
TUDataset collection's KKI.zip or KKI_A.txt, KKI_graph_indicator.txt, …
hiv, bp: correlation matrices in HIV_fMRI_fold_1…3 and BP_fMRI_fold_1…3; these are
pickles, read by an unpickler that admits NumPy arrays and nothing else. Their splits
overlap: graphs of all folds are pooled. They are fetched by hand into --raw_dir.
--npz: your own file with adjacency [m, v, v] and labels [m] (integers), and, if you
like, regions [v] (names); it is prepared under the file's name, by which experiments
then know it: python -m experiments.robustness --datasets=own.

Of graphs with equal entries one is kept. Correlations are replaced by their absolute
values in hiv and bp, unless --noabsolute; in other data sets only with --absolute.

Five-fold cross-validation, stratified by class: in fold f, part f tests, part f + 1
validates and three parts train. Every graph is paired with --partners graphs of its
class and as many of another; partners of validation and test graphs are training
graphs. An input is the upper triangle of its matrix, in the order of
np.triu_indices(v, 1).

In Python, read the files with r2et_jax.datasets.load(name, fold=0) or load_pairs_npz.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_prep import folds, nel, tudataset
from data_prep._main import named_folder, run
from data_prep.graph_table import GraphTable, checked, distinct
from data_prep.sources import SOURCES, Source, fetch
from data_prep.unpacking import read_file, unzip
from r2et_jax.checks import check_in
from r2et_jax.datasets import save_pairs_npz
from r2et_jax.datasets.graphs import upper_triangle
from r2et_jax.datasets.npz import read_arrays
from r2et_jax.datasets.pair_files import load_table
from r2et_jax.datasets.pairing import fold_pairs
from r2et_jax.datasets.pairs import PairTable
from r2et_jax.datasets.registry import known

NAMES = ("adhd", "bp", "hiv")
_ABSOLUTE = frozenset({"bp", "hiv"})
_COLLECTION = Source(
    file="KKI.zip",
    url="https://www.chrsmrrs.com/graphkerneldatasets/KKI.zip",
    sha256=None,
    licence="published without a named licence",
    citation="Morris et al., TUDataset, ICML workshop GRL+ 2020",
    direct=False,
)

MOST_TEXT = 2**24  # bytes of one text file of the collection, which has below 1 MB

# allow_override: the binaries here share flag names, and a test imports several.
_SHARED: dict[str, Any] = {"allow_override": True}
_DATASETS = flags.DEFINE_list(
    "datasets", ["adhd", "hiv"], "Data sets to prepare: adhd, hiv, bp.", **_SHARED
)
flags.DEFINE_string(
    "raw_dir", None, "Folder of the raw files; downloaded without it.", **_SHARED
)
flags.DEFINE_string("data_dir", "data", "Folder of the prepared files.", **_SHARED)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the folds and pairs.",
    lower_bound=0,
    upper_bound=2**32 - 1,
    **_SHARED,
)
_PARTNERS = flags.DEFINE_integer(
    "partners",
    8,
    "Partners of the same class for each graph, and as many of another.",
    lower_bound=1,
    upper_bound=2**31 - 1,
)
_ABSOLUTE_FLAG = flags.DEFINE_bool(
    "absolute", None, "Absolute values of the entries; by default in hiv and bp."
)
_NPZ = flags.DEFINE_list("npz", [], "Your own files with adjacency and labels.")


def read(
    name: str,
    *,
    raw_dir: Path | None,
    data_dir: Path,
    sources: Mapping[str, tuple[Source, ...]] = SOURCES,
) -> tuple[GraphTable, dict[str, Any]]:
    """Return the graphs of a known data set, and where they come from."""
    if name == "adhd" and raw_dir is not None:
        collection = _collection_files(raw_dir)
        if collection is not None and not (raw_dir / "KKI.nel").is_file():
            table = tudataset.read(collection, "KKI")
            return table, _origin((_COLLECTION,), collection)
    contents = {
        source.content: fetch(source, raw_dir=raw_dir, cache_dir=data_dir / "raw")
        for source in sources[name]
    }
    if name == "adhd":
        ((file, content),) = contents.items()
        table = nel.read(content, file)
    else:
        table = folds.read(contents)
    return table, _origin(sources[name], contents)


def read_own(path: Path) -> tuple[GraphTable, dict[str, Any]]:
    """Return the graphs of a user's .npz file, and where they come from."""
    arrays = read_arrays(path, ("adjacency", "labels"), optional=("regions",))
    adjacency = arrays["adjacency"]
    if adjacency.dtype == bool:
        adjacency = adjacency.astype(np.float64)
    if not np.issubdtype(adjacency.dtype, np.number) or np.iscomplexobj(adjacency):
        raise ValueError(
            f"{path}: adjacency must hold real numbers, got {adjacency.dtype}"
        )
    if adjacency.ndim != 3 or adjacency.size == 0:
        raise ValueError(
            f"{path}: adjacency must have shape [m, v, v], got {adjacency.shape}"
        )
    v = adjacency.shape[-1]
    regions = arrays.get("regions", np.array([f"region_{i}" for i in range(v)]))
    if regions.ndim != 1:
        raise ValueError(f"{path}: regions must have shape [v], got {regions.shape}")
    table = GraphTable(
        adjacency.astype(np.float64),
        arrays["labels"],
        tuple(str(region) for region in regions.tolist()),
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    meta = {
        "licence": "the owner's",
        "source": [path.name],
        "sha256": {path.name: digest},
        "citation": "",
    }
    return table, meta


def build(
    name: str,
    table: GraphTable,
    origin: Mapping[str, Any],
    *,
    seed: int,
    partners: int,
    absolute: bool,
) -> PairTable:
    """Check graphs, drop copies, split them into folds and pair them."""
    table = checked(table, name)
    read_graphs = table.labels.size
    table = distinct(table, name)
    classes, labels = np.unique(table.labels, return_inverse=True)
    inputs = upper_triangle(table.adjacency)
    if absolute:
        inputs = np.abs(inputs)
    if np.abs(inputs).max() <= 1 + 1e-6:  # correlations, or edges that are there or not
        low, high = (0 if inputs.min() >= 0 else -1), 1
    else:
        low, high = min(inputs.min(), 0), max(inputs.max(), 0)
    inputs = np.clip(_float32(inputs, name), np.float32(low), np.float32(high))
    n = inputs.shape[1]
    pairs = fold_pairs(labels, partners=partners, seed=seed)
    v = len(table.regions)
    return PairTable(
        name=name,
        kind="graph",
        inputs=inputs,
        labels=labels.astype(np.int32),
        pairs=pairs,
        shape=(v, v),
        regions=table.regions,
        lower=np.full(n, low, np.float32),
        upper=np.full(n, high, np.float32),
        truth=None,
        meta={
            **origin,
            "seed": seed,
            "target": "1: both graphs are of the same class",
            "classes": [f"label {value}" for value in classes.tolist()],
            "absolute": absolute,
            "sparse": bool((inputs == 0).mean() > 0.5),
            "graphs_read": int(read_graphs),
            "partners": partners,
        },
    )


def prepare(
    name: str,
    *,
    raw_dir: Path | None,
    data_dir: Path,
    seed: int = 0,
    partners: int = 8,
    absolute: bool | None = None,
    sources: Mapping[str, tuple[Source, ...]] = SOURCES,
) -> Path:
    """Prepare one known data set and return the file that was written."""
    table, origin = read(name, raw_dir=raw_dir, data_dir=data_dir, sources=sources)
    return _write(name, table, origin, data_dir, seed, partners, absolute)


def prepare_own(
    path: Path,
    *,
    data_dir: Path,
    seed: int = 0,
    partners: int = 8,
    absolute: bool | None = None,
) -> Path:
    """Prepare a user's own file and return the file that was written."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, expected adjacency and labels in it")
    if path.stem in known():
        raise ValueError(
            f"{path}: {path.stem} is a known data set, expected another file name"
        )
    target = data_dir / f"{path.stem}.npz"
    if target.resolve() == path.resolve():
        raise ValueError(
            f"{path} would be replaced by the prepared file, expected it outside of "
            f"{data_dir}"
        )
    table, origin = read_own(path)
    return _write(path.stem, table, origin, data_dir, seed, partners, absolute)


def summary(table: PairTable, path: Path) -> str:
    """Return graphs, regions, classes, edges, pairs and the file, in one line."""
    edges = (table.inputs != 0).sum(axis=1)
    counts = np.bincount(table.labels).tolist()
    first = table.fold(0)
    pairs = ", ".join(
        f"{name} {split.y.size} pairs of {np.unique(split.first).size} graphs"
        for name in ("train", "valid", "test")
        for split in [getattr(first, name)]
    )
    return (
        f"{table.name}: {table.labels.size} distinct graphs of "
        f"{table.meta['graphs_read']}, {table.shape[0]} regions, "
        f"{table.inputs.shape[1]} entries; classes {counts}; edges {edges.min()}…"
        f"{edges.max()}, median {np.median(edges):g}, {(edges < 50).sum()} graphs "
        f"below 50; {(table.inputs < 0).mean():.1%} of entries negative; fold 0: "
        f"{pairs}; wrote {path}"
    )


def main(argv: Sequence[str]) -> None:
    """Prepare the data sets that the flags name."""
    del argv
    names = [name for name in dict.fromkeys(_DATASETS.value) if name]
    if not names and not _NPZ.value:
        raise ValueError(
            f"--datasets is empty; known: {', '.join(NAMES)}; --npz names no file"
        )
    for name in names:
        check_in("dataset", name, NAMES)
    raw_dir, data_dir = named_folder("raw_dir"), named_folder("data_dir")
    shared = {
        "data_dir": data_dir,
        "seed": _SEED.value,
        "partners": _PARTNERS.value,
        "absolute": _ABSOLUTE_FLAG.value,
    }
    jobs: list[Callable[[], Path]] = [
        *(lambda name=name: prepare(name, raw_dir=raw_dir, **shared) for name in names),
        *(lambda file=file: prepare_own(Path(file), **shared) for file in _NPZ.value),
    ]
    for job in jobs:
        path = job()
        print(summary(load_table(path), path), flush=True)


def _write(name, table, origin, data_dir, seed, partners, absolute) -> Path:
    if absolute is None:
        absolute = name in _ABSOLUTE
    pairs = build(name, table, origin, seed=seed, partners=partners, absolute=absolute)
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / f"{name}.npz"
    save_pairs_npz(path, pairs)
    return path


def _float32(inputs: np.ndarray, name: str) -> np.ndarray:
    """The entries in float32, where none overflows and no graph's largest vanishes."""
    largest = np.abs(inputs).max(axis=1)
    limits = np.finfo(np.float32)
    wrong = np.flatnonzero(
        (largest > limits.max) | ((largest < limits.tiny) & (largest > 0))
    )
    if wrong.size:
        raise ValueError(
            f"{name}: the largest entry of distinct graph {wrong[0]} is "
            f"{largest[wrong[0]]:g}, expected one that float32 holds, "
            f"{limits.tiny:.3g} … {limits.max:.3g}: give it in another unit"
        )
    return inputs.astype(np.float32)


def _collection_files(raw_dir: Path) -> dict[str, bytes] | None:
    names = tudataset.file_names("KKI")
    for folder in (raw_dir, raw_dir / "KKI"):
        if all((folder / name).is_file() for name in names):
            return {name: read_file(folder / name, MOST_TEXT) for name in names}
    archive = raw_dir / _COLLECTION.file
    if not archive.is_file():
        return None
    return {name: unzip(archive, name, MOST_TEXT) for name in names}


def _origin(sources: Sequence[Source], contents: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "licence": sources[0].licence,
        "source": list(dict.fromkeys(source.url for source in sources)),
        "sha256": {
            file: hashlib.sha256(content).hexdigest()
            for file, content in contents.items()
        },
        "citation": sources[0].citation,
    }


if __name__ == "__main__":
    run(main)
