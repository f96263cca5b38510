"""Pairs of inputs, of the same class or not: what they are, and when they are sound."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np

from r2et_jax.checks import check_in
from r2et_jax.datasets import containers
from r2et_jax.datasets.containers import SPLITS, check_labels
from r2et_jax.datasets.graphs import edge_index, edge_names

KINDS = ("image", "graph")


class PairSplit(NamedTuple):
    """One split: pairs as indices into inputs that all splits share.

    Attributes:
      inputs: [u, n] float32, each input once.
      labels: [u] int32, the class of each input.
      first: [m] indices of the first inputs, which are explained.
      second: [m] indices of their partners.
    """

    inputs: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """[m, n] first inputs, gathered when asked for."""
        return self.inputs[self.first]

    @property
    def partner(self) -> np.ndarray:
        """[m, n] second inputs, gathered when asked for."""
        return self.inputs[self.second]

    @property
    def label_x(self) -> np.ndarray:
        """[m] classes of the first inputs."""
        return self.labels[self.first]

    @property
    def label_partner(self) -> np.ndarray:
        """[m] classes of the second inputs."""
        return self.labels[self.second]

    @property
    def y(self) -> np.ndarray:
        """[m] int32: 1 where both inputs are of the same class, 0 elsewhere."""
        return (self.label_x == self.label_partner).astype(np.int32)


class PairDataset(NamedTuple):
    """Pairs of images or of graphs in three splits: one fold of a `PairTable`.

    Attributes:
      name: the name under which results are recorded.
      kind: "image" or "graph".
      train: the training `PairSplit`.
      valid: the validation `PairSplit`.
      test: the test `PairSplit`.
      shape: of one input before it was flattened: (height, width) or (height, width,
        channels) of an image, (v, v) of a graph, whose vector holds the entries above
        the diagonal in the order of `np.triu_indices(v, 1)`.
      regions: v names of a graph's regions; () for images.
      lower: [n] least legal values.
      upper: [n] largest legal values.
      truth: [n] bool, the entries in which the classes truly differ; None if unknown.
      fold: the number of the test part, 0 where there is no cross-validation.
      meta: licence, source, checksums, seed, classes.
    """

    name: str
    kind: str
    train: PairSplit
    valid: PairSplit
    test: PairSplit
    shape: tuple[int, ...]
    regions: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    truth: np.ndarray | None
    fold: int
    meta: dict[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """n names: "pixel_3_7" of row 3, column 7; "a--b" of the regions a and b."""
        if self.kind == "graph":
            return edge_names(self.regions)
        return tuple(
            "pixel_" + "_".join(map(str, place)) for place in np.ndindex(*self.shape)
        )

    @property
    def num_nodes(self) -> int | None:
        """v, the number of a graph's regions; None for images."""
        return self.shape[0] if self.kind == "graph" else None

    @property
    def edges(self) -> np.ndarray | None:
        """[n, 2] indices of the two regions of each entry; None for images."""
        return edge_index(self.shape[0]) if self.kind == "graph" else None


class PairTable(NamedTuple):
    """All folds of pairs over one set of inputs, as a file holds them.

    Attributes:
      name, kind, shape, regions, lower, upper, truth, meta: as in `PairDataset`.
      inputs: [u, n] float32, each input once.
      labels: [u] int32 classes 0…C−1.
      pairs: [p, 4] int32 rows (fold, split, first, second); splits are 0 train,
        1 valid, 2 test.
    """

    name: str
    kind: str
    inputs: np.ndarray
    labels: np.ndarray
    pairs: np.ndarray
    shape: tuple[int, ...]
    regions: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    truth: np.ndarray | None
    meta: dict[str, Any]

    @property
    def num_folds(self) -> int:
        """How many folds the table holds."""
        return int(self.pairs[:, 0].max(initial=-1)) + 1

    def fold(self, fold: int = 0) -> PairDataset:
        """Return one fold, validated; ValueError if there is no such fold."""
        if fold not in range(self.num_folds):
            raise ValueError(
                f"{self.name}: fold must lie in 0…{self.num_folds - 1}, got {fold!r}"
            )
        of_fold = self.pairs[self.pairs[:, 0] == fold]
        splits = {}
        for number, name in enumerate(SPLITS):
            pairs = of_fold[of_fold[:, 1] == number]
            splits[name] = PairSplit(self.inputs, self.labels, pairs[:, 2], pairs[:, 3])
        shared = self._asdict()
        for key in ("inputs", "labels", "pairs"):
            del shared[key]
        dataset = PairDataset(**shared, **splits, fold=fold)
        validate_pairs(dataset)
        return dataset


def validate_pairs(dataset: PairDataset) -> None:
    """Raise unless pairs are sound.

    Checked: kind, shapes, finite inputs inside the box, labels 0…C−1, indices, no
    input paired with itself, no empty split, both kinds of pairs in every split; that
    no input (nor another one with equal values) stands in two splits, but for partners
    of graphs, which must be training graphs.

    Args:
      dataset: the `PairDataset` to check.

    Returns:
      None.

    Raises:
      ValueError: names the data set, the split and the first fault, with the value
        received and what was expected.
    """
    name, train = dataset.name, dataset.train
    check_in("kind", dataset.kind, KINDS)
    n = _check_form(dataset)
    inputs, labels = train.inputs, train.labels
    if inputs.ndim != 2 or inputs.shape[1] != n or labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"{name}: inputs must have shape [u, {n}] and labels [u], got "
            f"{inputs.shape} and {labels.shape}"
        )
    inside = (inputs >= dataset.lower) & (inputs <= dataset.upper)  # False for NaN
    inside &= np.isfinite(inputs)  # the box may be infinite
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        raise ValueError(
            f"{name}: input {row}, entry {column}: got {inputs[row, column]}, expected "
            f"a finite number in [{dataset.lower[column]}, {dataset.upper[column]}]"
        )
    check_labels(labels, f"{name}: inputs")
    for split_name in SPLITS:
        _check_split(dataset, split_name)
    _check_disjoint(dataset)


def fingerprint_pairs(dataset: PairDataset) -> str:
    """SHA-256 (64 hex digits) over inputs, labels, pairs, names, box and truth.

    As `fingerprint` of a tabular data set: neither the name nor `meta` enters.

    Args:
      dataset: a `PairDataset`.

    Returns:
      The hexadecimal digest.
    """
    digest = hashlib.sha256()
    arrays = [dataset.train.inputs, dataset.train.labels, dataset.lower, dataset.upper]
    for split_name in SPLITS:
        split = getattr(dataset, split_name)
        arrays += [split.first, split.second]
    if dataset.truth is not None:
        arrays.append(dataset.truth)
    for array in arrays:
        containers._update(digest, array)
    digest.update(repr((dataset.kind, dataset.shape, dataset.regions)).encode())
    return digest.hexdigest()


def _check_form(dataset: PairDataset) -> int:
    name, shape = dataset.name, dataset.shape
    if dataset.kind == "graph":
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
            raise ValueError(f"{name}: a graph's shape must be (v, v), got {shape}")
        if len(set(dataset.regions)) != len(dataset.regions) or shape[0] != len(
            dataset.regions
        ):
            raise ValueError(
                f"{name}: expected {shape[0]} distinct region names, got "
                f"{len(dataset.regions)} names, {len(set(dataset.regions))} distinct"
            )
        n = shape[0] * (shape[0] - 1) // 2
    else:
        n = math.prod(shape)
    for what in ("lower", "upper", "truth"):
        array = getattr(dataset, what)
        if array is not None and array.shape != (n,):
            raise ValueError(
                f"{name}: {what} must have shape ({n},), got {array.shape}"
            )
    if dataset.truth is not None and dataset.truth.dtype != bool:
        raise ValueError(f"{name}: truth must be bool, got {dataset.truth.dtype}")
    return n


def _check_split(dataset: PairDataset, split_name: str) -> None:
    where = f"{dataset.name}: {split_name}"
    split = getattr(dataset, split_name)
    count = dataset.train.labels.size
    if split.inputs is not dataset.train.inputs:
        raise ValueError(f"{where}: all splits must share one array of inputs")
    if split.first.shape != split.second.shape or split.first.ndim != 1:
        raise ValueError(
            f"{where}: first and second must have shape [m], got {split.first.shape} "
            f"and {split.second.shape}"
        )
    both = np.concatenate([split.first, split.second])
    if both.size == 0:
        raise ValueError(f"{where} split is empty, expected at least two pairs")
    if (
        not np.issubdtype(both.dtype, np.integer)
        or both.min() < 0
        or both.max() >= count
    ):
        raise ValueError(
            f"{where}: expected indices 0…{count - 1} of inputs, got {both.dtype} in "
            f"{both.min()}…{both.max()}"
        )
    selves = np.flatnonzero(split.first == split.second)
    if selves.size:
        raise ValueError(
            f"{where} pair {selves[0]}: input {split.first[selves[0]]} is paired with "
            "itself, expected another one"
        )
    if np.unique(split.y).size < 2:
        raise ValueError(
            f"{where}: expected pairs of the same class and of different classes, got "
            f"only y = {split.y[0]} in {split.y.size} pairs"
        )


def _check_disjoint(dataset: PairDataset) -> None:
    # Inputs with equal values count as one, so that no copy leaks either.
    _, same_as = np.unique(
        [hashlib.sha256(row.tobytes()).digest() for row in dataset.train.inputs],
        return_inverse=True,
    )
    members: dict[str, set[int]] = {}
    for split_name in SPLITS:
        split = getattr(dataset, split_name)
        members[split_name] = set(same_as[split.first].tolist())
        partners = set(same_as[split.second].tolist())
        if dataset.kind == "image" or split_name == "train":
            members[split_name] |= partners
        elif not partners <= members["train"]:
            raise ValueError(
                f"{dataset.name}: {split_name}: expected training graphs as partners, "
                f"got {len(partners - members['train'])} others"
            )
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            shared = members[first] & members[second]
            if shared:
                row = int(np.flatnonzero(same_as == min(shared))[0])
                raise ValueError(
                    f"{dataset.name}: {first} and {second} share {len(shared)} inputs, "
                    f"expected none; the first is input {row}"
                )
