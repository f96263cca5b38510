"""Which devices of this process run a batch, and how much of it each of them holds."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Of a device's memory, what a chunk may plan with: the rest is the compiler's.
_SHARE = 0.5


def chosen() -> tuple[jax.Device, ...]:
    """The devices that a batch is spread over: all of this process.

    `jax.default_device`, where it is set, is the only one. Other processes of
    `jax.distributed` have devices of their own, of which nothing is known here.
    """
    default = jax.config.jax_default_device
    if default is None or isinstance(default, str):
        return tuple(jax.local_devices(backend=default))
    return (default,)


def host_drives() -> bool:
    """Whether the host's threads and loops pay: with a sole CPU device.

    An accelerator waits for its host, and several devices run side by side without
    its threads.
    """
    return jax.default_backend() == "cpu" and len(chosen()) == 1


def examples_that_fit(
    fn: Callable[..., Any], shared: Any, batched: Any, device: jax.Device
) -> int | None:
    """Examples at a time that a device has memory for, by its limit.

    Args:
      fn: `fn(shared, batched)`, which is traced with one example.
      shared: its first argument.
      batched: its second one, leaves [m, ...].
      device: whose `memory_stats` are asked; what else is held there is not.

    Returns:
      A number of at least 1, or None where the device tells no limit, as a CPU.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        return None
    return max(1, int(_SHARE * limit) // example_bytes(fn, shared, batched))


def example_bytes(fn: Callable[..., Any], shared: Any, batched: Any) -> int:
    """Memory of one example in a program, at most: no value's place is used again."""
    example = jax.tree.map(lambda leaf: leaf[:1], batched)
    given = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
    return given + _held(jax.make_jaxpr(fn)(shared, example).jaxpr)


def _held(program) -> int:
    """Bytes of what a program makes; of programs inside, which run in turn, the most.

    A program inside is added to all that is around it.
    """
    made = sum(
        _nbytes(variable.aval)
        for equation in program.eqns
        for variable in equation.outvars
    )
    inside = (_held(p) for e in program.eqns for p in programs_in(e.params))
    return made + max(inside, default=0)


def _nbytes(aval) -> int:
    shape = getattr(aval, "shape", ())
    # Random keys tell the size of what they are made of.
    return int(np.prod(shape, dtype=np.int64)) * getattr(aval.dtype, "itemsize", 8)


def programs_in(params: Any) -> Iterator[Any]:
    """The programs inside of an equation, such as the body of a loop."""
    for leaf in jax.tree.leaves(params):
        leaf = getattr(leaf, "jaxpr", leaf)
        if hasattr(leaf, "eqns"):
            yield leaf


@contextlib.contextmanager
def no_collection():
    """Without Python's garbage collector, which finds little in what is being traced.

    It would walk through all of a growing program again and again, a seventh of the
    time that tracing takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
