"""Data sets that come with scikit-learn: nothing is downloaded."""

from __future__ import annotations

from r2et_jax.datasets.containers import Dataset
from r2et_jax.datasets.tabular import from_arrays


def breast_cancer(*, seed: int = 0) -> Dataset:
    """Breast Cancer Wisconsin (Diagnostic): 569 tumours, 30 measurements each.

    Split 70/15/15 and standardised on the training split. The class is scikit-learn's:
    0 malignant, 1 benign. The box is the range seen over all rows; all columns are
    free to move.

    Args:
      seed: of the split.

    Returns:
      A validated `Dataset` with n = 30.

    Raises:
      ImportError: scikit-learn is not installed.

    Example:
      >>> from r2et_jax.datasets import breast_cancer
      >>> breast_cancer().train.x.shape
      (398, 30)

    Source: Wolberg, Mangasarian, Street and Street, UCI Machine Learning Repository,
    1995 (CC BY 4.0).
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise ImportError(
            "breast_cancer needs scikit-learn: install it, for instance with "
            "pip install scikit-learn"
        ) from error
    raw = load_breast_cancer()
    dataset = from_arrays(
        raw.data,
        raw.target,
        name="breast_cancer",
        columns=[str(column).replace(" ", "_") for column in raw.feature_names],
        lower=raw.data.min(axis=0),
        upper=raw.data.max(axis=0),
        seed=seed,
    )
    dataset.meta.update(
        licence="CC BY 4.0",
        source="sklearn.datasets.load_breast_cancer (UCI, doi:10.24432/C5DW2B)",
        target="1: benign, 0: malignant",
    )
    return dataset
