"""Makers of damaged, hostile and misnamed files: each returns the bytes to write.

Imported by tests (and by whatever else wants to try a reader) as `tests.damage`. The
bombs are small on disk and cost nothing to make; what they unpack to is never held.
"""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORED, DEFLATED, LZMA = 0, 8, 14
MiB = 2**20


# Any file.


def flipped(content: bytes, share: float = 0.5, mask: int = 0x55) -> bytes:
    """The content with the bits of mask flipped in the byte at this share of it."""
    damaged = bytearray(content)
    damaged[min(int(share * len(damaged)), len(damaged) - 1)] ^= mask
    return bytes(damaged)


def other_digit(content: bytes, share: float = 0.5) -> bytes:
    """The content with another digit for one behind this share of it, if there is one.

    Text of numbers stays text of numbers: none but a digest can tell.
    """
    damaged = bytearray(content)
    for i in range(int(share * len(damaged)), len(damaged)):
        if damaged[i] in b"0123456789":
            damaged[i] ^= 1
            break
    return bytes(damaged)


def cut(content: bytes, share: float = 0.5) -> bytes:
    """The first share of the content."""
    return content[: int(share * len(content))]


def zeroed(content: bytes, share: float = 0.5) -> bytes:
    """The content with zeros after this share of it, as a crash may leave it."""
    kept = int(share * len(content))
    return content[:kept] + bytes(len(content) - kept)


# Text as editors and shells leave it.


def with_mark(text: bytes) -> bytes:
    """UTF-8 text behind a byte-order mark."""
    return b"\xef\xbb\xbf" + text


def with_crlf(text: bytes) -> bytes:
    """Text with the line ends of Windows."""
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def as_utf16(text: bytes) -> bytes:
    """UTF-8 text in UTF-16 with a byte-order mark."""
    return text.decode("utf-8").encode("utf-16")


# Archives.


def gzip_bomb(size: int) -> bytes:
    """A gzip file of about a thousandth of size that unpacks to size MiB of zeros."""
    return gzip.compress(bytes(MiB), mtime=0) * size


def deflated_zeros(size: int) -> bytes:
    """A raw deflate stream of size MiB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(MiB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed * size + packer.flush()


class Member(NamedTuple):
    """A member of a zip archive, in which every field of its header can lie.

    Attributes:
      name: its path.
      content: what is in it, or with `packed` True how it is packed already.
      method: STORED, DEFLATED, or a number that only stands in the header.
      encrypted: whether the header says so.
      size: how long the header says it is; None for the truth.
      packed: whether content is packed already.
      checksum: CRC-32 of the unpacked content; None to compute it.
    """

    name: str
    content: bytes
    method: int = DEFLATED
    encrypted: bool = False
    size: int | None = None
    packed: bool = False
    checksum: int | None = None


def zipped(members: Sequence[Member]) -> bytes:
    """A zip archive, duplicates and impossible paths included."""
    body, directory = bytearray(), bytearray()
    for member in members:
        name = member.name.encode()
        stored = member.content
        if member.method == DEFLATED and not member.packed:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            stored = packer.compress(member.content) + packer.flush()
        checksum = member.checksum
        if checksum is None:
            checksum = zlib.crc32(member.content)
        size = len(member.content) if member.size is None else member.size
        flags = 0x800 | (1 if member.encrypted else 0)
        shared = struct.pack(
            "<HHHHHIII", 20, flags, member.method, 0, 33, checksum, len(stored), size
        )
        directory += b"PK\1\2\x14\0" + shared
        directory += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + shared + struct.pack("<HH", len(name), 0) + name + stored
    end = struct.pack(
        "<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0
    )
    return bytes(body + directory) + b"PK\5\6" + end


def bomb_member(name: str, size: int, *, head: bytes = b"") -> Member:
    """A member of head and size MiB of zeros after it."""
    checksum = zlib.crc32(head)
    for _ in range(size):
        checksum = zlib.crc32(bytes(MiB), checksum)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    return Member(
        name,
        packed + deflated_zeros(size),
        size=len(head) + size * MiB,
        packed=True,
        checksum=checksum,
    )


def zip_bomb(name: str, size: int, *, head: bytes = b"") -> bytes:
    """A zip archive with one member: head, then size MiB of zeros."""
    return zipped([bomb_member(name, size, head=head)])


def tar_gz(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A .tar.gz archive, duplicates and impossible paths included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# NumPy's files.


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file, pickled if need be."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(shape: Sequence[int], dtype: str = "<f8", *, spaces: int = 0) -> bytes:
    """The header alone of a .npy file, followed by as many spaces more as asked for."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text = (text + " " * spaces + "\n").encode()
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text


def npz(arrays: Mapping[str, np.ndarray | bytes], **options) -> bytes:
    """A .npz file of arrays, or of the bytes of .npy files; options of `Member`."""
    return zipped(
        [
            Member(f"{key}.npy", it if isinstance(it, bytes) else npy(it), **options)
            for key, it in arrays.items()
        ]
    )


def npz_bomb(key: str, size: int) -> bytes:
    """A .npz file with one array of size MiB of zeros, sound but for its size."""
    head = npy_header((size * MiB,), "|u1")
    return zip_bomb(f"{key}.npy", size, head=head)


def idx(array: np.ndarray, *, shape: Sequence[int] | None = None) -> bytes:
    """Bytes as an IDX file, with another shape in the header if asked for."""
    sizes = array.shape if shape is None else tuple(shape)
    header = bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)
    return header + np.asarray(array, np.uint8).tobytes()


# Pickles that ask for more memory than they are long.


def memo_bomb(index: int = 2**27) -> bytes:
    """A pickle of 9 bytes whose memo has 2·index places, and which then is a 1."""
    return b"\x80\x02K\x01r" + struct.pack("<I", index) + b"."


def length_bomb(length: int = 2**33) -> bytes:
    """A pickle that announces more bytes than follow."""
    return b"\x80\x04\x8e" + struct.pack("<Q", length) + b"few."


def copies_bomb(size: int = MiB, copies: int = 4096) -> bytes:
    """A pickle with one string of bytes, of which it makes many arrays."""
    raw = b"B" + struct.pack("<I", size) + bytes(size) + b"q\0" + b"0"
    dtype = b"cnumpy\ndtype\n(S'u1'\nI00\nI01\ntRq\1" + b"0"
    kind = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\2" + b"0cnumpy\nndarray\nq\3" + b"0"
    )
    entry = b"h\2(h\3(I0\ntS'b'\ntR(I1\n(I%d\nth\1I00\nh\0tb" % size
    return b"\x80\x03" + raw + dtype + kind + b"(" + entry * copies + b"l."


def container_bomb(count: int = 2**25) -> bytes:
    """A pickle of a byte for each empty set that it makes (216 bytes of memory)."""
    return b"\x80\x04(" + b"\x8f" * count + b"l."


def laughs(depth: int = 30) -> bytes:
    """A pickle of lists that hold the list before twice: short, but not if printed."""
    parts = [b"\x80\x02]q\0"]
    for i in range(depth):
        parts.append(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]))
    return b"".join(parts) + b"."


# Memory, bounded from outside.


def run_within(code: str, memory: int, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python code in a process that may hold no more than memory bytes.

    The limit is on addresses beyond those that imports have taken: the code sees it
    only after its first line `limit()`.
    """
    program = _LIMIT.format(memory=memory) + code
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )


_LIMIT = """
def limit():
    import resource
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + {memory}
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""
