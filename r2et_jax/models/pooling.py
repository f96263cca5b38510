"""Pooling by name over windows that do not overlap, and a smooth stand-in of the max.

A window is reshaped to axes of its own, so that every pooling is an ordinary reduction:
derivatives of any order and mode exist, and batching costs nothing.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_in, check_positive
from r2et_jax.models.activations import surrogate_name
from r2et_jax.types import Array

NAMES = ("max", "average", "smooth_max")


def pool(x: Array, name: str, *, window: int, rho: float = 5.0) -> Array:
    """Each window × window tile of an image to one value, channel by channel.

    "max"         max_i v_i
    "average"     (1/k) Σ v_i
    "smooth_max"  (1/ρ)·log((1/k) Σ e^{ρ v_i}), between max − log(k)/ρ and max; ρ → 0
                  is the average, ρ → ∞ the max

    over the k = window² values v of a tile. The derivative of a maximum that is tied is
    shared evenly among the ties, as on the flat background of an image. The mean inside
    the smooth maximum leaves a flat tile as it is.

    Args:
      x: image [..., height, width, channels]; rows and columns beyond the last whole
        tile are left out.
      name: one of `NAMES`.
      window: side of a tile and its stride, at least 1 and at most the image's side.
      rho: sharpness ρ > 0 of the smooth maximum.

    Returns:
      [..., height // window, width // window, channels]

    Raises:
      ValueError: for an unknown name, a window below 1 or above the image, ρ ≤ 0.

    Example:
      >>> image = jnp.arange(16.0).reshape(4, 4, 1)
      >>> pool(image, "max", window=2)[..., 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    check_in("pooling", name, NAMES)
    check_count("window", window)
    height, width, channels = x.shape[-3:]
    rows, columns = height // window, width // window
    if rows == 0 or columns == 0:
        raise ValueError(
            f"window must be at most the image's side, got {window} for an image of "
            f"shape {x.shape}"
        )
    whole = x[..., : rows * window, : columns * window, :]
    tiles = whole.reshape(*x.shape[:-3], rows, window, columns, window, channels)
    if name == "max":
        return jnp.max(tiles, axis=(-4, -2))
    if name == "average":
        return jnp.mean(tiles, axis=(-4, -2))
    check_positive("rho", rho)
    total = jax.nn.logsumexp(rho * tiles, axis=(-4, -2))
    return (total - 2 * math.log(window)) / rho


def surrogate_pooling(name: str) -> str:
    """Name of the smooth stand-in of a pooling; a smooth one stands for itself."""
    check_in("pooling", name, NAMES)
    return "smooth_max" if name == "max" else name


def smooth_clone(model: nn.Module, *, rho: float) -> nn.Module:
    """The model with smooth `activation` and `pooling`; itself if it has both."""
    act, pooling = surrogate_name(model.activation), surrogate_pooling(model.pooling)
    if (act, pooling) == (model.activation, model.pooling):
        return model
    return model.clone(activation=act, pooling=pooling, rho=rho)


def as_image(x: Array, shape: tuple[int, int, int]) -> Array:
    """One image [height, width, channels] from itself, flat, or without its channel.

    Flat means row by row with the channels innermost.
    """
    shape = tuple(shape)
    plain = [(math.prod(shape),), shape, *([shape[:2]] if shape[2] == 1 else [])]
    if x.shape not in plain:
        raise ValueError(
            f"one image has one of the shapes {plain}, got {x.shape}; batch with "
            "jax.vmap"
        )
    return x.reshape(shape)
