"""Data sets in one shape: bundled, prepared, or a user's own arrays."""

from r2et_jax.datasets.bundled import breast_cancer
from r2et_jax.datasets.containers import Dataset, Split
from r2et_jax.datasets.digits import digits
from r2et_jax.datasets.frames import from_csv, from_frame
from r2et_jax.datasets.graphs import edge_index, edge_names, symmetric, upper_triangle
from r2et_jax.datasets.images import load_images_npz
from r2et_jax.datasets.pair_files import load_pairs_npz, save_pairs_npz
from r2et_jax.datasets.pairing import class_pairs, fold_pairs, split_pairs
from r2et_jax.datasets.pairs import PairDataset, PairSplit, PairTable
from r2et_jax.datasets.planted import planted
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.registry import (
    REFERENCE_SUFFIX,
    known,
    load,
    names,
    prepared,
)
from r2et_jax.datasets.soundness import fingerprint, validate
from r2et_jax.datasets.splitting import equal_rows, split_apart, stratified_split
from r2et_jax.datasets.tabular import from_arrays, load_npz, save_npz

__all__ = [
    "Dataset",
    "PairDataset",
    "breast_cancer",
    "digits",
    "drop_reference",
    "from_arrays",
    "from_csv",
    "from_frame",
    "load",
    "load_npz",
    "load_pairs_npz",
    "names",
    "planted",
    "save_npz",
    "save_pairs_npz",
    "validate",
]
