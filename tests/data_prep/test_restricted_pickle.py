"""Pickles of strangers: arrays are read, anything else is refused before it runs."""

import fractions
import os
import pickle
import subprocess
import tracemalloc

import numpy as np
import pytest

from data_prep import folds, restricted_pickle
from tests.damage import (
    MiB,
    container_bomb,
    copies_bomb,
    laughs,
    length_bomb,
    memo_bomb,
)


def example():
    return {
        "X": np.arange(6.0).reshape(2, 3),
        "y": np.array([1, -1]),
        "bytes": np.frombuffer(bytes(range(250, 256)), np.uint8),
        "strided": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "scalar": np.float32(0.5),
        "labels": [3, 8],
        "name": "a fold",
    }


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value)
        assert type(got[key]) is type(value)
        assert getattr(got[key], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_read_at_every_protocol(protocol):
    value = example()
    assert_same(restricted_pickle.loads(pickle.dumps(value, protocol), "own"), value)


def test_arrays_of_python_2_are_read(python2_pickle):
    value = example()
    content = python2_pickle(value)
    assert b"_codecs" not in content
    assert_same(restricted_pickle.loads(content, "own"), value)


@pytest.mark.parametrize("old", ["multiarray", "_multiarray_umath"])
def test_arrays_of_other_numpy_versions_are_read(old):
    content = pickle.dumps(np.arange(3.0), 0)
    home = np.empty(0).__reduce__()[0].__module__
    for core in ("numpy.core", "numpy._core"):
        moved = content.replace(home.encode(), f"{core}.{old}".encode())
        np.testing.assert_array_equal(
            restricted_pickle.loads(moved, "own"), [0.0, 1.0, 2.0]
        )


@pytest.mark.parametrize("protocol", range(6))
def test_command_is_refused_and_not_run(protocol, calls, tmp_path):
    witness = tmp_path / "executed"
    content = pickle.dumps({"X": calls(os.system, f"touch {witness}")}, protocol)
    with pytest.raises(ValueError, match="own.pkl is refused.*system, expected NumPy"):
        restricted_pickle.loads(content, "own.pkl")
    assert not witness.exists()
    pickle.loads(content)  # the payload is live, only the reader stopped it
    assert witness.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1 + 1",)),
        (subprocess.check_output, (["true"],)),
        (getattr, (np, "load")),
        (np.load, ("file",)),
        (np.fromfile, ("file",)),
        (range, (3,)),
    ],
)
def test_other_functions_are_refused(function, arguments, calls):
    # A module is no argument that can be pickled; its name stands for it.
    arguments = tuple(a.__name__ if a is np else a for a in arguments)
    content = pickle.dumps([calls(function, *arguments)])
    with pytest.raises(ValueError, match=f"own is refused.*{function.__name__}"):
        restricted_pickle.loads(content, "own")


@pytest.mark.parametrize(
    "value", [fractions.Fraction(1, 2), np.ma.masked_array([1.0]), np.datetime64]
)
def test_other_classes_are_refused(value):
    with pytest.raises(ValueError, match="own is refused as a pickle: it asks for"):
        restricted_pickle.loads(pickle.dumps([value]), "own")


def test_names_inside_admitted_modules_are_refused():
    # GLOBAL opcodes written by hand: attributes of what is admitted are no way out.
    for module, name in [
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy", "load"),
        ("_codecs", "lookup"),
        ("builtins", "exec"),
    ]:
        content = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        content += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
        with pytest.raises(ValueError, match=f"asks for {module}.{name}"):
            restricted_pickle.loads(content, "own")


def test_codecs_but_latin1_are_refused():
    content = b"c_codecs\nencode\n(Vabc\nVrot13\ntR."
    with pytest.raises(ValueError, match="encoding 'rot13', expected 'latin1'"):
        restricted_pickle.loads(content, "own")


def test_arrays_of_objects_and_bare_functions_are_refused():
    for protocol in range(6):
        objects = pickle.dumps({"X": np.array([{"a": 1}, None], object)}, protocol)
        with pytest.raises(ValueError, match="own is refused.*dtype 'O8'"):
            restricted_pickle.loads(objects, "own")
    for value in (np.ndarray, np.dtype("f8")):
        with pytest.raises(ValueError, match="own is refused.*it holds a"):
            restricted_pickle.loads(pickle.dumps([value]), "own")


class Made:
    """A pickle whose every part is chosen: a function, its arguments, a state."""

    def __init__(self, function, arguments, state=None):
        self.whole = (function, arguments, state)

    def __reduce__(self):
        return self.whole


RECONSTRUCT = np.empty(0).__reduce__()[0]
PLAIN = (3, "<", None, None, None, -1, -1, 0)


def made_array(dtype, shape, raw):
    return Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, raw))


def made_dtype(code, state=PLAIN):
    return Made(np.dtype, (code, False, True), state)


def test_an_array_made_by_hand_is_read():
    """What the refused ones below differ from."""
    raw = np.float64([1, 2]).tobytes()
    made = made_array(made_dtype("f8"), (2,), raw)
    got = restricted_pickle.loads(pickle.dumps(made), "own")
    np.testing.assert_array_equal(got, [1.0, 2.0])
    assert type(got) is np.ndarray and got.flags.writeable


@pytest.mark.parametrize(
    ("made", "message"),
    [
        # Fields that say they hold no objects: NumPy takes bytes for pointers.
        (made_dtype([("a", "O")], (3, "|", None, ("a",), {}, 8, 1, 0)), "list"),
        (made_dtype("V8", (3, "|", None, ("a",), {"a": 0}, 8, 1, 0)), "'V8'"),
        # Fields outside of the item.
        (made_dtype("f8", (3, "<", None, ("a",), {"a": 9**9}, 8, 1, 0)), "fields"),
        (made_dtype("f8", (3, "<", ("f8", (9,)), None, None, 8, 1, 0)), "fields"),
        (made_dtype("O"), "'O'"),
        (made_dtype("M8"), "'M8'"),
        (made_dtype("f8", (3, "?", None, None, None, -1, -1, 0)), "byte order"),
        ("f8", "without a dtype"),
    ],
)
def test_dtypes_that_are_not_plain_are_refused(made, message):
    content = pickle.dumps(made_array(made, (1,), bytes(8)))
    with pytest.raises(ValueError, match=f"own is refused.*{message}"):
        restricted_pickle.loads(content, "own")


@pytest.mark.parametrize(
    ("shape", "raw", "message"),
    [
        ((3,), bytes(8), "8 bytes for an array of shape"),
        ((2**62, 4), b"", "0 bytes for an array"),
        ((-1,), bytes(8), "the shape"),
        ((1.0,), bytes(8), "the shape"),
        ((1,), [None], "array of objects"),
    ],
)
def test_arrays_larger_than_their_bytes_are_refused(shape, raw, message):
    content = pickle.dumps(made_array(made_dtype("f8"), shape, raw))
    with pytest.raises(ValueError, match=f"own is refused.*{message}"):
        restricted_pickle.loads(content, "own")


def test_a_state_given_later_changes_no_array():
    """A dtype, told to be wider after an array of it was made."""

    def state(size):
        return b"(I3\nS'|'\nNNNI%d\nI1\nI0\ntb" % size

    content = b"(cnumpy\ndtype\n(S'S2'\nI00\nI01\ntRp0\n" + state(2) + b"0"
    content += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\n"
    content += b"tR(I1\n(I2\ntg0\nI00\nS'abcd'\ntb"
    content += b"g0\n" + state(900) + b"0l."
    (got,) = restricted_pickle.loads(content, "own")
    assert got.dtype == "S2" and got.tolist() == [b"ab", b"cd"]


def test_tuples_that_hold_themselves_are_refused():
    inner = []
    value = (inner,)
    inner.append(value)
    with pytest.raises(ValueError, match="tuple that holds itself"):
        restricted_pickle.loads(pickle.dumps(value), "own")


def test_text_of_no_length_is_refused():
    content = pickle.dumps(made_array(made_dtype("S0"), (10**12,), b""))
    with pytest.raises(ValueError, match="0 bytes for an array"):
        restricted_pickle.loads(content, "own")


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1])[:-1]])
def test_what_is_no_pickle_is_refused(content):
    with pytest.raises(ValueError, match="own is refused as a pickle"):
        restricted_pickle.loads(content, "own")


def test_containers_that_hold_themselves_are_read():
    value = [1]
    value.append(value)
    got = restricted_pickle.loads(pickle.dumps(value), "own")
    assert got[1] is got


# Pickles that ask for more memory than they are long.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (memo_bomb(), "memo index 134217728 at byte 4, expected at most 3"),
        (b"\x80\x02K\x01p134217728\n.", "memo index 134217728"),
        (length_bomb(), "BINBYTES8 at byte 2 asks for 8589934600 bytes, 12 follow"),
        (copies_bomb(), "arrays that have more bytes than the pickle"),
    ],
)
def test_bombs_take_no_memory(content, message):
    """At most as much as some copies of the pickle, which has 2 MiB or less."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"own is refused as a pickle: {message}"):
            restricted_pickle.loads(content, "own")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(content) <= 2 * MiB + 9 and peak < 8 * MiB


def test_more_containers_than_any_known_pickle_has_are_refused():
    """Each takes 216 bytes for its one."""
    with pytest.raises(ValueError, match="own is refused.*more than 262144 instruct"):
        restricted_pickle.loads(container_bomb(2**18), "own")


def test_text_made_bytes_again_and_again_is_refused():
    text = b"X" + (2**16).to_bytes(4, "little") + b"a" * 2**16 + b"q\0" + b"0"
    once = b"c_codecs\nencode\n(h\0Vlatin1\ntR"
    content = b"\x80\x02" + text + b"(" + once * 3 + b"l."
    with pytest.raises(ValueError, match="more bytes than the pickle"):
        restricted_pickle.loads(content, "own")


def test_messages_stay_short():
    """Where a value that is not wanted has 2^40 parts."""
    content = pickle.dumps(Made(np.dtype, ("f8" * 10**5, False, True)))
    with pytest.raises(ValueError) as error:
        restricted_pickle.loads(content, "own")
    assert len(str(error.value)) < 200
    nested = laughs(40)
    with pytest.raises(ValueError, match="expected a dict with the keys") as error:
        folds.read({"own": nested})
    assert len(str(error.value)) < 200


def test_memo_and_lengths_of_every_writer_are_read():
    """Protocols 0 and 1 write memo indices and text as lines."""
    value = [("a", i) for i in range(300)] + [b"\n" * 300, "\n" * 300, 10**30, 0.5]
    for protocol in range(6):
        assert restricted_pickle.loads(pickle.dumps(value, protocol), "own") == value


@pytest.mark.parametrize("protocol", range(6))
def test_cut_off_anywhere(protocol):
    content = pickle.dumps({"x": np.arange(3.0), "y": [300, "text"]}, protocol)
    for end in range(len(content)):
        with pytest.raises(ValueError, match="own is refused as a pickle"):
            restricted_pickle.loads(content[:end], "own")
