"""The sizes that a pickle asks for, compared with what it has, before it is read.

Python's reader takes a pickle at its word: a memo index makes a memo of twice as many
places, a length the bytes for it, and an instruction of one byte a set of 216. Here the
instructions are stepped over, without running any.
"""

from __future__ import annotations

import pickle
import pickletools
import struct

# Each makes an object of 216 bytes at most, those of its own length aside. The largest
# known pickle, a batch of CIFAR-10 with 10,000 labels and names, has some 30,000.
MOST_INSTRUCTIONS = 2**18

_CODES = {ord(code): opcode for code, opcode in pickletools.code2op.items()}
# How the length of an argument is written before it.
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
_MEMO = {"PUT": None, "BINPUT": "<B", "LONG_BINPUT": "<I"}
_LINES = {"GLOBAL": 2, "INST": 2}  # a module and a name


def check_sizes(content: bytes) -> None:
    """Raise unless a pickle asks for no more than it brings.

    Args:
      content: the pickle.

    Returns:
      None.

    Raises:
      UnpicklingError: more than `MOST_INSTRUCTIONS`, a memo index that no writer
        would come to, a length beyond the end, an unknown instruction.
    """
    at, count = 0, 0
    while at < len(content):
        opcode = _CODES.get(content[at])
        count += 1
        if opcode is None:
            raise pickle.UnpicklingError(f"byte {at} is no instruction")
        if count > MOST_INSTRUCTIONS:
            raise pickle.UnpicklingError(
                f"more than {MOST_INSTRUCTIONS} instructions, expected arrays"
            )
        end = _end(content, at + 1, opcode)
        if end > len(content):
            raise pickle.UnpicklingError(
                f"{opcode.name} at byte {at} asks for {end - at - 1} bytes, "
                f"{len(content) - at - 1} follow"
            )
        if opcode.name in _MEMO:
            index = _index(content[at + 1 : end], _MEMO[opcode.name])
            # Writers count up from 0 or 1, at most once for each instruction.
            if not 0 <= index <= count:
                raise pickle.UnpicklingError(
                    f"memo index {index} at byte {at}, expected at most {count}"
                )
        if opcode.name == "STOP":
            return
        at = end
    raise pickle.UnpicklingError("it is cut off before its end")


def _end(content: bytes, at: int, opcode: pickletools.OpcodeInfo) -> int:
    """Where the argument of an instruction ends that begins here."""
    if opcode.arg is None:
        return at
    if opcode.arg.n >= 0:
        return at + opcode.arg.n
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        for _ in range(_LINES.get(opcode.name, 1)):
            at = content.find(b"\n", at) + 1 or len(content) + 1
        return at
    code = _LENGTHS[opcode.arg.n]
    begin = at + struct.calcsize(code)
    if begin > len(content):
        return begin
    (length,) = struct.unpack_from(code, content, at)
    return begin + max(length, 0)


def _index(argument: bytes, code: str | None) -> int:
    if code is None:
        return int(argument)
    return struct.unpack(code, argument)[0]
