"""What explanations share: how a map ends, and means over points in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count
from r2et_jax.execution import map_batched
from r2et_jax.numerics import unit_sum
from r2et_jax.types import Array

# Input values of all points up to which they are evaluated at once (tables, MNIST), and
# of one chunk beyond: ten points of a CIFAR image, whose activations then fit a cache.
WHOLE = 2**17
CHUNK = 2**15


def finish(values: Array, normalize: bool, channel_axis: int | None) -> Array:
    """The map: channels summed, over its sum."""
    if channel_axis is not None:
        values = jnp.sum(values, axis=channel_axis)
    return unit_sum(values) if normalize else values


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise unless it is a count, or None for the default."""
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)


def mean_over(
    fn: Callable[..., Array],
    points: tuple[Any, ...],
    size: int,
    chunk_size: int | None,
) -> Array:
    """The mean of fn over points of inputs of that size, chunk by chunk."""
    count = points[0].shape[0]
    if chunk_size is None:
        whole = count * size <= WHOLE
        chunk_size = count if whole else max(CHUNK // size, 1)
    # As many chunks, as equal as they can be: the last one is padded.
    num_chunks = -(-count // chunk_size)
    if num_chunks > 1:
        # The backward pass computes a chunk again instead of keeping all of them.
        fn = jax.checkpoint(fn, prevent_cse=False)
    values = map_batched(fn, points, batch_size=-(-count // num_chunks))
    return jnp.mean(values, axis=0)
