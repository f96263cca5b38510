"""The made files are what they say: sound but for the one thing that is wrong."""

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from tests import damage
from tests.damage import MiB


def test_bombs_are_sound_and_small():
    packed = damage.gzip_bomb(8)
    assert len(packed) < 8 * MiB / 900
    assert gzip.decompress(packed) == bytes(8 * MiB)
    packed = damage.zip_bomb("a/b.csv", 8, head=b"x\n")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert archive.read("a/b.csv") == b"x\n" + bytes(8 * MiB)
    with np.load(io.BytesIO(damage.npz_bomb("x", 8))) as file:
        assert file["x"].shape == (8 * MiB,) and not file["x"].any()


def test_a_digit_becomes_another_one():
    assert damage.other_digit(b"a1b2c", 0.5) == b"a1b3c"
    assert damage.other_digit(b"a1b2c", 0.9) == b"a1b2c"


def test_archives_hold_what_they_are_given():
    members = [damage.Member(name, b"1") for name in ("/a", "../a", "a", "a")]
    members.append(damage.Member("b", b"2", method=damage.STORED))
    with zipfile.ZipFile(io.BytesIO(damage.zipped(members))) as archive:
        assert archive.namelist() == ["/a", "../a", "a", "a", "b"]
        assert archive.testzip() is None
    secret = damage.zipped([damage.Member("a", b"1", encrypted=True)])
    with zipfile.ZipFile(io.BytesIO(secret)) as archive:
        with pytest.raises(RuntimeError, match="password"):
            archive.read("a")
    packed = damage.tar_gz([("../a", b"1"), ("b", b"2")])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["../a", "b"]


def test_npz_holds_arrays_and_the_bytes_of_arrays():
    arrays = {"x": np.arange(3), "y": damage.npy_header((2,), "|u1") + b"\1\2"}
    with np.load(io.BytesIO(damage.npz(arrays))) as file:
        assert file["x"].tolist() == [0, 1, 2] and file["y"].tolist() == [1, 2]


def test_pickles_are_read_where_memory_allows():
    assert pickle.loads(damage.memo_bomb(8)) == 1
    arrays = pickle.loads(damage.copies_bomb(4, 3))
    assert [a.tolist() for a in arrays] == [[0] * 4] * 3
    assert pickle.loads(damage.container_bomb(3)) == [set()] * 3
    assert pickle.loads(damage.laughs(2)) == [[[], []]] * 2


def test_memory_is_limited():
    code = "limit()\nprint(len(bytearray({})))"
    within = damage.run_within(code.format(MiB), 64 * MiB)
    assert (within.returncode, within.stdout) == (0, f"{MiB}\n"), within.stderr
    beyond = damage.run_within(code.format(128 * MiB), 64 * MiB)
    assert beyond.returncode == 1 and "MemoryError" in beyond.stderr
