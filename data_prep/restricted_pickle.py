"""Reading a stranger's pickle: NumPy arrays and plain containers, nothing else.

A pickle is a program: it may call any function that the reader can import, and set the
state of any object that it gets. Here it gets none of NumPy's own: small stand-ins note
what it says of an array, and the arrays are handed out when all has been read, made of
plain numbers and text alone. Anything else ends in a ValueError. Memory stays in
proportion to the pickle's length: what it asks for is compared with what it has
(`pickle_sizes`), and the bytes of all arrays together are no more than its own. Time
is not: hashing keys made of nested tuples can take any.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import reprlib
from typing import Any

import numpy as np

from data_prep.pickle_sizes import check_sizes

_PLAIN = (str, bytes, bytearray, bool, int, float, complex, type(None))
# Booleans, numbers, bytes and text of a fixed size.
_CODE = re.compile(r"[<>=|]?([?biufcSU])([0-9]*)")
_MOST_BYTES = 2**40  # of an item, so that no size overflows
_MOST_AXES = 32


class _Fixed:
    """A stand-in that a pickle, which may set the state of what it gets, cannot change.

    Others have slots that only their own `__setstate__` fills.
    """

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the state of a function, expected an array's")


class _Budget:
    """How many bytes may still be made of those of the pickle.

    Each array's bytes stand in it once, so that they are never more than its own; but
    one string of bytes can be named as the content of any number of arrays. Older
    protocols write them as text: this makes them twice.
    """

    __slots__ = ("left",)

    def __init__(self, left: int):
        self.left = left

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError("arrays that have more bytes than the pickle")


class _Latin1(_Fixed):
    """`_codecs.encode`, with which older protocols write bytes; one encoding only."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(
                f"encoding {reprlib.repr(encoding)}, expected 'latin1'"
            )
        self._budget.take(len(text))
        return text.encode("latin1")


class _Class(_Fixed):
    """`numpy.ndarray`, as an argument of `_Reconstruct` alone."""

    __slots__ = ()


class _Described:
    """A dtype: its code, and the order of its bytes, which comes as its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        structure = rest[:3]  # of a part of an array, names, fields
        if any(part is not None for part in structure):
            raise pickle.UnpicklingError("a dtype with fields, expected a plain one")
        self.order = _text(order)

    @property
    def dtype(self) -> np.dtype:
        if self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(
                f"byte order {reprlib.repr(self.order)} of a dtype"
            )
        return np.dtype(self.code).newbyteorder(self.order)


class _Dtype(_Fixed):
    """`numpy.dtype` of a code such as "f8"."""

    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _Described:
        code = _text(code)
        parts = _CODE.fullmatch(code)
        if parts is None or int(parts[2] or 0) > _MOST_BYTES:
            raise pickle.UnpicklingError(
                f"an array of the dtype {reprlib.repr(code)}, expected numbers or text "
                "of one size"
            )
        return _Described(code)


class _Rebuilt:
    """An array, which is made of its state when all has been read."""

    __slots__ = ("_budget", "value")
    __hash__ = None

    def __init__(self, budget: _Budget, value: Any = None):
        self._budget, self.value = budget, value

    def __setstate__(self, state: Any) -> None:
        _, shape, described, fortran, raw = state
        if isinstance(raw, str):  # the byte strings of Python 2
            raw = raw.encode("latin1")
        order = "F" if fortran else "C"
        self.value = _array(raw, described, shape, order, self._budget)


class _Reconstruct(_Fixed):
    """`_reconstruct`, with which arrays begin."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Rebuilt:
        if not isinstance(kind, _Class):
            raise pickle.UnpicklingError("an array of another class than ndarray")
        return _Rebuilt(self._budget)


class _Scalar(_Fixed):
    """`scalar`, with which single numbers are written."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __call__(self, described: Any, raw: Any) -> _Rebuilt:
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        value = _array(raw, described, (), "C", self._budget)[()]
        return _Rebuilt(self._budget, value)


class _FromBuffer(_Fixed):
    """`numpy.core.numeric._frombuffer`, with which protocol 5 writes arrays."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __call__(self, buffer, described, shape, order, axis_order=None) -> _Rebuilt:
        if order == "K" and axis_order is not None:
            flat = _array(buffer, described, shape, "C", self._budget)
            return _Rebuilt(self._budget, flat.transpose(axis_order))
        value = _array(buffer, described, shape, order, self._budget)
        return _Rebuilt(self._budget, value)


def _array(
    raw: Any, described: Any, shape: Any, order: Any, budget: _Budget
) -> np.ndarray:
    """An array of its own memory."""
    if not isinstance(raw, bytes | bytearray):
        raise pickle.UnpicklingError("an array of objects, expected numbers or text")
    if not isinstance(described, _Described):
        raise pickle.UnpicklingError("an array without a dtype")
    sizes = tuple(shape)
    if len(sizes) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in sizes):
        raise pickle.UnpicklingError(f"the shape {reprlib.repr(shape)} of an array")
    dtype = described.dtype
    # Text of no length would make many items of no bytes.
    if not dtype.itemsize or len(raw) != math.prod(sizes) * dtype.itemsize:
        raise pickle.UnpicklingError(
            f"{len(raw)} bytes for an array of shape {sizes} of {dtype}"
        )
    budget.take(len(raw))
    flat = np.frombuffer(raw, dtype).copy()
    return flat.reshape(sizes, order="F" if order == "F" else "C")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin1")
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"{type(value).__name__}, expected text")
    return value


def _allowed(budget: _Budget) -> dict[tuple[str, str], Any]:
    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Class(),
        ("numpy", "dtype"): _Dtype(),
        ("_codecs", "encode"): _Latin1(budget),
    }
    # The functions' home has moved between NumPy versions.
    for core in ("numpy.core", "numpy._core"):
        for module in ("multiarray", "_multiarray_umath"):
            allowed[f"{core}.{module}", "_reconstruct"] = _Reconstruct(budget)
            allowed[f"{core}.{module}", "scalar"] = _Scalar(budget)
        allowed[f"{core}.numeric", "_frombuffer"] = _FromBuffer(budget)
    return allowed


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.allowed = _allowed(_Budget(2 * len(content)))

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {f'{module}.{name}'[:80]}, expected NumPy arrays only"
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
      ValueError: the pickle asks for anything else or for more memory than its
        length calls for, holds arrays of objects, or is incomplete.
    """
    try:
        check_sizes(content)
        result = _Unpickler(content).load()
        return _finished(result, {})
    except Exception as error:  # a broken program may fail in any way
        raise ValueError(f"{what} is refused as a pickle: {error}") from error


def _finished(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    """The value with its arrays; lists and dicts are filled in place.

    `seen` keeps each container, that its address is not given away, with its result.
    """
    if id(value) in seen:  # lists and dicts may hold themselves
        if seen[id(value)][1] is None:
            raise pickle.UnpicklingError(f"a {type(value).__name__} that holds itself")
        return seen[id(value)][1]
    if isinstance(value, _Rebuilt) and value.value is not None:
        return value.value
    if type(value) is list:
        seen[id(value)] = value, value
        value[:] = [_finished(item, seen) for item in value]
        return value
    if type(value) is dict:
        seen[id(value)] = value, value
        for key in value:
            _finished(key, seen)
            value[key] = _finished(value[key], seen)
        return value
    if type(value) in (tuple, set, frozenset):
        seen[id(value)] = value, None
        finished = type(value)(_finished(item, seen) for item in value)
        seen[id(value)] = value, finished
        return finished
    if isinstance(value, _PLAIN):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__.lstrip('_')}")
