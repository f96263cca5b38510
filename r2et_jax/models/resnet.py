"""ResNet-9 for small colour images, with a normalisation of each image by itself."""

from __future__ import annotations

import flax.linen as nn

from r2et_jax.models.activations import activation
from r2et_jax.models.initial import Module
from r2et_jax.models.pooling import as_image, pool, smooth_clone


class ResNet9(Module):
    """Eight 3×3 convolutions, two residual blocks of two each, and a linear layer.

    With widths for `width` = 64: 32×32×3 → 64 → 128, pool 2 → residual(128) → 256,
    pool 2 → 512, pool 2 → residual(512) → pool 4 → 512 → C logits. A convolution has
    no bias; a group normalisation and the activation follow it.

    Group normalisation stands where the usual network has batch normalisation: its
    statistics are those of one image, so that a logit depends on no other image and is
    the same in training and at test.

    `model.apply(params, x)` takes **one** image, flat [3072] with the channels
    innermost or [32, 32, 3], to [C].

    Attributes:
      num_outputs: C.
      width: channels of the first convolution, a multiple of `num_groups`.
      num_groups: groups of channels that are normalised together.
      activation: name of the activation, see `models.activations`.
      pooling: "max", "average" or "smooth_max", see `models.pooling`.
      rho: sharpness of the smooth forms of both.
      shape: height, width and channels; both sides must be at least 32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = ResNet9(width=8)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(3072))
      >>> jax.eval_shape(model.apply, params, jnp.zeros(3072)).shape
      (10,)

    Source: residual networks, He et al. 2016 (arXiv 1512.03385); the shape with nine
      layers is Page 2018, "How to train your ResNet"; group normalisation, Wu and He
      2018 (arXiv 1803.08494).
    """

    num_outputs: int = 10
    width: int = 64
    num_groups: int = 8
    activation: str = "relu"
    pooling: str = "max"
    rho: float = 5.0
    shape: tuple[int, int, int] = (32, 32, 3)

    @nn.compact
    def __call__(self, x):
        if self.width % self.num_groups:
            raise ValueError(
                f"width must be a multiple of num_groups, got {self.width} and "
                f"{self.num_groups}"
            )
        act = activation(self.activation, rho=self.rho)

        def block(x, factor):
            x = nn.Conv(factor * self.width, (3, 3), use_bias=False)(x)
            # By default Flax takes the rows of one image for a batch. The variance is
            # E[(v − E v)²]: E[v²] − (E v)² loses digits on flat images.
            norm = nn.GroupNorm(
                self.num_groups,
                epsilon=1e-5,
                reduction_axes=(-3, -2, -1),
                use_fast_variance=False,
            )
            return act(norm(x))

        def shrink(x, window):
            return pool(x, self.pooling, window=window, rho=self.rho)

        x = block(as_image(x, self.shape), 1)
        x = shrink(block(x, 2), 2)
        x = x + block(block(x, 2), 2)
        x = shrink(block(x, 4), 2)
        x = shrink(block(x, 8), 2)
        x = x + block(block(x, 8), 8)
        return nn.Dense(self.num_outputs)(shrink(x, 4).reshape(-1))

    def surrogate(self, *, rho: float) -> ResNet9:
        """The model with smooth stand-ins of a kinked activation and of max pooling.

        A model that is smooth already is returned as it is.
        """
        return smooth_clone(self, rho=rho)
