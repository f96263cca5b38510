"""A convolution with few channels as a product with a banded matrix."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_in
from r2et_jax.types import Array

FORMS = ("auto", "banded", "direct")


class Conv(nn.Module):
    """out[r, c, o] = bias[o] + Σ_{i,j,m} kernel[i, j, m, o]·x[r + i, c + j, m].

    Without padding and with stride 1; parameters as those of `flax.linen.Conv`. The
    banded form multiplies the window of rows that an output row sees by one matrix,
    which holds the kernel along its diagonals: more arithmetic, done as one matrix
    product whatever is differentiated, mapped over or scanned. On CPU the direct form
    is several times slower for few channels, and slower still inside a loop.

    `module.apply(params, x)` takes **one** image [height, width, channels].

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      form: "banded", "direct", or "auto": banded on CPU.

    Raises:
      ValueError: for an unknown form, or an image smaller than the kernel.

    Example:
      >>> layer = Conv(8, (5, 5))
      >>> image = jnp.zeros((28, 28, 1))
      >>> layer.apply(layer.init(jax.random.key(0), image), image).shape
      (24, 24, 8)
    """

    features: int
    kernel_size: tuple[int, int]
    form: str = "auto"

    @nn.compact
    def __call__(self, x):
        check_in("form", self.form, FORMS)
        if any(
            side < size
            for side, size in zip(x.shape[:2], self.kernel_size, strict=True)
        ):
            raise ValueError(
                f"an image must be at least as large as the kernel {self.kernel_size}, "
                f"got the shape {x.shape}"
            )
        shape = (*self.kernel_size, x.shape[-1], self.features)
        draw, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros_init()
        kernel = self.param("kernel", draw, shape, jnp.float32)
        bias = self.param("bias", zeros, shape[-1:], jnp.float32)
        # Of one type, as Flax's own layers make them.
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        form = self.form
        if form == "auto":
            form = "banded" if jax.default_backend() == "cpu" else "direct"
        return (_banded if form == "banded" else _direct)(x, kernel) + bias


def _direct(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _banded(x: Array, kernel: Array) -> Array:
    height, width, features = kernel.shape[0], kernel.shape[1], kernel.shape[-1]
    rows, columns = x.shape[0] - height + 1, x.shape[1] - width + 1
    # [kernel column, image column, output column]: which meets which.
    offset = np.arange(x.shape[1])[:, None] - np.arange(columns)
    meets = offset == np.arange(width)[:, None, None]
    band = jnp.einsum("jab,ijmo->iambo", jnp.asarray(meets, kernel.dtype), kernel)
    windows = jnp.concatenate(
        [x[i : i + rows].reshape(rows, -1) for i in range(height)], axis=-1
    )
    out = windows @ band.reshape(windows.shape[-1], columns * features)
    return out.reshape(rows, columns, features)
