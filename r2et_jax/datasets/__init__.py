"""Data sets in one shape: bundled, prepared, or a user's own arrays."""

from r2et_jax.datasets.bundled import breast_cancer
from r2et_jax.datasets.containers import Dataset, Split, fingerprint, validate
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.registry import load, names
from r2et_jax.datasets.splitting import stratified_split
from r2et_jax.datasets.tabular import from_arrays, load_npz

__all__ = [
    "Dataset",
    "Split",
    "breast_cancer",
    "drop_reference",
    "fingerprint",
    "from_arrays",
    "load",
    "load_npz",
    "names",
    "stratified_split",
    "validate",
]
