"""Data sets in one shape: bundled, prepared, or a user's own arrays."""

from r2et_jax.datasets.bundled import breast_cancer
from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.digits import digits
from r2et_jax.datasets.frames import from_csv, from_frame
from r2et_jax.datasets.pair_files import save_pairs_npz
from r2et_jax.datasets.pairs import PairDataset
from r2et_jax.datasets.planted import planted
from r2et_jax.datasets.registry import load, names
from r2et_jax.datasets.tabular import from_arrays, save_npz

__all__ = [
    "Dataset",
    "PairDataset",
    "breast_cancer",
    "digits",
    "from_arrays",
    "from_csv",
    "from_frame",
    "load",
    "names",
    "planted",
    "save_npz",
    "save_pairs_npz",
]
