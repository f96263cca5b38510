"""The convolutional network for images of 28 × 28."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from r2et_jax.models.activations import activation
from r2et_jax.models.convolution import Conv
from r2et_jax.models.initial import Module
from r2et_jax.models.pooling import as_image, pool, smooth_clone


class CNN(Module):
    """Two convolutions with pooling, then dense layers, to C logits or an embedding.

    28×28×1 → conv 5×5 → 24×24×8 → pool 2 → 12×12×8 → conv 3×3 → 10×10×16 → pool 3 →
    3×3×16 → 144 → 64 → 32 → 10, with the activation after each layer but the last.

    `model.apply(params, x)` takes **one** image, flat [784], [28, 28] or [28, 28, 1],
    to [C].

    Attributes:
      num_outputs: C, the width of the embedding.
      hidden: widths of the dense layers before the last.
      activation: name of the activation, see `models.activations`.
      pooling: "max" (published), "average" or "smooth_max", see `models.pooling`. Flat
        backgrounds tie in the windows of "max", so that its explanations jump there.
      rho: sharpness of the smooth forms of both.
      shape: height, width and channels of the image.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = CNN()
      >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(784))
      >>> jax.eval_shape(model.apply, params, jnp.zeros(784)).shape
      (10,)

    Source: R2ET (arXiv 2212.14106), appendix on models.
    """

    num_outputs: int = 10
    hidden: Sequence[int] = (64, 32)
    activation: str = "relu"
    pooling: str = "max"
    rho: float = 5.0
    shape: tuple[int, int, int] = (28, 28, 1)

    @nn.compact
    def __call__(self, x):
        act = activation(self.activation, rho=self.rho)
        x = as_image(x, self.shape)
        x = act(Conv(8, (5, 5))(x))
        x = pool(x, self.pooling, window=2, rho=self.rho)
        x = act(Conv(16, (3, 3))(x))
        x = pool(x, self.pooling, window=3, rho=self.rho).reshape(-1)
        for width in self.hidden:
            x = act(nn.Dense(width)(x))
        return nn.Dense(self.num_outputs)(x)

    def surrogate(self, *, rho: float) -> CNN:
        """The model with smooth stand-ins of a kinked activation and of max pooling.

        A model that is smooth already is returned as it is.
        """
        return smooth_clone(self, rho=rho)
