"""IDX files, the format of MNIST: a magic number, the sizes of the axes, then bytes."""

from __future__ import annotations

import math
import struct

import numpy as np

_UNSIGNED_BYTE = 8
_MOST_AXES = 4


def read(content: bytes, file: str) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Args:
      content: of the file, unpacked.
      file: its name, for messages.

    Returns:
      The array (uint8).

    Raises:
      ValueError: no IDX file of unsigned bytes, or one that is cut off.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise ValueError(
            f"{file} is no IDX file of unsigned bytes: it begins with "
            f"{content[:4].hex() or 'nothing'}, expected 000008 and the number of axes"
        )
    axes = content[3]
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(
            f"{file}: got {axes} axes in the header, expected 1 to {_MOST_AXES}"
        )
    begin = 4 + 4 * axes
    if len(content) < begin:
        raise ValueError(f"{file} is cut off: {len(content)} bytes, {begin} of header")
    shape = struct.unpack(f">{axes}I", content[4:begin])
    if len(content) - begin != math.prod(shape):
        raise ValueError(
            f"{file}: expected {math.prod(shape)} bytes for the shape {shape}, got "
            f"{len(content) - begin}"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
