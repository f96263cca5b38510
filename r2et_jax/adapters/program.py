"""What every adapter makes: an `apply` for one input that is known by its content.

Programs are compiled once for each `apply`, so that two looks at the same model have to
give equal ones: the parameters are data, and all else is compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import as_array, is_linen
from r2et_jax.subject import Subject, subject
from r2et_jax.types import Array, Params

# Inputs that a converted model is compared with its original on, and the difference
# that is let pass, a share of the largest output: far above the rounding of deep
# networks in float32, far below what another layer or mode makes.
_COMPARED, _SHARE = 8, 1e-3


class Fixed:
    """Arrays that are no parameters, such as batch statistics; equal by content."""

    def __init__(self, tree: Any):
        self.tree = tree
        leaves, self._structure = jax.tree.flatten(tree)
        digest = hashlib.sha256()
        for leaf in leaves:
            if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            values = np.asarray(leaf)
            digest.update(f"{values.shape}{values.dtype}".encode() + values.tobytes())
        self._digest = digest.digest()

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Fixed) and (self._digest, self._structure) == (
            other._digest,
            other._structure,
        )

    def __hash__(self) -> int:
        return hash((self._digest, self._structure))


@dataclasses.dataclass(frozen=True)
class Program:
    """`apply(params, x) -> [C]` for one input of a model of another library.

    Attributes:
      run: `run(static, fixed, params, inputs) -> outputs`, a function of a module.
      static: what of the model is no array: its structure, its functions.
      fixed: arrays that are no parameters.
      batched: whether the model takes batches [m, ...] alone, and so a batch of one.
    """

    run: Callable[[Any, Any, Params, Array], Any]
    static: Hashable
    fixed: Fixed
    batched: bool

    def __call__(self, params: Params, x: Array, /) -> Array:
        inputs = x[None] if self.batched else x
        out = self.run(self.static, self.fixed.tree, params, inputs)
        shape = getattr(out, "shape", None)
        if shape is None:
            raise ValueError(
                f"the model must return one array, got a {type(out).__name__}"
            )
        rows = shape[1:] if self.batched else shape
        if len(rows) > 1 or (self.batched and shape[:1] != (1,)):
            expected = "[m, C] or [m] for m inputs" if self.batched else "[C] or []"
            raise ValueError(
                f"the model must return {expected}, got shape {shape} for inputs of "
                f"shape {inputs.shape}"
            )
        return out.reshape(rows or (1,))


def some_inputs(x: Any, *, integers: bool = False) -> np.ndarray:
    """The first of the inputs x [m, ...] as finite floats, to try a model on.

    Args:
      x: floats, those of 16 bits are taken as such of 32.
      integers: whether integers and truth values are taken as floats, too. Where a
        model may look them up in a table, they are refused: tokens have no gradient.

    Raises:
      ValueError: for no array of real numbers, or an empty one.
    """
    try:
        x = as_array(x)
    except ValueError as error:  # arrays of several lengths
        raise ValueError(f"x must be one array [m, ...]: {error}") from error
    if not x.ndim or not len(x):
        raise ValueError(f"x must be inputs [m, ...] with m ≥ 1, got shape {x.shape}")
    if integers and x.dtype.kind in "biu":
        x = x.astype(float)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must hold real numbers, got dtype {x.dtype}: of tokens or categories "
            "pass the embeddings or codes as floats"
        )
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    x = x[:_COMPARED].astype(dtype if dtype.itemsize > 2 else np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"x must be finite, got {x[~np.isfinite(x)][0]}")
    return x


def whether_batched(
    make: Callable[[bool], Program], params: Params, x: np.ndarray
) -> bool:
    """Whether a model takes batches alone, by trying one input as it is and in a batch.

    Args:
      make: `make(batched) -> Program`.
      params: its parameters.
      x: some inputs [m, ...].

    Raises:
      ValueError: where neither gives [C], with both errors; where both do and differ.
    """
    outputs, errors = {}, {}
    for batched in (False, True):
        try:
            outputs[batched] = _row(make(batched)(params, x[0]))
        except Exception as error:
            errors[batched] = f"{type(error).__name__}: {error}"
    if not outputs:
        raise ValueError(
            f"the model takes an input of shape {x.shape[1:]} neither by itself "
            f"({errors[False]}) nor in a batch of one ({errors[True]})"
        )
    if len(outputs) == 2 and _differ(outputs[False], outputs[True]):
        raise ValueError(
            f"the model takes an input of shape {x.shape[1:]} by itself and in a batch "
            f"of one, with other results ({outputs[False]} and {outputs[True]}): say "
            "batched=True if its first axis is that of examples, else batched=False"
        )
    return False not in outputs


def examined(
    model: Any,
    params: Params,
    x: np.ndarray | None,
    original: Callable[[np.ndarray], Any] | None = None,
    *,
    view: Callable[[Array], Array] | None = None,
    **options: Any,
) -> Subject:
    """The subject, after a look at whether it computes what the original does.

    Args:
      model, params: the converted one, as for `r2et_jax.subject`.
      x: some inputs [m, ...], or None to compare nothing.
      original: `original(x) -> [m, C] or [m]` by the model's own library.
      view: of the converted model's outputs, that which is compared.
      **options: of `r2et_jax.subject`.

    Raises:
      ValueError: where the two differ, and what `r2et_jax.subject` raises.
    """
    if x is not None:
        options.setdefault("shape", x.shape[1:])
    made = subject(model, params, **options)
    if x is not None and original is not None:
        expected = np.asarray(original(x), float).reshape(len(x), -1)
        apply = model.apply if is_linen(model) else model
        values = jax.vmap(apply, (None, 0))(params, x)
        values = np.asarray(values if view is None else view(values), float)
        if expected.shape != values.shape or _differ(values, expected):
            raise ValueError(
                "the converted model gives other outputs than the original: "
                f"{values[0]} and {expected[0]} for x[0]"
            )
    return made


def _row(out: Array) -> np.ndarray:
    if out.ndim != 1 or not out.size:
        raise ValueError(f"one input must give [C], got shape {out.shape}")
    return np.asarray(out, float)


def _differ(values: np.ndarray, expected: np.ndarray) -> bool:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-6)
    return not np.allclose(
        values, expected, rtol=0, atol=_SHARE * scale, equal_nan=True
    )
