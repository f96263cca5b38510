"""What data of each kind ask of training, attacks and measurements.

Tables of features meet a network of one input, single images one of several classes,
pairs of images or of brain graphs a Siamese network.
"""

from __future__ import annotations

from typing import Any

from experiments.common.image_problem import ImageProblem
from experiments.common.pair_problem import POOLINGS as POOLINGS
from experiments.common.pair_problem import PairProblem
from experiments.common.tabular_problem import LOGISTIC as LOGISTIC
from experiments.common.tabular_problem import TabularProblem
from experiments.common.views import TABULAR as TABULAR
from experiments.common.views import View as View
from r2et_jax import datasets

Problem = TabularProblem


def problem(
    dataset: datasets.Dataset | datasets.PairDataset | Problem, **options: Any
) -> Problem:
    """The problem of a data set; a problem is returned as it is.

    Args:
      dataset: the data; those whose `meta` has a "shape" are images.
      options: further arguments of `PairProblem` and `ImageProblem`, which tables
        ignore.
    """
    if isinstance(dataset, TabularProblem):
        return dataset
    if isinstance(dataset, datasets.PairDataset):
        return PairProblem(dataset, **options)
    if "shape" in dataset.meta:
        return ImageProblem(dataset, **options)
    return TabularProblem(dataset)
