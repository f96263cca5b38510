"""Files of data sets that are damaged or say something else than they hold."""

import json
import re
import time

import numpy as np
import pytest

from r2et_jax.datasets import npz as npz_module
from r2et_jax.datasets import save_pairs_npz
from r2et_jax.datasets.images import load_images_npz
from r2et_jax.datasets.npz import read_arrays
from r2et_jax.datasets.pair_files import load_pairs_npz
from r2et_jax.datasets.pairing import fold_pairs
from r2et_jax.datasets.pairs import PairTable
from r2et_jax.datasets.registry import prepared
from r2et_jax.datasets.soundness import validate
from r2et_jax.datasets.tabular import load_npz
from tests.damage import (
    LZMA,
    STORED,
    Member,
    MiB,
    cut,
    flipped,
    npy,
    npy_header,
    npz,
    npz_bomb,
    run_within,
    zeroed,
    zip_bomb,
    zipped,
)


def tabular():
    rng = np.random.default_rng(0)
    return {
        "x": np.concatenate(
            [rng.normal(size=(12, 2)), np.eye(2)[np.arange(12) % 2]], 1
        ).astype(np.float32),
        "y": np.arange(12, dtype=np.int32) // 2 % 2,
        "train": np.arange(4),
        "valid": np.arange(4, 8),
        "test": np.arange(8, 12),
        "columns": np.array(list("abcd")),
        "groups": np.array([-1, -1, 0, 0]),
        "immutable": np.array([1]),
        "lower": np.array([-np.inf, -9, 0, 0], np.float32),
        "upper": np.array([np.inf, 9, 1, 1], np.float32),
        "meta": meta(format_version=2),
    }


def images():
    rng = np.random.default_rng(0)
    keep = ("y", "train", "valid", "test", "meta")
    return {
        "images": rng.integers(0, 256, (12, 2, 3)).astype(np.uint8),
        **{key: value for key, value in tabular().items() if key in keep},
    }


def pairs():
    rng = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int32) % 2
    return {
        "inputs": rng.uniform(-1, 1, (20, 3)).astype(np.float32),
        "labels": labels,
        "pairs": fold_pairs(labels, partners=1, seed=0),
        "shape": np.array([3, 3]),
        "regions": np.array(list("abc")),
        "lower": np.full(3, -1, np.float32),
        "upper": np.ones(3, np.float32),
        "truth": np.zeros(0, bool),
        "meta": meta(format_version=1, kind="graph", scale=1),
    }


def meta(**fields):
    return np.array(json.dumps({"name": "own", **fields}))


KINDS = {
    "tabular": (tabular, load_npz),
    "images": (images, load_images_npz),
    "pairs": (pairs, load_pairs_npz),
}


def refused(kind, content, folder):
    """The message with which a file of this content is refused."""
    path = folder / "own.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        KINDS[kind][1](path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"method": STORED}])
def test_sound_files_are_read(kind, options, tmp_path):
    make, load = KINDS[kind]
    (tmp_path / "own.npz").write_bytes(npz(make(), **options))
    assert load(tmp_path / "own.npz").name == "own"


# The archive.


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_gives_another_error(kind, tmp_path):
    """Bytes that no array depends on (dates, say) may change."""
    make, load = KINDS[kind]
    content = npz(make())
    path = tmp_path / "own.npz"
    count = 0
    for share in np.linspace(0, 1, 400, endpoint=False):
        for damaged in (flipped(content, share), flipped(content, share, 0x80)):
            path.write_bytes(damaged)
            try:
                load(path)
            except ValueError as error:
                assert str(error).startswith(str(path))
                count += 1
    assert count > 600
    for share in (0, 0.1, 0.5, 0.9, 0.99):
        said = refused(kind, cut(content, share), tmp_path)
        assert "is not a complete .npz file" in said
        refused(kind, zeroed(content, share), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encrypted": True}, "array 'x' is encrypted, expected it without"),
        ({"method": LZMA}, "array 'x' is packed by method 14, expected 0"),
        ({"method": 12}, "array 'x' is packed by method 12"),
        ({"checksum": 1}, "not a complete .npz file"),
    ],
)
def test_members_that_are_not_plain(options, message, tmp_path):
    assert message in refused("tabular", npz(tabular(), **options), tmp_path)


def test_arrays_that_are_there_twice(tmp_path):
    members = [Member(f"{key}.npy", npy(it)) for key, it in tabular().items()]
    content = zipped([*members, Member("y.npy", npy(1 - tabular()["y"]))])
    assert "array 'y' is there twice" in refused("tabular", content, tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (npy_header((10**6, 10**6)), "has 8000000000000 bytes by its header"),
        (npy_header((5,)) + bytes(8), r"\(shape \(5,\) of float64\), 8 by the archive"),
        (npy_header((1,)) + bytes(9), "8 bytes by its header .*, 9 by the archive"),
        (npy_header((-1,)), "has the shape"),
        (
            npy_header((1,), spaces=20_000),
            r"a header of 200\d\d bytes, expected at most",
        ),
        (npy_header((1,), "|O") + bytes(8), "holds object, expected numbers or text"),
        (npy_header((1,), "<M8[s]") + bytes(8), "holds datetime"),
        (npy_header((1,), "|V8") + bytes(8), "holds"),
        (
            npy_header((0, 2**40)),
            "its arrays have .* bytes, expected at most 268435456",
        ),
        (npy_header((2**40,), "<U0"), "its arrays have .* bytes, expected at most"),
        (b"\x93NUMPY\3\0" + bytes(9), "no array in NumPy's format 1.0 or 2.0"),
        (b"text", "no array in NumPy's format"),
        (b"", "no array in NumPy's format"),
        (b"\x93NUMPY\1\0\5\0{'x'}", "has no header of NumPy's"),
    ],
)
def test_headers_that_say_something_else(array, message, tmp_path):
    (tmp_path / "own.npz").write_bytes(npz({"x": array}))
    with pytest.raises(ValueError, match=f"own.npz: .*{message}"):
        read_arrays(tmp_path / "own.npz", ("x",))


def test_what_is_written_is_read_however_well_it_packs(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_module, "MOST_UNPACKED", 1000)
    monkeypatch.setattr(npz_module, "MOST_RATIO", 1)
    arrays = pairs()
    kind = json.loads(str(arrays.pop("meta")))
    table = PairTable(
        **{**arrays, "shape": (3, 3), "regions": tuple("abc"), "truth": None},
        name="own",
        kind="graph",
        meta=kind,
    )
    save_pairs_npz(tmp_path / "own.npz", table)
    assert load_pairs_npz(tmp_path / "own.npz").name == "own"


# Bombs.

READ = """
import sys
from pathlib import Path
from r2et_jax.datasets.npz import read_arrays
limit()
try:
    read_arrays(Path(sys.argv[1]), ("x",))
except ValueError as error:
    print(error)
"""


def long_header():
    """A header of 1 GiB, by what it says and as it unpacks."""
    head = b"\x93NUMPY\2\0" + (2**30 - 12).to_bytes(4, "little")
    return zip_bomb("x.npy", 1024, head=head)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: npz_bomb("x", 1024), "its arrays have 1073741824 bytes, expected at"),
        (long_header, "a header of 1073741812 bytes, expected at most 10000"),
    ],
)
def test_bombs_stay_packed(content, message, tmp_path):
    """1 GiB from 1 MB, in a process that may take a quarter of it."""
    path = tmp_path / "own.npz"
    path.write_bytes(content())
    result = run_within(READ, 256 * MiB, str(path))
    assert result.returncode == 0, result.stderr
    assert message in result.stdout


# What is in the arrays.


@pytest.mark.parametrize(
    ("kind", "field", "change", "message"),
    [
        # Labels that a cast would change.
        ("tabular", "y", lambda y: y + 0.5, "y must hold integers, got float64"),
        ("tabular", "y", lambda y: y + np.int64(2**32), "y has the value 4294967296"),
        ("tabular", "y", lambda y: y + 0j, "y must hold integers, got complex"),
        ("tabular", "y", lambda y: y.astype(str), "y must hold integers, got <U"),
        ("tabular", "y", lambda y: y.astype(bool), "y must hold integers, got bool"),
        ("images", "y", lambda y: y + 0.5, "y must hold integers, got float64"),
        ("images", "y", lambda y: y + np.int64(2**32), "y has the value 4294967296"),
        ("pairs", "labels", lambda y: y + 0.5, "labels must hold integers"),
        (
            "pairs",
            "labels",
            lambda y: y + np.int64(2**32),
            "labels has the value 4294967296",
        ),
        ("pairs", "labels", lambda y: y * 1000, "labels has the value 1000"),
        # Numbers that it would change as well.
        ("tabular", "x", lambda x: x + 1j, "x must hold real numbers, got complex"),
        ("tabular", "x", lambda x: x.astype(str), "x must hold real numbers, got <U"),
        (
            "tabular",
            "x",
            lambda x: x * np.float64(1e39),
            "x at \\(0, 2\\) is 1e\\+39, expected",
        ),
        (
            "tabular",
            "lower",
            lambda x: np.zeros(4, complex),
            "lower must hold real numbers",
        ),
        (
            "tabular",
            "upper",
            lambda x: np.float64([1, 9e39, 1, 1]),
            "upper at 1 is 9e\\+39",
        ),
        (
            "pairs",
            "inputs",
            lambda x: x * np.float64(1e39),
            "inputs at \\(0, 1\\) is -4.6",
        ),
        ("pairs", "inputs", lambda x: x + 1j, "inputs must hold real numbers"),
        ("images", "images", lambda x: x / 1.0, "images must be bytes of .*float64"),
        # Numbers of groups, rows, columns, folds.
        (
            "tabular",
            "groups",
            lambda g: g + 2**31 - 1,
            "groups has the value 2147483646",
        ),
        ("tabular", "groups", lambda g: g - 1, "groups has the value -2, expected"),
        ("tabular", "groups", lambda g: g + 0.5, "groups must hold integers"),
        ("tabular", "immutable", lambda i: i + 0.9, "immutable must hold integers"),
        ("tabular", "immutable", lambda i: i - 2, "immutable has the value -1"),
        (
            "tabular",
            "immutable",
            lambda i: i == 1,
            "immutable must hold integers, got b",
        ),
        ("tabular", "train", lambda r: r / 1.0, "train must hold row numbers"),
        ("images", "test", lambda r: r[:, None], "test must hold row numbers"),
        ("pairs", "pairs", lambda p: p - [0, 1, 0, 0], "pairs \\(splits\\) has the va"),
        ("pairs", "pairs", lambda p: p + [0, 3, 0, 0], "pairs \\(splits\\) has the va"),
        ("pairs", "pairs", lambda p: p - [1, 0, 0, 0], "pairs \\(folds\\) has the val"),
        ("pairs", "pairs", lambda p: p + [2**31, 0, 0, 0], "\\(folds\\) has the value"),
        ("pairs", "pairs", lambda p: p + [0, 0, 0, 2**32], "\\(inputs\\) has the val"),
        ("pairs", "pairs", lambda p: p + 0.5, "pairs \\(folds\\) must hold integers"),
        ("pairs", "shape", lambda s: s + 0.5, "shape must hold integers"),
        ("pairs", "shape", lambda s: s * 0 + 2**33, "shape has the value 8589934592"),
        # Ranks and lengths.
        ("tabular", "x", lambda x: x[:, 0], "x must have shape \\[m, n\\], got \\(12,"),
        ("tabular", "y", lambda y: y[:-1], "y must have shape \\[12\\], got \\(11,\\)"),
        (
            "tabular",
            "y",
            lambda y: np.eye(2, dtype=int)[y],
            "y must have shape \\[12\\]",
        ),
        ("tabular", "columns", lambda c: c[0], "columns must have shape \\[4\\], got"),
        ("tabular", "columns", lambda c: c[:3], "columns must have shape \\[4\\]"),
        (
            "tabular",
            "columns",
            lambda c: np.arange(4),
            "columns must hold texts in one",
        ),
        ("tabular", "groups", lambda g: g[:3], "groups must have shape \\[4\\]"),
        ("tabular", "immutable", lambda i: i[0], "immutable must have shape"),
        ("tabular", "lower", lambda b: b[0], "lower must have shape \\[4\\]"),
        ("images", "images", lambda x: x[0], "images must be bytes of shape"),
        ("images", "images", lambda x: x[:0], "images must be bytes of shape"),
        ("images", "y", lambda y: y[:-1], "y must have shape \\[12\\]"),
        ("pairs", "inputs", lambda x: x[0], "inputs must have shape \\[u, n\\]"),
        ("pairs", "labels", lambda y: y[:-1], "labels must have shape \\[20\\]"),
        ("pairs", "shape", lambda s: s[0], "shape must have shape \\[axes\\]"),
        ("pairs", "regions", lambda r: r[0], "regions must have shape \\[v\\]"),
        ("pairs", "truth", lambda t: np.ones(2, bool), "truth must have shape \\[3\\]"),
        ("pairs", "upper", lambda b: b[:2], "upper must have shape \\[3\\]"),
        # What meta says.
        ("tabular", "meta", lambda m: np.array("[1, 2]"), "a JSON object, got a list"),
        ("tabular", "meta", lambda m: np.array("7"), "a JSON object, got a int"),
        ("tabular", "meta", lambda m: np.array("{"), "meta is no JSON string"),
        ("tabular", "meta", lambda m: np.array("[" * 10**5), "meta is no JSON string"),
        (
            "tabular",
            "meta",
            lambda m: np.arange(3),
            "meta must be one JSON string, got",
        ),
        ("tabular", "meta", lambda m: meta(format_version=2, name=7), "the name 7"),
        ("images", "meta", lambda m: meta(format_version=2, name=""), "the name ''"),
        ("pairs", "meta", lambda m: meta(format_version=1, kind="graph"), "scale None"),
        (
            "pairs",
            "meta",
            lambda m: meta(format_version=1, kind=["graph"], scale=1),
            "kind \\['graph'\\], expected one of",
        ),
        (
            "pairs",
            "meta",
            lambda m: meta(format_version=1, kind="graph", scale=0),
            "the scale 0, expected one of \\(1, 255\\)",
        ),
    ],
)
def test_the_file_and_the_field_are_named(kind, field, change, message, tmp_path):
    arrays = KINDS[kind][0]()
    arrays[field] = change(arrays[field])
    begin = time.monotonic()
    said = refused(kind, npz(arrays), tmp_path)
    assert re.search(f"own.npz: .*{message}", said), said
    assert time.monotonic() - begin < 2


def test_damaged_files_are_no_prepared_ones(tmp_path):
    content = npz(pairs())
    (tmp_path / "good.npz").write_bytes(content)
    (tmp_path / "cut.npz").write_bytes(cut(content))
    end = content.rindex(b"PK\5\6")
    (tmp_path / "odd.npz").write_bytes(content[:end] + b"PK\5\6" + bytes([255] * 18))
    (tmp_path / "directory.npz").write_bytes(content.replace(b"PK\1\2", b"PK\1\3", 1))
    assert prepared(tmp_path) == ("good",)


def test_infinite_inputs_of_pairs_are_refused_in_an_infinite_box(tmp_path):
    arrays = pairs()
    (tmp_path / "own.npz").write_bytes(npz(arrays))
    data = load_pairs_npz(tmp_path / "own.npz")
    inputs = np.where(data.train.inputs == data.train.inputs[2, 1], np.inf, 0)
    inputs = (inputs + data.train.inputs).astype(np.float32)
    broken = data._replace(
        **{
            split: getattr(data, split)._replace(inputs=inputs)
            for split in ("train", "valid", "test")
        },
        upper=np.full(3, np.inf, np.float32),
    )
    with pytest.raises(
        ValueError, match="input 2, entry 1: got inf, expected a finite"
    ):
        validate(broken)


@pytest.mark.parametrize(
    "labels", [np.arange(9) % 2 / 1.0, np.zeros(0, int), np.eye(9, dtype=int)]
)
def test_pairs_of_what_is_no_class_are_refused(labels):
    with pytest.raises(
        ValueError, match=r"labels must be integers of shape \[u\], got"
    ):
        fold_pairs(labels, partners=1, seed=0)
