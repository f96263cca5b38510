"""Reading of .npz files that may be damaged, foreign, hostile or of an older form."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# A file may unpack to 256 MiB, or to this multiple of its size if that is more: what
# measurements come to; zeros alone are packed a thousandfold.
MOST_UNPACKED = 2**28
MOST_RATIO = 128
_MOST_HEADER = 10_000  # bytes, NumPy's own limit
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_VERSIONS = {
    (1, 0): ("<H", np.lib.format.read_array_header_1_0),
    (2, 0): ("<I", np.lib.format.read_array_header_2_0),
}
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, struct.error,
    OverflowError, MemoryError,
)  # fmt: skip


class _Announced(NamedTuple):
    """What the header of an array says, and how many bytes it has itself."""

    shape: tuple[int, ...]
    dtype: np.dtype
    header: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def reserved(self) -> int:
        """`size`, where an empty axis and an item of no length count as one.

        Whatever is made for each place along the other axes has this many at most.
        """
        items = math.prod(max(length, 1) for length in self.shape)
        return items * max(self.dtype.itemsize, 1)


def read_arrays(
    path: Path, keys: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of a file, without unpickling.

    Headers are read before anything is unpacked, and their sizes compared with those
    of the archive and with what a file of this size may hold.

    Args:
      path: the file.
      keys: names of the arrays.
      optional: names of arrays that may be missing.

    Returns:
      The arrays of numbers or text by name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a complete .npz file, or one without an array of `keys`; an array
        that is there twice, encrypted, packed otherwise than by deflate, of objects,
        or larger than its header says; more in all than the file may unpack to.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no data set file {path}")
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            members = _members(path, file, (*keys, *optional))
            missing = [key for key in keys if key not in members]
            if missing:
                raise ValueError(
                    f"{path}: array {missing[0]!r} is missing, expected "
                    f"{', '.join(keys)}"
                )
            _check_sizes(path, file, members)
            return {key: _array(file, info) for key, info in members.items()}
    except (*_BROKEN, ValueError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path} is not a complete .npz file ({error})") from error


def holds(path: Path, key: str) -> bool:
    """Whether a file is an .npz archive that lists an array; what is damaged is not."""
    try:
        with zipfile.ZipFile(path) as file:
            return f"{key}.npy" in file.namelist()
    except (*_BROKEN, ValueError):
        return False


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays so that `read_arrays` reads them: compressed, unless too much so."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    if sum(array.nbytes for array in arrays.values()) > _most(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)


def read_meta(
    path: Path, arrays: dict[str, np.ndarray], version: int
) -> dict[str, Any]:
    """What the array "meta", a JSON string of an object with a name, says.

    Raises:
      ValueError: for anything else, and for another format version.
    """
    text = arrays["meta"]
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError(
            f"{path}: meta must be one JSON string, got {text.dtype} of shape "
            f"{text.shape}"
        )
    try:
        meta = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: meta is no JSON string ({error})") from error
    if not isinstance(meta, dict):
        raise ValueError(
            f"{path}: meta must be a JSON object, got a {type(meta).__name__}"
        )
    if meta.get("format_version") != version:
        raise ValueError(
            f"{path}: format version {meta.get('format_version')!r}, expected "
            f"{version}: prepare the file again"
        )
    name = meta.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: meta has the name {name!r}, expected a text")
    return meta


def _most(path: Path) -> int:
    return max(MOST_UNPACKED, MOST_RATIO * path.stat().st_size)


def _members(
    path: Path, file: zipfile.ZipFile, wanted: Sequence[str]
) -> dict[str, zipfile.ZipInfo]:
    """The members that hold the wanted arrays, as far as there are any."""
    members: dict[str, zipfile.ZipInfo] = {}
    names = {f"{key}.npy": key for key in wanted}
    for info in file.infolist():
        key = names.get(info.filename)
        if key is None:
            continue
        if key in members:
            raise ValueError(f"{path}: array {key!r} is there twice, expected it once")
        if info.flag_bits & 1:
            raise ValueError(
                f"{path}: array {key!r} is encrypted, expected it without a password"
            )
        if info.compress_type not in _METHODS:
            raise ValueError(
                f"{path}: array {key!r} is packed by method {info.compress_type}, "
                "expected 0 (stored) or 8 (deflated)"
            )
        members[key] = info
    return {key: members[key] for key in wanted if key in members}


def _check_sizes(
    path: Path, file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> None:
    total = 0
    for key, info in members.items():
        with file.open(info) as stream:
            said = _announced(stream, f"{path}: array {key!r}")
        if said.header + said.size != info.file_size:
            raise ValueError(
                f"{path}: array {key!r} has {said.size} bytes by its header (shape "
                f"{said.shape} of {said.dtype}), {info.file_size - said.header} by "
                "the archive"
            )
        total += said.reserved
    if total > _most(path):
        raise ValueError(
            f"{path}: its arrays have {total} bytes, expected at most {_most(path)} of "
            f"a file of {path.stat().st_size}: write it with numpy.savez, which does "
            "not pack them"
        )


def _announced(stream: Any, what: str) -> _Announced:
    start = stream.read(8)
    version = tuple(start[6:8])
    if start[:6] != np.lib.format.MAGIC_PREFIX or version not in _VERSIONS:
        raise ValueError(f"{what} is no array in NumPy's format 1.0 or 2.0")
    code, read = _VERSIONS[version]
    length = stream.read(struct.calcsize(code))
    (size,) = struct.unpack(code, length)
    if size > _MOST_HEADER:
        raise ValueError(
            f"{what} has a header of {size} bytes, expected at most {_MOST_HEADER}"
        )
    try:
        shape, _, dtype = read(io.BytesIO(length + stream.read(size)))
    except ValueError as error:
        raise ValueError(f"{what} has no header of NumPy's ({error})") from error
    if dtype.kind not in "biufcUS" or dtype.subdtype is not None:
        raise ValueError(f"{what} holds {dtype}, expected numbers or text")
    if not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError(
            f"{what} has the shape {shape}, expected lengths of at least 0"
        )
    return _Announced(shape, dtype, len(start) + len(length) + size)


def _array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with file.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
