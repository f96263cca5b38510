"""Files and archives read into memory, but never more of them than is expected.

A few bytes of an archive can unpack to any number of zeros. What is read here has a
bound, which is compared before memory is asked for: with the length that a header
states, and with what comes in fact.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

# Of a whole .zip, whose table of contents takes a multiple of it in memory. The largest
# one that is known to be served has 1 MB.
MOST_ARCHIVE = 2**24
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_file(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes; ValueError if there are more."""
    with path.open("rb") as file:
        return _bounded(file, most, str(path))


def gunzip(packed: Path | BinaryIO, most: int, what: str) -> bytes:
    """What a gzip file, `what` in messages, holds: at most `most` bytes.

    Raises:
      ValueError: no complete gzip file, or one that holds more.
    """
    try:
        with gzip.open(packed) as file:
            return _bounded(file, most, f"{what}, unpacked")
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{what} is not a complete gzip file ({error})") from error


def unzip(path: Path, name: str, most: int) -> bytes:
    """The one file of a zip archive that has a name in whatever folder.

    It may lie in an archive inside of the archive. Nothing is unpacked to a path, so
    that it does not matter where a member wants to lie.

    Args:
      path: the archive, of at most `MOST_ARCHIVE` bytes.
      name: the file's name without folders.
      most: how many bytes it may have.

    Returns:
      The content.

    Raises:
      ValueError: no complete archive, one without a file of this name or with
        several, or a file that is encrypted, packed otherwise than by deflate, or
        longer.
    """
    archive = io.BytesIO(read_file(path, MOST_ARCHIVE))
    try:
        contents = _members(archive, name, most, str(path), nested=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete zip archive ({error}), expected one that holds "
            f"{name}"
        ) from error
    if len(contents) != 1:
        raise ValueError(f"{path} must hold one file {name}, found {len(contents)}")
    return contents[0]


def _members(
    archive: BinaryIO, name: str, most: int, where: str, *, nested: bool
) -> list[bytes]:
    with zipfile.ZipFile(archive) as file:
        members = {info: _base(info) for info in file.infolist()}
        named = [info for info, base in members.items() if base == name]
        if len(named) > 1:
            raise ValueError(f"{where} must hold one file {name}, found {len(named)}")
        if named:
            return [_member(file, named[0], most, where)]
        contents = []
        for info, base in members.items():
            if base.endswith(".zip") and not base.startswith(".") and not nested:
                inside = io.BytesIO(_member(file, info, MOST_ARCHIVE, where))
                place = f"{info.filename} in {where}"
                contents += _members(inside, name, most, place, nested=True)
        return contents


def _base(info: zipfile.ZipInfo) -> str:
    """The name without folders, which old programs part by backslashes."""
    return info.filename.replace("\\", "/").rpartition("/")[2]


def _member(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, where: str
) -> bytes:
    what = f"{info.filename} in {where}"
    if info.flag_bits & 1:
        raise ValueError(f"{what} is encrypted, expected it without a password")
    if info.compress_type not in _METHODS:
        raise ValueError(
            f"{what} is packed by method {info.compress_type}, expected 0 (stored) or "
            "8 (deflated)"
        )
    if info.file_size > most:
        raise ValueError(f"{what} has {info.file_size} bytes, expected at most {most}")
    with file.open(info) as stream:
        # A length is given, as else all that the stream unpacks to would be held
        # before it is compared with the header.
        return stream.read(info.file_size + 1)


def _bounded(file: BinaryIO, most: int, what: str) -> bytes:
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{what}: expected at most {most} bytes, got more")
    return content
