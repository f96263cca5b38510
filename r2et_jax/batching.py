"""The one place where a function of one example meets a large batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count


def map_batched(
    fn: Callable[..., Any], args: tuple[Any, ...], *, batch_size: int
) -> Any:
    """Apply `fn` to every example in chunks of one shape.

    The batch is padded with copies of its last example to a multiple of
    `batch_size`, so that one compiled body serves all chunks and memory is bounded
    by one chunk, whatever the size of the batch.

    Args:
      fn: function of one example; its arguments are pytrees without a batch axis.
      args: the arguments, each a pytree of arrays [m, ...] with the same m ≥ 1.
      batch_size: examples in a chunk, at least 1.

    Returns:
      What `fn` returns, with a leading axis of length m.

    Raises:
      ValueError: if batch_size < 1, the batch is empty, or its lengths differ.

    Example:
      >>> map_batched(lambda x: x**2, (jnp.arange(5.0),), batch_size=2)
      Array([ 0.,  1.,  4.,  9., 16.], dtype=float32)
    """
    check_count("batch_size", batch_size)
    # A number has no leading axis: a length of 0.
    lengths = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(args)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"args must share one leading axis of at least 1, got {sorted(lengths)}"
        )
    (m,) = lengths
    if m <= batch_size:
        return jax.vmap(fn)(*args)
    num_chunks = -(-m // batch_size)
    pad = num_chunks * batch_size - m

    def chunked(leaf: jax.Array) -> jax.Array:
        filler = jnp.broadcast_to(leaf[-1:], (pad, *leaf.shape[1:]))
        whole = jnp.concatenate([leaf, filler]) if pad else jnp.asarray(leaf)
        return whole.reshape(num_chunks, batch_size, *leaf.shape[1:])

    out = jax.lax.map(lambda chunk: jax.vmap(fn)(*chunk), jax.tree.map(chunked, args))
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_chunks * batch_size, *leaf.shape[2:])[:m], out
    )


def num_cores() -> int:
    """Programs that are worth running at a time: the cores on CPU, else one."""
    if jax.default_backend() != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def example_keys(key: jax.Array, num_examples: int) -> jax.Array:
    """One key for each example; it depends on the example's index alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        key, jnp.arange(num_examples)
    )
