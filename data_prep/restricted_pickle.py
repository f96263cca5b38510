"""Reading a stranger's pickle: NumPy arrays and plain containers, nothing else.

A pickle is a program: it may call any function that the reader can import. The reader
here can import no function but those that rebuild NumPy arrays, whatever the pickle
asks for; anything else ends in a ValueError before it is called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic)


# What stands in for Python functions are instances without attributes, so that a
# pickle, which may set attributes of what it gets, cannot change them either.


class _Latin1:
    """`_codecs.encode`, with which older protocols write bytes; one encoding only."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"encoding {encoding!r}, expected 'latin1'")
        return text.encode("latin1")


class _FromBuffer:
    """`numpy.core.numeric._frombuffer`, with which protocol 5 writes arrays."""

    __slots__ = ()

    def __call__(self, buffer, dtype, shape, order, axis_order=None) -> np.ndarray:
        flat = np.frombuffer(buffer, dtype=dtype)
        if order == "K" and axis_order is not None:
            return flat.reshape(shape, order="C").transpose(axis_order)
        return flat.reshape(shape, order=order)


def _allowed() -> dict[tuple[str, str], Any]:
    # The function's home has moved between NumPy versions; __reduce__ tells ours.
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _Latin1(),
    }
    for core in ("numpy.core", "numpy._core"):
        for module in ("multiarray", "_multiarray_umath"):
            allowed[f"{core}.{module}", "_reconstruct"] = reconstruct
            allowed[f"{core}.{module}", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = _FromBuffer()
    return allowed


class _Unpickler(pickle.Unpickler):
    allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, expected NumPy arrays only"
            ) from None


def loads(content: bytes, what: str) -> Any:
    """Read a pickle that holds arrays, numbers, strings and containers of these.

    Byte strings of Python 2 become text (Latin-1).

    Args:
      content: the pickle.
      what: what is read, for messages.

    Returns:
      The object.

    Raises:
      ValueError: the pickle asks for anything else, holds arrays of objects, or is
        incomplete.
    """
    try:
        result = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a broken program may fail in any way
        raise ValueError(f"{what} is refused as a pickle: {error}") from error
    _check(result, what)
    return result


def _check(value: Any, what: str) -> None:
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:  # containers may hold themselves
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            pending += item
        elif isinstance(item, np.ndarray):
            if item.dtype.hasobject:
                raise ValueError(f"{what} is refused: it holds an array of objects")
        elif not isinstance(item, _PLAIN):
            raise ValueError(f"{what} is refused: it holds a {type(item).__name__}")
