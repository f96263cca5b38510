"""Where a function of one example meets a large batch: chunks, cores, compilation.

`map_batched` is part of a program; `compile_chunked` and `drive_chunks` drive compiled
programs from the host. Everything that takes a batch goes through them: attacks,
certificates, metrics, audits and grids of models, which need not know of devices.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import gc
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from r2et_jax import devices as devices_lib
from r2et_jax.checks import check_count, check_in

# Fewer examples than this do not keep a core busy.
_WORTH_A_CORE = 32
# Examples whose values stay in a core's cache: twice as many run a third slower.
IN_CACHE = 1024
# Numbers in the inputs of a program up to which its compilation outweighs its run.
_FEW_NUMBERS = 1024
_LEVEL = "xla_backend_optimization_level"
_FEW_OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_llvm_disable_expensive_passes": True,
}
# The one axis of the mesh.
_EXAMPLES = "examples"


# What `kept` keeps, for `free_programs`.
_CACHES: list[Callable[[], None]] = []


def kept(build: Callable[..., Any], *, most: int = 64) -> Callable[..., Any]:
    """A function that builds a compiled program, called once for each arguments.

    The programs of a process: the same model and settings find the same one, in however
    many calls. The arguments have a hash, see `hashable` for models; those that were
    used last are kept, at most `most`, until `free_programs`.

    Example:
      >>> twice = kept(lambda name: object())
      >>> twice("a") is twice("a"), twice("a") is twice("b")
      (True, False)
    """
    cached = functools.lru_cache(maxsize=most)(build)
    _CACHES.append(cached.cache_clear)
    return cached


def jit(fn: Callable[..., Any], *, work: str = "some") -> Callable[..., Any]:
    """`jax.jit` for programs that take longer to compile than to run.

    On CPU at XLA's optimisation level 1 in place of 3: attacks on small networks then
    compile in three fifths of the time and run as fast. Where the examples are few,
    also without XLA's fusion emitters, which halves it again, and costs a loop over
    many examples up to a half more time. What XLA_FLAGS says is kept.

    Args:
      fn: its last argument that has arrays is of examples; how many numbers the first
        of these arrays holds, up to 1,024 or more, decides.
      work: what one example takes: "some"; "little", a few evaluations of a model and
        not hundreds, so that few examples are worth no optimisation at all; "much", so
        that one example is worth it, as is the training of a model.
    """
    check_in("work", work, ("little", "some", "much"))
    # Options are for outermost programs; over several devices others go around these.
    if len(jax.local_devices()) > 1:
        return jax.jit(fn)
    many = _outermost(fn)
    if work == "much" or jax.default_backend() != "cpu":
        return many
    few = _outermost(fn, {_LEVEL: 0 if work == "little" else 1, **_FEW_OPTIONS})
    # Of pairs of floats LLVM ends the process at level 1, with AVX-512.
    two = _outermost(fn, {_LEVEL: 2})

    def run(*args):
        count, size = _examples(args)
        return (two if count == 2 else few if size <= _FEW_NUMBERS else many)(*args)

    return run


def _outermost(fn, options: dict[str, Any] | None = None) -> Callable[..., Any]:
    if jax.default_backend() != "cpu":
        return jax.jit(fn)
    options = {_LEVEL: 1} if options is None else options
    flags = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in options.items() if name not in flags}
    return jax.jit(fn, compiler_options=options)


def evaluated(fn: Callable[..., Any], *args: Any) -> Any:
    """fn(*args) by a program of its own, also while another one is traced.

    Under `jax.ensure_compile_time_eval` each operation would be compiled by itself.

    Args:
      fn: a function of arrays.
      *args: pytrees of arrays that are known.

    Example:
      >>> float(jax.jit(lambda x: x + int(evaluated(jnp.sum, np.ones(3))))(1.0))
      4.0
    """
    options = {_LEVEL: 0, **_FEW_OPTIONS}
    return _outermost(fn, options).lower(*args).compile()(*args)


def _examples(args: tuple[Any, ...]) -> tuple[int, float]:
    """How many examples there are, and numbers of them; (1, ∞) where none are seen."""
    for arg in reversed(args):
        for leaf in jax.tree.leaves(arg):
            if np.ndim(leaf):
                return len(leaf), np.size(leaf)
    return 1, np.inf


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
    path = os.fspath(folder) if isinstance(folder, str | os.PathLike) else ""
    if not path.strip() or os.path.isfile(path):
        raise ValueError(f"the cache must be a folder, got {folder!r}")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(path))
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
    """Programs that are worth running at a time: the cores of a sole CPU, else one."""
    if not devices_lib.host_drives():
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def example_keys(key: jax.Array, num_examples: int) -> jax.Array:
    """One key for each example; it depends on the example's index alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        key, jnp.arange(num_examples)
    )


def compile_chunked(
    fn: Callable[..., Any],
    *,
    batch_size: int | None = None,
    in_cache: int = IN_CACHE,
    devices: Sequence[jax.Device] | None = None,
    work: str = "some",
) -> Callable[..., Any]:
    """Compile a function of a batch and drive it from the host, chunk by chunk.

    All chunks have one shape: rows behind the last example are copies of it, and a mask
    takes them out again when the results are gathered.

    * Several devices: a chunk is laid out over a mesh of one axis, and each device runs
      the same program on its own examples. There is one program, however many devices,
      and nothing passes between them: the numbers are those of one device up to the
      rounding of another program, and with chunks of the same shape most often to the
      bit. All chunks are dispatched before the first result is awaited.
    * A sole CPU device: each core runs a chunk of its own, since XLA splits the small
      operations of one program over the cores only badly (half the throughput on two
      cores).

    Args:
      fn: `fn(shared, batched) -> pytree` with the batch's leading axis, each example by
        itself; both arguments are pytrees, of which `batched` has a leading axis of
        examples.
      batch_size: examples in a chunk, at most, on each device. None: `in_cache` on CPU,
        and as many as there is memory for on an accelerator.
      in_cache: examples that suit the cache of a core.
      devices: those to use; by default all of this process, or `jax.default_device`
        where it is set. Under `jax.distributed` each process runs what it is given on
        its own devices: to split the examples and to gather the results is the
        caller's.
      work: as in `jit`.

    Returns:
      `run(shared, batched, *, like=None) -> pytree of NumPy arrays`; it compiles once
      for each shape of a chunk. With `like`, the length of the largest batch, batches
      of all lengths keep to the shape of its chunks.

    Raises:
      ValueError: if batch_size or in_cache < 1, for an unknown work, or when called:
        the batch is empty or its lengths differ, there is no device.

    Example:
      >>> run = compile_chunked(lambda a, x: a * x, batch_size=2)
      >>> run(2.0, np.arange(3.0)).tolist()
      [0.0, 2.0, 4.0]
    """
    return drive_chunks(
        jit(fn, work=work),
        batch_size=batch_size,
        in_cache=in_cache,
        devices=devices,
    )


def drive_chunks(
    compiled: Callable[..., Any],
    *,
    batch_size: int | None = None,
    in_cache: int = IN_CACHE,
    devices: Sequence[jax.Device] | None = None,
    by_host: bool = False,
) -> Callable[..., Any]:
    """What `compile_chunked` does, with a function that is compiled already.

    Args:
      compiled: `compiled(shared, batched) -> pytree`; threads call it side by side.
      batch_size, in_cache, devices: as in `compile_chunked`.
      by_host: whether `compiled` is a loop of the host over several programs, which
        cannot be traced as one: it runs on the first device alone.

    Returns:
      As in `compile_chunked`.
    """
    for name, count in (("batch_size", batch_size), ("in_cache", in_cache)):
        if count is not None:
            check_count(name, count)
    spread = functools.cache(functools.partial(_spread, compiled))
    sizes: dict[Any, int] = {}
    warm: set[Any] = set()

    def fitting(shared, batched, device, shape):
        """Examples in a chunk of a device, at most."""
        if batch_size is not None or by_host or device.platform == "cpu":
            return in_cache if batch_size is None else batch_size
        if shape not in sizes:
            fitting_size = devices_lib.examples_that_fit(
                compiled, shared, batched, device
            )
            sizes[shape] = in_cache if fitting_size is None else fitting_size
        return sizes[shape]

    def run(shared, batched, /, *, like=None):
        batched = jax.tree.map(_on_host, batched)
        m = _batch_length(batched)
        given = devices_lib.chosen() if devices is None else tuple(devices)
        if not given:
            raise ValueError(f"devices must name at least one, got {devices!r}")
        used = given[:1] if by_host else given
        shapes = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), batched)
        double = jax.config.jax_enable_x64
        shape = (double, str(shapes), str(jax.tree.map(jnp.shape, shared)))
        limit = fitting(shared, batched, used[0], shape)
        size = balanced_size(m if like is None else like, limit, len(used))

        def rows(start, count):
            taken = np.minimum(np.arange(start, start + count), m - 1)
            return jax.tree.map(lambda leaf: leaf[taken], batched)

        if len(used) > 1 or used[0].platform != "cpu":
            program, whole, split = spread(used)
            shared = jax.device_put(shared, whole)
            count = size * len(used)
            chunks = (jax.device_put(rows(i, count), split) for i in range(0, m, count))
            done = jax.device_get([program(shared, chunk) for chunk in chunks])
            return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:m], *done)

        def chunk(start):
            out = compiled(shared, rows(start, size))
            return jax.tree.map(lambda leaf: np.asarray(leaf)[: m - start], out)

        return _in_threads(chunk, range(0, m, size), (size, *shape), warm, used[0])

    return run


def _spread(compiled, devices):
    """The program of a chunk on some devices, and where its two arguments lie."""
    if len(devices) == 1:
        return compiled, *devices, *devices
    mesh = Mesh(np.array(devices), (_EXAMPLES,))
    whole, split = Spec(), Spec(_EXAMPLES)
    specs = {"in_specs": (whole, split), "out_specs": split}
    each = jax.shard_map(compiled, mesh=mesh, check_vma=False, **specs)
    return _outermost(each), NamedSharding(mesh, whole), NamedSharding(mesh, split)


def _in_threads(chunk, starts, shape, warm, device):
    """The chunks of a CPU device, each of which a core takes."""
    # Settings that were made in a `with` block hold in this thread alone.
    double = jax.config.jax_enable_x64
    dtypes = jax.config.jax_numpy_dtype_promotion
    ranks = jax.config.jax_numpy_rank_promotion

    def there():
        usual = jax.config.jax_default_device or jax.local_devices()[0]
        known = usual is device or isinstance(usual, str)
        return contextlib.nullcontext() if known else jax.default_device(device)

    def here(start):
        with there():
            return chunk(start)

    def elsewhere(start):
        with (
            jax.enable_x64(double),
            jax.numpy_dtype_promotion(dtypes),
            jax.numpy_rank_promotion(ranks),
        ):
            return here(start)

    done = []
    if shape not in warm:
        # Two threads that meet a new shape together would both compile it.
        with devices_lib.no_collection():
            done = [here(0)]
        warm.add(shape)
    left = starts[len(done) :]
    if len(left) < 2:
        done += map(here, left)
    else:
        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            done += pool.map(elsewhere, left)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *done)


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


def balanced_size(m: int, batch_size: int, num_devices: int = 1) -> int:
    """Examples in a chunk of a device, at most `batch_size`, in equal shares.

    Every core gets as many chunks, and every device as many examples.
    """
    at_once = num_cores() if num_devices == 1 else num_devices
    num_chunks = -(-m // batch_size)
    if num_devices > 1 or m >= at_once * _WORTH_A_CORE:
        num_chunks = -(-num_chunks // at_once) * at_once
    return -(-m // num_chunks)


def hashable(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The function, by which compiled programs can be kept.

    That of a module whose attributes have no hash is wrapped, and known by identity.
    """
    try:
        hash(apply)
    except TypeError:
        return lambda params, x, /: apply(params, x)
    return apply
