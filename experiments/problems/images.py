"""What single images of several classes ask of training, attacks and measurements.

They meet a network of one input. What is ranked are pixels: the channels of one are
summed after |·|, in explanations, attacks and penalties alike.
"""

from __future__ import annotations

from typing import Any

from experiments.problems import presets
from experiments.problems.pairs import POOLINGS
from experiments.problems.tabular import StructuredProblem
from experiments.problems.views import View
from r2et_jax import datasets, models, objectives, saliency
from r2et_jax.checks import check_in

_MOST_FEATURES = 50
# Least side of the images that ResNet-9 takes, and the channels of its first layer.
_RESNET_SIDE, _WIDTH = 32, 64
# Hidden layer of the network for smaller ones.
_SMALL_HIDDEN = 32


class ImageProblem(StructuredProblem):
    """Images with classes and networks of one input; attributes as of a table.

    `shape` is height, width and channels, `classes` names the classes. A ResNet-9, or
    for images below 32 × 32 a network with one hidden layer.

    Args:
      dataset: images of one shape, flat, with the channels innermost; `meta["shape"]`
        is [height, width] or [height, width, channels].
      pooling: of the ResNet-9, one of `POOLINGS`.
      norm: of the attacks; None for l2.
    """

    protocol_kind, holds = "single", "images"

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        pooling: str = "max",
        norm: str | None = None,
    ):
        check_in("pooling", pooling, POOLINGS)
        super().__init__(dataset)
        self.pooling = pooling
        self.shape = (*dataset.meta["shape"], 1)[:3]
        height, width, channels = self.shape
        self.num_features = height * width
        self.small = min(height, width) < _RESNET_SIDE
        num_classes = int(dataset.train.y.max()) + 1
        self.num_outputs = 1 if num_classes == 2 else num_classes
        names = dataset.meta.get("classes", range(num_classes))
        self.classes = tuple(map(str, names))
        view = View(
            "image",
            explainer=saliency.of_pixels(channels),
            rho=10.0,
            num_steps=100,
            batch_size=64,
            chunk=256,
        )
        self._set_views(view, norm, small=self.small)
        self.k = presets.TABULAR_K if self.small else _MOST_FEATURES
        self.most_k = self.k
        self.radius = self.selection_epsilon

    def model(self, method: str) -> Any:
        self.check_method(method)
        smooth = objectives.method(method).smooth
        if self.small:
            activation = "softplus" if smooth else "leaky_relu"
            hidden = (_SMALL_HIDDEN,)
            return models.MLP(hidden, self.num_outputs, activation=activation)
        return models.ResNet9(
            self.num_outputs,
            width=_WIDTH,
            activation="softplus" if smooth else "relu",
            pooling=self.pooling,
            shape=self.shape,
        )

    def architecture(self, model: Any) -> str:
        pooling = getattr(model, "pooling", None)
        name = super().architecture(model)
        return f"{name}_{pooling}" if pooling else name

    def of_network(self, model: Any) -> dict[str, Any]:
        return {"channels": self.shape[2]}
