"""Where a function of one example meets a large batch: chunks, cores, compilation.

`map_batched` is part of a program; `compile_chunked` and `drive_chunks` drive compiled
programs from the host, a core for each chunk.
"""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count

# Fewer examples than this do not keep a core busy.
_WORTH_A_CORE = 32


# What `kept` keeps, for `free_programs`.
_CACHES: list[Callable[[], None]] = []


def kept(build: Callable[..., Any]) -> Callable[..., Any]:
    """A function that builds a compiled program, called once for each arguments.

    The programs of a process: the same model and settings find the same one, in however
    many calls. The arguments have a hash, see `hashable` for models; the 64 that were
    used last are kept.

    Example:
      >>> twice = kept(lambda name: object())
      >>> twice("a") is twice("a"), twice("a") is twice("b")
      (True, False)
    """
    cached = functools.lru_cache(maxsize=64)(build)
    _CACHES.append(cached.cache_clear)
    return cached


def jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for programs that take longer to compile than to run.

    On CPU at XLA's optimisation level 1 in place of 3: attacks on small networks then
    compile in three fifths of the time and run as fast. A level in XLA_FLAGS is kept.
    """
    level = "xla_backend_optimization_level"
    if jax.default_backend() != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return jax.jit(fn)
    return jax.jit(fn, compiler_options={level: 1})


def cache(folder: str | os.PathLike[str]) -> None:
    """Keep compiled programs in a folder, also for processes to come.

    JAX's persistent cache without the thresholds that leave out short programs, of
    which most of these are. Call it before anything is compiled.

    Args:
      folder: of programs; it is made where it does not exist. Programs are told apart
        by their content, versions and machine; nothing is ever deleted.

    Raises:
      ValueError: if folder names no folder.

    Example:
      >>> cache("programs")  # doctest: +SKIP

    Source: docs.jax.dev, "Persistent compilation cache".
    """
    folder = os.fspath(folder)
    if not folder.strip() or os.path.isfile(folder):
        raise ValueError(f"the cache must be a folder, got {folder!r}")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def free_programs() -> None:
    """Forget all compiled programs.

    Each holds memory maps, of which a process has a limited number (65,530 on Linux by
    default): some hundred models in one process would exceed it.
    """
    for clear in _CACHES:
        clear()
    jax.clear_caches()
    gc.collect()


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
    return drive_chunks(jit(fn), batch_size=batch_size)


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
        double = jax.config.jax_enable_x64
        dtypes = jax.config.jax_numpy_dtype_promotion
        ranks = jax.config.jax_numpy_rank_promotion

        def elsewhere(start):
            with (
                jax.enable_x64(double),
                jax.numpy_dtype_promotion(dtypes),
                jax.numpy_rank_promotion(ranks),
            ):
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


def hashable(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The function, by which compiled programs can be kept.

    That of a module whose attributes have no hash is wrapped, and known by identity.
    """
    try:
        hash(apply)
    except TypeError:

        def hashable(params, x, /):
            return apply(params, x)

        return hashable
    return apply
