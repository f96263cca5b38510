"""A pytree of arrays as one row of bytes and a list of what they are."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import jax
import numpy as np

from r2et_jax.types import Params

Spec = dict[str, Any]


def pack(tree: Any) -> tuple[np.ndarray, list[Spec]]:
    """The bytes of all leaves in the order of the tree, and where each one belongs.

    Args:
      tree: pytree of NumPy or JAX arrays, random keys and Python numbers.

    Returns:
      Bytes [b], uint8, and for each leaf a JSON object: path, dtype, shape, and for
      random keys the implementation and the shape of one key's data.

    Raises:
      ValueError: for a leaf of any other kind, with its path.

    Example:
      >>> data, specs = pack({"w": np.ones((2, 3), np.float32)})
      >>> data.shape, specs
      ((24,), [{'path': "['w']", 'dtype': '<f4', 'shape': [2, 3]}])
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    specs = [spec(path, leaf) for path, leaf in leaves]
    plain = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in leaves]
    arrays = [np.ascontiguousarray(array) for array in jax.device_get(plain)]
    rows = [array.reshape(-1).view(np.uint8) for array in arrays]
    return np.concatenate([np.empty(0, np.uint8), *rows]), specs


def unpack(data: np.ndarray, specs: list[Spec], treedef: Any) -> Any:
    """The tree that `pack` was given, of NumPy arrays; random keys are keys again."""
    leaves, start = [], 0
    for item in specs:
        is_key = "impl" in item
        shape = (*item["shape"], *item.get("words", ()))
        dtype = np.dtype(np.uint32 if is_key else item["dtype"])
        stop = start + math.prod(shape) * dtype.itemsize
        # A copy of its own is aligned, and lets go of the other leaves.
        leaf = data[start:stop].copy().view(dtype).reshape(shape)
        leaves.append(
            jax.random.wrap_key_data(leaf, impl=item["impl"]) if is_key else leaf
        )
        start = stop
    if start != data.size:
        raise ValueError(f"got {data.size} bytes, expected {start}")
    return jax.tree.unflatten(treedef, leaves)


def spec(path: tuple[Any, ...], leaf: Any) -> Spec:
    """Path, dtype and shape of an array, or of the `jax.ShapeDtypeStruct` of one."""
    name = jax.tree_util.keystr(path)
    if _is_key(leaf):
        described = {"path": name, "dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        if isinstance(leaf, jax.Array):
            words = jax.eval_shape(jax.random.key_data, leaf).shape[leaf.ndim :]
            described |= {"impl": str(jax.random.key_impl(leaf)), "words": list(words)}
        return described
    dtype = np.dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)
    registered = dtype.isbuiltin == 2  # bfloat16 and its like: known by name alone
    if not (registered or dtype.kind in "biufc"):
        raise ValueError(f"{name} must be an array of numbers, got dtype {dtype}")
    text = dtype.name if registered else dtype.str
    return {"path": name, "dtype": text, "shape": list(np.shape(leaf))}


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def params_sha256(params: Params) -> str:
    """SHA-256 of a pytree: paths, dtypes, shapes and bytes of its leaves.

    Neither the order of a dict's entries nor the kind of array (NumPy, JAX) matters.

    Args:
      params: pytree as in `pack`.

    Example:
      >>> a = {"w": np.ones(2), "b": np.zeros(1)}
      >>> params_sha256(a) == params_sha256({"b": np.zeros(1), "w": np.ones(2)})
      True
    """
    data, specs = pack(params)
    header = json.dumps(specs, sort_keys=True).encode()
    digest = hashlib.sha256(hashlib.sha256(header).digest())
    digest.update(data)
    return digest.hexdigest()
