"""One-hot groups without their redundant column."""

from __future__ import annotations

import numpy as np

from r2et_jax.datasets.containers import SPLITS, Dataset, Split, validate


def drop_reference(dataset: Dataset) -> Dataset:
    """Drop one reference level of each complete one-hot group.

    The columns of a complete group sum to one in every row, so a model's gradient may
    be moved along their common direction at unchanged predictions: a null direction,
    which can fix a saliency ranking without a more robust model. Without one level
    the direction is gone and no information is lost. The level dropped is the most
    frequent one in the training split (ties: the first); all zeros then stand for it.

    Args:
      dataset: a `Dataset`.

    Returns:
      A validated `Dataset` named "<name>_ref" with one column fewer for each group,
      immutable columns, box, `mean` and `std` renumbered, and no complete groups.
      `meta["reference_levels"]` lists the dropped columns and
      `meta["partial_groups"]` the remaining column indices of each group (at most
      one of them is 1 in a row). A data set without groups is returned as it is.

    Example:
      >>> from r2et_jax.datasets import from_arrays
      >>> rng = np.random.default_rng(0)
      >>> level = rng.integers(0, 3, 90)
      >>> x = np.c_[np.eye(3)[level], rng.normal(size=90)]
      >>> y = rng.integers(0, 2, 90)
      >>> dataset = from_arrays(x, y, name="own", groups=[(0, 1, 2)])
      >>> len(drop_reference(dataset).columns)
      3
    """
    if not dataset.groups:
        return dataset
    frequency = dataset.train.x.mean(axis=0, dtype=np.float64)
    dropped = [max(group, key=lambda i: frequency[i]) for group in dataset.groups]
    kept = [i for i in range(len(dataset.columns)) if i not in dropped]
    new_index = {old: new for new, old in enumerate(kept)}
    meta = dict(dataset.meta)
    for key in ("mean", "std"):
        if key in meta:
            meta[key] = [meta[key][i] for i in kept]
    name = f"{dataset.name}_ref"
    meta.update(
        name=name,
        reference_levels=[dataset.columns[i] for i in dropped],
        partial_groups=[
            [new_index[i] for i in group if i in new_index] for group in dataset.groups
        ],
    )
    result = dataset._replace(
        name=name,
        columns=tuple(dataset.columns[i] for i in kept),
        groups=(),
        immutable=tuple(new_index[i] for i in dataset.immutable if i in new_index),
        lower=dataset.lower[kept],
        upper=dataset.upper[kept],
        meta=meta,
        **{
            s: Split(getattr(dataset, s).x[:, kept], getattr(dataset, s).y)
            for s in SPLITS
        },
    )
    validate(result)
    return result
