"""A compiled function of a batch, driven from the host: a core for each chunk."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.batching import num_cores
from r2et_jax.checks import check_count

# Fewer examples than this do not keep a core busy.
_WORTH_A_CORE = 32


def compile_chunked(fn: Callable[..., Any], *, batch_size: int) -> Callable[..., Any]:
    """Compile a function of a batch and drive it from the host, chunk by chunk.

    All chunks have one shape, the last one padded with copies of its last example. On
    CPU each core runs a chunk of its own: XLA splits the small operations of one
    program over the cores only badly (half the throughput on two cores).

    Args:
      fn: `fn(shared, batched) -> pytree` with the batch's leading axis; both arguments
        are pytrees, of which `batched` has a leading axis of examples.
      batch_size: examples in a chunk, at most.

    Returns:
      `run(shared, batched, *, chunk_size=None) -> pytree of NumPy arrays`; it compiles
      once for each shape of a chunk. A given chunk_size, such as `balanced_size` of the
      largest batch, keeps to one shape for batches of all lengths.

    Raises:
      ValueError: if batch_size < 1, or when called: the batch is empty or its lengths
        differ.

    Example:
      >>> run = compile_chunked(lambda a, x: a * x, batch_size=2)
      >>> run(2.0, np.arange(3.0)).tolist()
      [0.0, 2.0, 4.0]
    """
    return drive_chunks(jax.jit(fn), batch_size=batch_size)


def drive_chunks(
    compiled: Callable[..., Any], *, batch_size: int
) -> Callable[..., Any]:
    """What `compile_chunked` does, with a function that is compiled already.

    Args:
      compiled: `compiled(shared, batched) -> pytree`; threads call it side by side.
      batch_size: examples in a chunk, at most.

    Returns:
      As in `compile_chunked`.
    """
    check_count("batch_size", batch_size)
    warm: set[Any] = set()

    def run(shared, batched, /, *, chunk_size=None):
        batched = jax.tree.map(_on_host, batched)
        m = _batch_length(batched)
        cores = num_cores()
        size = balanced_size(m, batch_size) if chunk_size is None else chunk_size

        # Settings that were made in a `with` block hold in this thread alone.
        double, promotion = (
            jax.config.jax_enable_x64,
            jax.config.jax_numpy_dtype_promotion,
        )

        def elsewhere(start):
            with jax.enable_x64(double), jax.numpy_dtype_promotion(promotion):
                return chunk(start)

        def chunk(start):
            rows = np.minimum(np.arange(start, start + size), m - 1)
            out = compiled(shared, jax.tree.map(lambda leaf: leaf[rows], batched))
            return jax.tree.map(lambda leaf: np.asarray(leaf)[: m - start], out)

        starts = range(0, m, size)
        shapes = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), batched)
        shape = (size, double, str(shapes), str(jax.tree.map(jnp.shape, shared)))
        # Two threads that meet a new shape together would both compile it.
        done = [] if shape in warm else [chunk(0)]
        warm.add(shape)
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            done += pool.map(elsewhere, starts[len(done) :])
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *done)

    return run


def _on_host(leaf):
    """NumPy arrays index fast; random keys have no NumPy form and stay."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    return np.asarray(leaf)


def _batch_length(batched: Any) -> int:
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(batched)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"a batch must share one leading axis of at least 1, got {sorted(lengths)}"
        )
    return lengths.pop()


def balanced_size(m: int, batch_size: int) -> int:
    """Examples in a chunk, at most `batch_size`; every core gets as many chunks."""
    num_chunks, cores = -(-m // batch_size), num_cores()
    if m >= cores * _WORTH_A_CORE:
        num_chunks = -(-num_chunks // cores) * cores
    return -(-m // num_chunks)
