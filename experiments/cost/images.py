"""The networks and inputs of images whose costs are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.problems import presets
from r2et_jax import datasets, models
from r2et_jax.checks import check_in

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
MODELS = {"mnist": "siamese_cnn", "cifar10": "resnet9"}
RANDOM_NOTE = "no prepared file: random inputs of its shape, uniform in [0, 1]"
_NUM_CLASSES = 10
_NUM_RANDOM = 512


class Images(NamedTuple):
    """Flat images with what goes with them.

    Attributes:
      x: [m, n] in [0, 1].
      partner: [m, n] second images of pairs, or None.
      y: [m] labels: of pairs 1 for the same class, else the class.
      random: whether the data set was not there and the numbers are random.
    """

    x: np.ndarray
    partner: np.ndarray | None
    y: np.ndarray
    random: bool

    def repeated(self, num: int) -> Images:
        """The first `num` of them, again from the start where there are fewer."""
        index = np.arange(num) % len(self.x)
        partner = None if self.partner is None else self.partner[index]
        return Images(self.x[index], partner, self.y[index], self.random)


def load(name: str, *, data_dir: Path, limit: int = 1024) -> Images:
    """Training images of a data set, random ones where it was not prepared.

    Args:
      name: one of `presets.COST_IMAGES`.
      data_dir: the folder of the prepared files.
      limit: images at most.
    """
    check_in("dataset", name, presets.COST_IMAGES)
    try:
        train = datasets.load(name, data_dir=data_dir).train
    except FileNotFoundError:
        return _random(name)
    # Of pairs, x and partner are gathered when asked for.
    partner = train.partner[:limit] if name in datasets.names("pairs") else None
    return Images(train.x[:limit], partner, train.y[:limit], False)


def _random(name: str) -> Images:
    rng = np.random.default_rng(0)
    size = _NUM_RANDOM, int(np.prod(SHAPES[name]))
    paired = name in datasets.names("pairs")
    x = rng.random(size, np.float32)
    partner = rng.random(size, np.float32) if paired else None
    y = rng.integers(0, 2 if paired else _NUM_CLASSES, _NUM_RANDOM)
    return Images(x, partner, y.astype(np.int32), True)


def network(name: str, **options: Any) -> models.Siamese | models.ResNet9:
    """The network of a data set.

    Args:
      name: one of `presets.COST_IMAGES`.
      options: attributes of the network, of a pair's encoder.
    """
    check_in("dataset", name, presets.COST_IMAGES)
    if name == "mnist":
        return models.Siamese(models.CNN(shape=SHAPES[name], **options))
    return models.ResNet9(num_outputs=_NUM_CLASSES, shape=SHAPES[name], **options)
