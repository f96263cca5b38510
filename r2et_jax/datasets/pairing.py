"""Seeded pairs of inputs: as many of the same class as of different ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.datasets.containers import SPLITS


def class_pairs(
    labels: np.ndarray, num: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw pairs of inputs, half of the same class and half of different classes.

    Each half is spread evenly over the classes, and over both orders of two classes,
    so that the class of the first input tells nothing of the pair's. No two inputs
    are paired twice, in either order, and none with itself.

    Args:
      labels: [u] classes, two or more.
      num: an even number of pairs.
      rng: of the draw.

    Returns:
      Indices [num, 2] into labels, shuffled.

    Raises:
      ValueError: an odd number, a single class, more pairs than there are.

    Example:
      >>> labels = np.repeat([0, 1], 50)
      >>> pairs = class_pairs(labels, 8, rng=np.random.default_rng(0))
      >>> int((labels[pairs[:, 0]] == labels[pairs[:, 1]]).sum())
      4
    """
    _check_classes(labels)
    check_count("num", num, minimum=2)
    if num % 2:
        raise ValueError(f"num must be even, half of the pairs each, got {num}")
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    if len(members) < 2:
        raise ValueError(f"pairs need at least two classes, got {len(members)}")
    mixed = [(a, b) for i, a in enumerate(members) for b in members[i + 1 :]]
    drawn = [
        _orient(_same(group, count, rng), rng)
        for group, count in zip(members, _shares(num // 2, len(members)), strict=True)
    ]
    drawn += [
        _orient(_different(a, b, count, rng), rng)
        for (a, b), count in zip(mixed, _shares(num // 2, len(mixed)), strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def partner_pairs(
    labels: np.ndarray,
    first: np.ndarray,
    pool: np.ndarray,
    *,
    partners: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pair each input with as many partners of its own class as of other classes.

    Args:
      labels: [u] classes.
      first: indices of the inputs to be paired.
      pool: indices of the partners to draw from; an input is no partner of itself.
      partners: how many of either kind, at least 1; fewer where the pool holds fewer
        for some input, then for all of them.
      rng: of the draw.

    Returns:
      Indices [2 · partners · len(first), 2], shuffled.

    Raises:
      ValueError: an input that finds no partner of one kind.

    Example:
      >>> labels = np.array([0, 0, 0, 1, 1])
      >>> rng = np.random.default_rng(0)
      >>> first, pool = np.array([0]), np.array([1, 2, 3, 4])
      >>> partner_pairs(labels, first, pool, partners=2, rng=rng).shape
      (4, 2)
    """
    _check_classes(labels)
    check_count("partners", partners)
    choices = []
    for i in first:
        others = pool[pool != i]
        same = labels[others] == labels[i]
        choices.append((others[same], others[~same]))
    scarcest = min(kind.size for both in choices for kind in both)
    if scarcest == 0:
        raise ValueError(
            "every input needs a partner of its class and one of another, got a pool "
            f"of {pool.size} inputs with classes {np.unique(labels[pool]).tolist()}"
        )
    count = min(partners, scarcest)
    drawn = [
        (i, j)
        for i, both in zip(first, choices, strict=True)
        for kind in both
        for j in rng.choice(kind, count, replace=False)
    ]
    return rng.permutation(np.array(drawn))


def split_pairs(
    labels: np.ndarray,
    splits: Sequence[np.ndarray],
    counts: Sequence[int],
    *,
    seed: int,
) -> np.ndarray:
    """Pair inputs inside each of three disjoint splits (`class_pairs`).

    Args:
      labels: [u] classes.
      splits: indices of the training, validation and test inputs.
      counts: how many pairs of each, even numbers.
      seed: of the draw.

    Returns:
      Rows (0, split, first, second), [sum(counts), 4] int32.

    Example:
      >>> labels, splits = np.arange(60) % 2, np.split(np.arange(60), 3)
      >>> split_pairs(labels, splits, (8, 4, 4), seed=0).shape
      (16, 4)
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number, (split, count) in enumerate(zip(splits, counts, strict=True)):
        pairs = split[class_pairs(labels[split], count, rng=rng)]
        rows.append(_rows(0, number, pairs))
    return np.concatenate(rows)


def fold_pairs(
    labels: np.ndarray, *, partners: int, seed: int, folds: int = 5
) -> np.ndarray:
    """Pair inputs for stratified cross-validation.

    In fold f, part f tests, part f + 1 (mod folds) validates and the other parts
    train. Training inputs are paired with each other; validation and test inputs
    stand first in their pairs and are paired with training inputs.

    Args:
      labels: [u] classes, at least `folds` inputs of each.
      partners: of either kind for each input (see `partner_pairs`).
      seed: of the parts and of the draw, 0 … 2³² − 1.
      folds: at least 3.

    Returns:
      Rows (fold, split, first, second), int32; splits are 0 train, 1 valid, 2 test.

    Raises:
      ValueError: a class with fewer inputs than folds.
      ImportError: scikit-learn is not installed.

    Example:
      >>> fold_pairs(np.arange(50) % 2, partners=2, seed=0).shape
      (1000, 4)
    """
    _check_classes(labels)
    check_count("folds", folds, minimum=3)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds or classes.size < 2:
        raise ValueError(
            f"{folds} folds need two classes with at least {folds} inputs each, got "
            f"{dict(zip(classes.tolist(), counts.tolist(), strict=True))}"
        )
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError as error:
        raise ImportError(
            "fold_pairs needs scikit-learn: install it, for instance with "
            "pip install scikit-learn"
        ) from error
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = [part for _, part in splitter.split(np.zeros(labels.size), labels)]
    rows = []
    for fold in range(folds):
        rng = np.random.default_rng([seed, fold])
        after = (fold + 1) % folds
        train = np.concatenate(
            [parts[p] for p in range(folds) if p not in (fold, after)]
        )
        held = (train, parts[after], parts[fold])
        for number in range(len(SPLITS)):
            pairs = partner_pairs(
                labels, held[number], train, partners=partners, rng=rng
            )
            rows.append(_rows(fold, number, pairs))
    return np.concatenate(rows)


def _check_classes(labels: np.ndarray) -> None:
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape [u], got {labels.dtype} of shape "
            f"{labels.shape}"
        )


def _rows(fold: int, split: int, pairs: np.ndarray) -> np.ndarray:
    place = np.broadcast_to([fold, split], pairs.shape)
    return np.concatenate([place, pairs], axis=1).astype(np.int32)


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]


def _same(group: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    number = _draw(group.size * (group.size - 1) // 2, count, rng)
    # Pair number j(j−1)/2 + i is (i, j), i < j. float64 is exact far beyond any u.
    j = np.floor((1 + np.sqrt(1 + 8 * number)) / 2).astype(np.int64)
    return np.stack([group[number - j * (j - 1) // 2], group[j]], axis=1)


def _different(
    a: np.ndarray, b: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    number = _draw(a.size * b.size, count, rng)
    return np.stack([a[number // b.size], b[number % b.size]], axis=1)


def _draw(available: int, count: int, rng: np.random.Generator) -> np.ndarray:
    if count > available:
        raise ValueError(
            f"too few inputs: {count} pairs asked for of two classes that have "
            f"{available}"
        )
    return rng.choice(available, count, replace=False)


def _orient(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Draws come in no order that relates to the pairs, so every other one will do.
    pairs = rng.permutation(pairs)
    pairs[::2] = pairs[::2, ::-1]
    return pairs
