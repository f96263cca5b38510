"""What data of each kind ask of training, attacks and measurements.

Tables of features meet a network of one input, single images one of several classes,
pairs of images or of brain graphs a Siamese network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.problems.images import ImageProblem
from experiments.problems.pairs import POOLINGS as POOLINGS
from experiments.problems.pairs import PairProblem
from experiments.problems.tabular import LOGISTIC as LOGISTIC
from experiments.problems.tabular import TabularProblem
from experiments.problems.views import TABULAR as TABULAR
from experiments.problems.views import View as View
from r2et_jax import datasets

Problem = TabularProblem


def problem(
    dataset: datasets.Dataset | datasets.PairDataset | Problem,
    *,
    pooling: str = POOLINGS[0],
    absent: str | None = None,
    norm: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Problem:
    """The problem of a data set; a problem is returned as it is.

    Args:
      dataset: the data; those whose `meta` has a "shape" are images.
      pooling: of convolutional networks, one of `POOLINGS`.
      absent: of graphs, see `PairProblem`.
      norm: of the attacks on images, one of `threat.definition.NORMS`; None for l2.
      changes: of the protocol of the presets, by its names.

    Raises:
      ValueError: a norm for data that are no images.
    """
    if isinstance(dataset, TabularProblem):
        return dataset
    pairs = isinstance(dataset, datasets.PairDataset)
    images = dataset.kind == "image" if pairs else "shape" in dataset.meta
    if norm is not None and not images:
        raise ValueError(
            f"--norm is for images, got {norm} for {dataset.name}, which holds none"
        )
    if pairs:
        made = PairProblem(dataset, pooling=pooling, absent=absent, norm=norm)
    elif images:
        made = ImageProblem(dataset, pooling=pooling, norm=norm)
    else:
        made = TabularProblem(dataset)
    made.changes = dict(changes or {})
    return made
