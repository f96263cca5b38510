"""Pairs of handwritten 3s and 8s that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from r2et_jax.datasets.pairing import split_pairs
from r2et_jax.datasets.pairs import PairTable
from r2et_jax.datasets.splitting import stratified_split


def digits(*, seed: int = 0) -> PairTable:
    """Pairs of 3s and 8s from scikit-learn's digits: 357 images of 8 × 8 pixels.

    Images are split 70/15/15 and paired inside their split: 2,000 training, 400
    validation and 400 test pairs, half of them of the same digit. Pixels are divided
    by 16, so that they lie in [0, 1].

    Args:
      seed: of the split and of the pairs.

    Returns:
      A `PairTable` of kind "image" with n = 64 and one fold.

    Raises:
      ImportError: scikit-learn is not installed.

    Example:
      >>> digits().fold().train.x.shape
      (2000, 64)

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998 (CC BY 4.0).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "digits needs scikit-learn: install it, for instance with "
            "pip install scikit-learn"
        ) from error
    raw = load_digits()
    rows = np.isin(raw.target, (3, 8))
    inputs = (raw.data[rows] / 16).astype(np.float32)
    labels = (raw.target[rows] == 8).astype(np.int32)
    splits = stratified_split(labels, seed=seed)
    return PairTable(
        name="digits",
        kind="image",
        inputs=inputs,
        labels=labels,
        pairs=split_pairs(labels, splits, (2000, 400, 400), seed=seed),
        shape=(8, 8),
        regions=(),
        lower=np.zeros(64, np.float32),
        upper=np.ones(64, np.float32),
        truth=None,
        meta={
            "name": "digits",
            "seed": seed,
            "licence": "CC BY 4.0",
            "source": "sklearn.datasets.load_digits (UCI, doi:10.24432/C50P49)",
            "target": "1: both images show the same digit",
            "classes": ["3", "8"],
        },
    )
