"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from r2et_jax.checks import check_in
from r2et_jax.datasets.bundled import breast_cancer
from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.tabular import load_npz

_BUNDLED = {"breast_cancer": breast_cancer}
_PREPARED = ("adult", "bank", "compas")
_SUFFIX = "_ref"


def names() -> tuple[str, ...]:
    """All names that `load` knows."""
    return (*_BUNDLED, *_PREPARED, *(name + _SUFFIX for name in _PREPARED))


def load(name: str, *, data_dir: str | Path = "data") -> Dataset:
    """Load a data set by name.

    Args:
      name: breast_cancer (bundled, seed 0), or adult, bank, compas (prepared files),
        or one of the latter with "_ref": one reference level of each one-hot group
        dropped (`drop_reference`).
      data_dir: the folder of the prepared .npz files.

    Returns:
      A validated `Dataset`.

    Raises:
      ValueError: an unknown name, or a file that is not sound.
      FileNotFoundError: the file is not there; the message tells the command that
        prepares it.

    Example:
      >>> from r2et_jax.datasets import load
      >>> load("breast_cancer").name
      'breast_cancer'
    """
    check_in("dataset", name, names())
    if name in _BUNDLED:
        return _BUNDLED[name]()
    base = name.removesuffix(_SUFFIX)
    path = Path(data_dir) / f"{base}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"no data set file {path}: prepare it with python -m data_prep.tabular "
            f"--datasets={base} --data_dir={data_dir}"
        )
    dataset = load_npz(path)
    return dataset if name == base else drop_reference(dataset)
