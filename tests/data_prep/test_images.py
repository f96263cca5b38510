"""MNIST pairs and CIFAR-10 images, from small files of the same layout and real."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_prep import cifar, idx, images
from data_prep.sources import SOURCES, fetch
from r2et_jax.datasets import load
from r2et_jax.datasets.images import load_images_npz
from r2et_jax.datasets.pair_files import load_pairs_npz
from r2et_jax.datasets.soundness import fingerprint
from tests.damage import idx as idx_bytes

REPOSITORY = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")


def small_mnist(folder, seed=0):
    """300 training and 200 test images of 4 × 5 pixels, gzipped; and the sources."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, m in (("train", 300), ("t10k", 200)):
        y = rng.permutation(np.arange(m) % 10)
        x = rng.integers(0, 256, (m, 4, 5))
        x[:, 0, 0] = y  # each image tells its digit
        arrays[f"{part}-images-idx3-ubyte"] = x
        arrays[f"{part}-labels-idx1-ubyte"] = y
    sources = []
    for source in SOURCES["mnist"]:
        content = idx_bytes(arrays[source.member])
        (folder / source.file).write_bytes(gzip.compress(content))
        digest = hashlib.sha256(content).hexdigest()
        sources.append(source._replace(sha256=digest))
    return arrays, {"mnist": tuple(sources)}


def prepare_small(folder, out="out", **options):
    arrays, sources = small_mnist(folder)
    options = {"counts": (100, 40, 20), "sources": sources, **options}
    path = images.prepare("mnist", raw_dir=folder, data_dir=folder / out, **options)
    return arrays, path


# IDX.


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_idx_round_trip(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    got = idx.read(idx_bytes(array), "own")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (
            b"\x00\x00\x0d\x01\x00\x00\x00\x01",
            "of unsigned bytes.*00000d01",
        ),
        (b"PNG.", "no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "cut off: 6 bytes, 16 of header"),
        (idx_bytes(np.zeros(5))[:-1], r"expected 5 bytes for the shape \(5,\), got 4"),
        (idx_bytes(np.zeros(5)) + b"x", "got 6"),
        (idx_bytes(np.zeros(1), shape=(2**32 - 1,) * 3), "got 1$"),
        (idx_bytes(np.zeros(1), shape=(1,) * 255), "got 255 axes in the header"),
        (idx_bytes(np.zeros(1), shape=()), "got 0 axes in the header, expected 1 to 4"),
    ],
)
def test_idx_refuses(content, message):
    with pytest.raises(ValueError, match=f"own.*{message}"):
        idx.read(content, "own")


# Pairs of 3 and 8.


def test_pairs_hold_the_pixels_of_the_right_digits(tmp_path):
    arrays, path = prepare_small(tmp_path)
    data = load_pairs_npz(path)
    assert data.name == "mnist" and data.kind == "image" and data.shape == (4, 5)
    assert [getattr(data, s).y.size for s in SPLITS] == [100, 40, 20]
    raw = {
        part: {
            x.tobytes(): int(y)
            for x, y in zip(
                arrays[f"{part}-images-idx3-ubyte"].astype(np.uint8),
                arrays[f"{part}-labels-idx1-ubyte"],
                strict=True,
            )
        }
        for part in ("train", "t10k")
    }
    for name in SPLITS:
        split = getattr(data, name)
        known = raw["train" if name == "train" else "t10k"]
        digits = [
            [known[np.rint(row * 255).astype(np.uint8).tobytes()] for row in inputs]
            for inputs in (split.x, split.partner)
        ]
        assert set(digits[0]) == set(digits[1]) == {3, 8}
        same = np.equal(*digits)
        np.testing.assert_array_equal(split.y, same)
        np.testing.assert_array_equal(split.label_x, np.equal(digits[0], 8))
        assert same.sum() * 2 == same.size
    assert not {row.tobytes() for s in ("valid",) for row in getattr(data, s).x} & {
        row.tobytes() for row in np.concatenate([data.test.x, data.test.partner])
    }


def test_all_digits_are_single_images(tmp_path):
    arrays, sources = small_mnist(tmp_path)
    path = images.prepare(
        "mnist_digits", raw_dir=tmp_path, data_dir=tmp_path / "out", sources=sources
    )
    data = load("mnist_digits", data_dir=path.parent)
    assert [getattr(data, s).y.size for s in SPLITS] == [270, 30, 200]
    assert data.meta["shape"] == [4, 5] and data.meta["classes"][9] == "9"
    for name in SPLITS:
        split = getattr(data, name)
        told = np.rint(split.x[:, 0] * 255).astype(int)
        np.testing.assert_array_equal(split.y, told)
    test = arrays["t10k-images-idx3-ubyte"].reshape(200, -1) / np.float32(255)
    np.testing.assert_array_equal(data.test.x, test.astype(np.float32))
    assert np.bincount(data.valid.y).tolist() == [3] * 10
    said = images.summary("mnist_digits", path)
    assert said.startswith("mnist_digits: 20 pixels; train 270 images, valid 30 images")


def test_pairs_are_seeded(tmp_path):
    first = fingerprint(load_pairs_npz(prepare_small(tmp_path)[1]))
    again = fingerprint(load_pairs_npz(prepare_small(tmp_path, "again")[1]))
    other = fingerprint(load_pairs_npz(prepare_small(tmp_path, "other", seed=1)[1]))
    assert first == again != other


def test_meta_names_source_and_checksums(tmp_path):
    _, path = prepare_small(tmp_path)
    meta = load_pairs_npz(path).meta
    assert meta["classes"] == ["3", "8"]
    assert meta["licence"] == "CC BY-SA 3.0"
    content = gzip.decompress((tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    assert meta["sha256"]["t10k-labels-idx1-ubyte"] == digest


def test_unpacked_files_serve_as_well(tmp_path):
    _, sources = small_mnist(tmp_path)
    for source in sources["mnist"]:
        packed = tmp_path / source.file
        (tmp_path / source.member).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    path = images.prepare(
        "mnist", raw_dir=tmp_path, data_dir=tmp_path, counts=(20, 4, 4), sources=sources
    )
    assert load_pairs_npz(path).train.y.size == 20
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"other")
    with pytest.raises(ValueError, match="wrong SHA-256 of .*train-labels-idx1-ubyte"):
        fetch(sources["mnist"][1], raw_dir=tmp_path, cache_dir=tmp_path)


def test_damaged_archives_are_named(tmp_path):
    _, sources = small_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match="train-images-idx3-ubyte.gz is not a complete"
    ):
        images.prepare("mnist", raw_dir=tmp_path, data_dir=tmp_path, sources=sources)


def test_too_few_images_for_the_pairs(tmp_path):
    with pytest.raises(ValueError, match="too few inputs"):
        prepare_small(tmp_path, counts=(100, 1000, 20))


def test_images_and_labels_must_agree():
    contents = {
        f"{part}-{kind}": idx_bytes(array)
        for part in ("train", "t10k")
        for kind, array in (
            ("images-idx3-ubyte", np.zeros((4, 2, 2))),
            ("labels-idx1-ubyte", np.full(5, 3)),
        )
    }
    with pytest.raises(ValueError, match=r"got \(4, 2, 2\) and \(5,\)"):
        images.digit_pairs(contents, {}, seed=0, counts=(2, 2, 2))


@pytest.fixture(scope="module")
def real(raw_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    images.prepare("mnist", raw_dir=raw_dir, data_dir=folder)
    return load("mnist", data_dir=folder)


def test_real_mnist(real, raw_dir):
    assert [getattr(real, s).y.size for s in SPLITS] == [10_000, 2_000, 2_000]
    assert real.train.x.shape == (10_000, 784)
    for name in SPLITS:
        split = getattr(real, name)
        cells = np.zeros((2, 2), int)
        np.add.at(cells, (split.label_x, split.label_partner), 1)
        np.testing.assert_array_equal(cells, split.y.size // 4)
    assert real.train.inputs.min() == 0 and real.train.inputs.max() == 1
    background = (real.train.inputs == 0).mean()
    assert 0.75 < background < 0.85
    test_bytes = gzip.decompress((raw_dir / "t10k-images-idx3-ubyte.gz").read_bytes())
    official = {test_bytes[16 + 784 * i : 800 + 784 * i] for i in range(10_000)}
    sets = []
    for name in SPLITS:
        split = getattr(real, name)
        rows = np.unique(np.concatenate([split.first, split.second]))
        pixels = np.rint(split.inputs[rows] * 255).astype(np.uint8)
        sets.append({row.tobytes() for row in pixels})
    assert sets[1] <= official and sets[2] <= official
    assert not sets[0] & official
    assert not sets[1] & sets[2]


# CIFAR-10.


def small_cifar(folder, dumps, *, change=None):
    """The archive's layout with 60 images a batch; returns pixels, labels, sources."""
    rng = np.random.default_rng(0)
    members, pixels, labels = {}, [], []
    for name in (*cifar.TRAINING, cifar.TEST):
        data = rng.integers(0, 256, (60, 3072)).astype(np.uint8)
        y = rng.permutation(np.arange(60) % 10).tolist()
        pixels.append(data)
        labels.append(y)
        batch = {"batch_label": name, "labels": y, "data": data, "filenames": ["a"]}
        members[name] = batch
    names = [f"class {i}" for i in range(10)]
    members["batches.meta"] = {"label_names": names, "num_vis": 3072}
    if change is not None:
        change(members)
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in {**members, "readme.html": "text"}.items():
            content = value if isinstance(value, bytes) else dumps(value)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (source,) = SOURCES["cifar10"]
    sources = {"cifar10": (source._replace(sha256=digest),)}
    return np.concatenate(pixels), np.concatenate(labels), sources


def prepare_cifar(folder, dumps, **options):
    pixels, labels, sources = small_cifar(folder, dumps, **options)
    path = images.prepare(
        "cifar10", raw_dir=folder, data_dir=folder / "out", sources=sources
    )
    return pixels, labels, path


def test_cifar_images_keep_rows_columns_and_colours(python2_pickle, tmp_path):
    pixels, labels, path = prepare_cifar(tmp_path, python2_pickle)
    data = load("cifar10", data_dir=path.parent)
    assert [getattr(data, s).y.size for s in SPLITS] == [270, 30, 60]
    np.testing.assert_array_equal(data.test.y, labels[300:])
    columns = {name: i for i, name in enumerate(data.columns)}
    assert len(columns) == 3072 and data.meta["shape"] == [32, 32, 3]
    for row, column, colour in ((0, 0, 0), (5, 31, 1), (31, 2, 2)):
        expected = pixels[300:, colour * 1024 + row * 32 + column] / np.float32(255)
        got = data.test.x[:, columns[f"pixel_{row}_{column}_{colour}"]]
        np.testing.assert_array_equal(got, expected)
    assert np.bincount(data.valid.y).tolist() == [3] * 10
    assert data.meta["classes"][9] == "class 9"
    assert fingerprint(load_images_npz(path)) == fingerprint(data)


def test_no_cifar_image_stands_in_two_splits(python2_pickle, tmp_path):
    def copy(members):
        test, *batches = (members[n] for n in (cifar.TEST, *cifar.TRAINING))
        batches[1]["data"][7] = test["data"][5]
        batches[2]["data"][:40] = batches[0]["data"][:40]
        batches[2]["labels"][:40] = batches[0]["labels"][:40]

    _, labels, path = prepare_cifar(tmp_path, python2_pickle, change=copy)
    data = load("cifar10", data_dir=path.parent)
    np.testing.assert_array_equal(data.test.y, labels[300:])
    sets = [{row.tobytes() for row in getattr(data, s).x} for s in SPLITS]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    copies = data.meta["copies"]
    assert copies["left_out"] == 1 and copies["joined"] == 30 - data.valid.y.size > 0
    assert data.train.y.size + data.valid.y.size == 299
    assert "1 training images that equal a test image" in images.summary(
        "cifar10", path
    )


def without(name):
    return lambda members: members.pop(name)


def with_batch(**changes):
    return lambda members: members["data_batch_2"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data_batch_4"), "data_batch_4 is missing"),
        (without("batches.meta"), "batches.meta is missing"),
        (with_batch(data=np.zeros((60, 9), np.uint8)), r"\[m, 3072\], got \(60, 9\)"),
        (with_batch(data=np.zeros((60, 3072))), "array of uint8"),
        (
            with_batch(labels=[0] * 59),
            "data_batch_2: expected .* a label for each, got 60",
        ),
        (with_batch(labels=[-1] * 60), "data_batch_2: got -1 as a label"),
        (with_batch(labels=[3.7] * 60), "got 3.7 as a label, expected an integer"),
        (with_batch(labels=["3"] * 60), "got '3' as a label, expected an integer"),
        (with_batch(labels=[2**70] * 60), "got 1180591620717411303424 as a label"),
        (
            with_batch(labels=["cat"] * 60),
            "got 'cat' as a label, expected an integer in 0…9",
        ),
        (
            lambda members: members["batches.meta"].update(label_names=["one"]),
            "at least 10 names",
        ),
    ],
)
def test_cifar_refuses(change, message, python2_pickle, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare_cifar(tmp_path, python2_pickle, change=change)
    assert not list((tmp_path / "out").glob("*.npz"))


def test_malicious_batch_is_not_run(calls, python2_pickle, tmp_path):
    witness = tmp_path / "executed"
    payload = calls(os.system, f"touch {witness}")
    with pytest.raises(ValueError, match="data_batch_2 is refused"):
        prepare_cifar(tmp_path, python2_pickle, change=with_batch(extra=payload))
    assert not witness.exists()


def test_truncated_archive(python2_pickle, tmp_path):
    _, _, sources = small_cifar(tmp_path, python2_pickle)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sources = {"cifar10": (sources["cifar10"][0]._replace(sha256=digest),)}
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz is not a complete"):
        images.prepare("cifar10", raw_dir=tmp_path, data_dir=tmp_path, sources=sources)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "array 'y' is missing, expected images, y"),
        ({"meta": np.array(json.dumps({"format_version": 9}))}, "format version 9"),
        ({"test": np.arange(3)}, "each of the rows 0…359 once"),
    ],
)
def test_load_images_refuses(change, message, python2_pickle, tmp_path):
    _, _, path = prepare_cifar(tmp_path, python2_pickle)
    with np.load(path) as file:
        arrays = {**{key: file[key] for key in file.files}, **change}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        load_images_npz(path)


# The binary itself.


def binary(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.images", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_binary_prepares_and_reports(raw_dir, tmp_path):
    result = binary(
        "--datasets=mnist", f"--raw_dir={raw_dir}", f"--data_dir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    assert "mnist: 784 pixels; train 10000 pairs, 50.0% of the same" in result.stdout
    assert (tmp_path / "mnist.npz").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--datasets=mnist,svhn"], "unknown dataset 'svhn'; known: cifar10, mnist"),
        (["--datasets="], "--datasets is empty"),
        (["--datasets=cifar10", "--raw_dir={tmp}"], "no file cifar-10-python.tar.gz"),
    ],
)
def test_binary_on_mistakes(flags, message, tmp_path):
    result = binary(*(flag.format(tmp=tmp_path) for flag in flags))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
