"""Which inputs of an audit are images, and each as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from r2et_jax.audit.result import Audit

# Pixels of the shorter side: of fewer, bars with names say more.
_LEAST_IMAGE = 6


def image_shape(audit: Audit) -> tuple[int, ...] | None:
    """The shape of the inputs as images, or None where they are none."""
    shape, explained = audit.asked.shape, audit.asked.explained_shape
    flat = isinstance(shape, tuple) and all(isinstance(length, int) for length in shape)
    if not flat or len(explained) != 2 or min(explained) < _LEAST_IMAGE:
        return None
    if shape == explained or (len(shape) == 3 and shape[:2] == explained):
        return shape
    if len(shape) == 3 and shape[1:] == explained:  # channels first
        return shape
    return None


def image_of(audit: Audit, row: np.ndarray) -> np.ndarray:
    """A row [n] as an image [H, W], or [H, W, 3] in colours.

    The mean over channels is shown where they are not three.
    """
    shape, explained = image_shape(audit), audit.asked.explained_shape
    image = np.asarray(row, np.float64).reshape(shape)
    channels_first = len(shape) == 3 and shape[:2] != explained
    image = np.moveaxis(image, 0, -1) if channels_first else image
    in_grey = image.ndim == 3 and image.shape[2] != 3
    return image.mean(axis=2) if in_grey else image
