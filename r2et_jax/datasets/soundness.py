"""One check and one digest for every kind of data set."""

from __future__ import annotations

from r2et_jax.datasets import containers
from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.pairs import PairDataset, fingerprint_pairs, validate_pairs


def validate(dataset: Dataset | PairDataset) -> None:
    """Raise ValueError unless a data set is sound.

    Args:
      dataset: a `Dataset` (see `containers.validate`) or a `PairDataset` (see
        `validate_pairs`).

    Returns:
      None.

    Raises:
      ValueError: names the data set, the split and the first fault.

    Example:
      >>> from r2et_jax.datasets import breast_cancer
      >>> validate(breast_cancer())
    """
    if isinstance(dataset, PairDataset):
        validate_pairs(dataset)
    else:
        containers.validate(dataset)


def fingerprint(dataset: Dataset | PairDataset) -> str:
    """SHA-256 (64 hex digits) over all that an experiment sees of a data set.

    Args:
      dataset: a `Dataset` or a `PairDataset`; neither its name nor `meta` enters.

    Returns:
      The hexadecimal digest.

    Example:
      >>> from r2et_jax.datasets import breast_cancer
      >>> len(fingerprint(breast_cancer()))
      64
    """
    if isinstance(dataset, PairDataset):
        return fingerprint_pairs(dataset)
    return containers.fingerprint(dataset)
