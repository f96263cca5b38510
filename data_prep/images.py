r"""Prepare images: raw public files -> <data_dir>/<name>.npz.

  python -m data_prep.images --datasets=mnist,mnist_digits,cifar10 --data_dir=data

Without --raw_dir the official files are downloaded (into <data_dir>/raw) and kept.
Checksums are compared either way.

mnist: pairs of a 3 and an 8, or of two of either, half of the pairs of the same class;
n = 784. Training pairs (10,000) are of training images; validation (2,000) and test
pairs (2,000) are of test images, of which either split has its own half. Read with
r2et_jax.datasets.load("mnist"): a PairDataset.
cifar10, mnist_digits: single images of ten classes, n = 3072 (row, column, channel) and
784. The official training images are split 90/10, stratified by class, into training
and validation images; test images are the official ones. Of training images those that
equal a test image are left out, and a validation image that equals a training image
joins the training images; how many is printed and stored. Read with load("cifar10"): a
Dataset.

Pixels are kept as bytes and divided by 255 when they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_prep import cifar, idx
from data_prep._main import named_folder, run
from data_prep.sources import SOURCES, Source, fetch
from r2et_jax.checks import check_in
from r2et_jax.datasets import save_pairs_npz
from r2et_jax.datasets.images import FORMAT_VERSION, load_images_npz
from r2et_jax.datasets.pair_files import load_pairs_npz
from r2et_jax.datasets.pairing import split_pairs
from r2et_jax.datasets.pairs import PairTable
from r2et_jax.datasets.splitting import equal_rows
from r2et_jax.files import replacing

NAMES = ("cifar10", "mnist", "mnist_digits")
# Data of the same files as others.
_SAME_FILES = {"mnist_digits": "mnist"}
DIGITS = (3, 8)
PAIRS = (10_000, 2_000, 2_000)
_VALID_SHARE = 0.1

# allow_override: the binaries here share flag names, and a test imports several.
_SHARED: dict[str, Any] = {"allow_override": True}
_DATASETS = flags.DEFINE_list(
    "datasets", sorted(NAMES), "Data sets to prepare.", **_SHARED
)
flags.DEFINE_string(
    "raw_dir", None, "Folder of the raw files; downloaded without it.", **_SHARED
)
flags.DEFINE_string("data_dir", "data", "Folder of the prepared files.", **_SHARED)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the splits and pairs.",
    lower_bound=0,
    upper_bound=2**32 - 1,
    **_SHARED,
)


def prepare(
    name: str,
    *,
    raw_dir: Path | None,
    data_dir: Path,
    seed: int = 0,
    counts: Sequence[int] = PAIRS,
    sources: Mapping[str, tuple[Source, ...]] = SOURCES,
) -> Path:
    """Prepare one data set and return the file that was written.

    counts: how many training, validation and test pairs (mnist).
    """
    check_in("dataset", name, NAMES)
    files = sources[_SAME_FILES.get(name, name)]
    contents = {
        source.content: fetch(source, raw_dir=raw_dir, cache_dir=data_dir / "raw")
        for source in files
    }
    meta = {
        "name": name,
        "seed": seed,
        "licence": files[0].licence,
        "source": [source.url for source in files],
        "sha256": {
            file: hashlib.sha256(content).hexdigest()
            for file, content in contents.items()
        },
        "citation": files[0].citation,
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / f"{name}.npz"
    if name == "mnist":
        table = digit_pairs(contents, meta, seed=seed, counts=counts)
        save_pairs_npz(path, table, scale=255)
    elif name == "mnist_digits":
        _write_images(path, *_all_digits(contents), meta, seed=seed)
    else:
        ((file, content),) = contents.items()
        _write_images(path, *cifar.read(content, file), meta, seed=seed)
    return path


def digit_pairs(
    contents: Mapping[str, bytes],
    meta: Mapping[str, Any],
    *,
    seed: int,
    counts: Sequence[int],
) -> PairTable:
    """Pair the 3s and 8s of MNIST's four unpacked files."""
    images, digits = [], []
    for x, y in _mnist(contents):
        rows = np.isin(y, DIGITS)
        images.append(x[rows])
        digits.append(y[rows])
    shape = images[0].shape[1:]
    num_train = digits[0].size
    pixels = np.concatenate(images).reshape(-1, shape[0] * shape[1])
    labels = (np.concatenate(digits) == DIGITS[1]).astype(np.int32)
    held_out = num_train + _halves(labels[num_train:], seed)
    splits = (np.arange(num_train), *np.sort(held_out, axis=1))
    pairs = split_pairs(labels, splits, counts, seed=seed)
    used, compact = np.unique(pairs[:, 2:], return_inverse=True)
    pairs[:, 2:] = compact.reshape(-1, 2)
    n = pixels.shape[1]
    return PairTable(
        name="mnist",
        kind="image",
        inputs=pixels[used].astype(np.float32) / np.float32(255),
        labels=labels[used],
        pairs=pairs,
        shape=shape,
        regions=(),
        lower=np.zeros(n, np.float32),
        upper=np.ones(n, np.float32),
        truth=None,
        meta={
            **meta,
            "target": "1: both images show the same digit",
            "classes": [str(digit) for digit in DIGITS],
        },
    )


def summary(name: str, path: Path) -> str:
    """Return sizes and class shares of the splits and the file, in one line."""
    if name == "mnist":
        dataset = load_pairs_npz(path)
        what = "pairs, {:.1%} of the same class"
    else:
        dataset = load_images_npz(path)
        what = "images"
    splits = ", ".join(
        f"{part} {split.y.size} {what.format(split.y.mean())}"
        for part in ("train", "valid", "test")
        for split in [getattr(dataset, part)]
    )
    copies = dataset.meta.get("copies")
    if copies:
        splits += (
            f"; {copies['left_out']} training images that equal a test image left out, "
            f"{copies['joined']} that equal a training image not in the validation part"
        )
    return f"{name}: {dataset.lower.size} pixels; {splits}; wrote {path}"


def main(argv: Sequence[str]) -> None:
    """Prepare the data sets that the flags name."""
    del argv
    names = list(dict.fromkeys(_DATASETS.value))
    if not names:
        raise ValueError(f"--datasets is empty; known: {', '.join(NAMES)}")
    for name in names:
        check_in("dataset", name, NAMES)
    raw_dir, data_dir = named_folder("raw_dir"), named_folder("data_dir")
    for name in names:
        path = prepare(name, raw_dir=raw_dir, data_dir=data_dir, seed=_SEED.value)
        print(summary(name, path), flush=True)


def _mnist(contents: Mapping[str, bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and digits of MNIST's four unpacked files, training ones first."""
    for part in ("train", "t10k"):
        files = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        x, y = (idx.read(contents[file], file) for file in files)
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise ValueError(
                f"{files[0]} must have shape [m, height, width] and {files[1]} [m], "
                f"got {x.shape} and {y.shape}"
            )
        yield x, y


def _all_digits(contents: Mapping[str, bytes]):
    """Images, digits, whether they are test images, and the names of the classes."""
    (x, y), (test_x, test_y) = _mnist(contents)
    is_test = np.arange(len(y) + len(test_y)) >= len(y)
    classes = [str(digit) for digit in range(10)]
    return np.concatenate([x, test_x]), np.concatenate([y, test_y]), is_test, classes


def _halves(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return row numbers [2, m // 2]: two halves at random, each with both classes."""
    rows = np.random.default_rng([seed, 1]).permutation(labels.size)
    rows = rows[np.argsort(labels[rows], kind="stable")]  # every other of each class
    size = labels.size // 2
    return np.stack([rows[0 : 2 * size : 2], rows[1 : 2 * size : 2]])


def _write_images(path, images, labels, is_test, classes, meta, *, seed) -> None:
    from sklearn.model_selection import train_test_split

    which = equal_rows(images.reshape(len(images), -1))
    kept = is_test | ~np.isin(which, which[is_test])
    images, labels, is_test, which = (a[kept] for a in (images, labels, is_test, which))
    training = np.flatnonzero(~is_test)
    try:
        train, valid = train_test_split(
            training,
            test_size=_VALID_SHARE,
            stratify=labels[training],
            random_state=seed,
        )
    except ValueError as error:
        raise ValueError(
            f"cannot stratify {training.size} training images ({error})"
        ) from error
    copied = np.isin(which[valid], which[train])
    train, valid = np.concatenate([train, valid[copied]]), valid[~copied]
    meta = {
        **meta,
        "format_version": FORMAT_VERSION,
        "copies": {"left_out": int((~kept).sum()), "joined": int(copied.sum())},
        "target": "the class of the image",
        "classes": classes,
    }
    with replacing(path) as partial:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                images=images,
                y=labels.astype(np.int32),
                train=train,
                valid=valid,
                test=np.flatnonzero(is_test),
                meta=np.array(json.dumps(meta)),
            )
        load_images_npz(partial)  # validates before the file takes its place


if __name__ == "__main__":
    run(main)
