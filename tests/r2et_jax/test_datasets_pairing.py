"""Vectors of graphs, and how pairs and folds are drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2et_jax.datasets.graphs import (
    edge_index,
    edge_names,
    upper_triangle,
)
from r2et_jax.datasets.pairing import (
    class_pairs,
    fold_pairs,
    partner_pairs,
    split_pairs,
)

# Vectors and matrices.


@pytest.mark.parametrize("v", [2, 3, 7])
def test_entries_are_in_the_order_of_triu_indices(v):
    rng = np.random.default_rng(v)
    matrix = rng.normal(size=(2, v, v))
    matrix = matrix + matrix.transpose(0, 2, 1)
    x = upper_triangle(matrix)
    assert x.shape == (2, v * (v - 1) // 2)
    pairs = [(i, j) for i in range(v) for j in range(i + 1, v)]
    assert edge_index(v).tolist() == [list(pair) for pair in pairs]
    for number, (i, j) in enumerate(pairs):
        np.testing.assert_array_equal(x[:, number], matrix[:, i, j])


def test_edge_names_follow_the_entries():
    names = edge_names("abcd")
    assert names == tuple(f"{'abcd'[i]}--{'abcd'[j]}" for i, j in edge_index(4))


def test_upper_triangle_refuses_what_is_not_square():
    with pytest.raises(ValueError, match=r"\[\.\.\., v, v\], got \(3, 4\)"):
        upper_triangle(np.zeros((3, 4)))


# Drawing pairs.


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(6, 30), min_size=2, max_size=4),
    half=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_class_pairs_are_balanced_distinct_and_seeded(sizes, half, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).permutation(labels)
    pairs = class_pairs(labels, 2 * half, rng=np.random.default_rng(seed))
    again = class_pairs(labels, 2 * half, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(pairs, again)
    first, second = labels[pairs].T
    assert (first == second).sum() == half == (first != second).sum()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 2 * half
    same = np.bincount(first[first == second], minlength=len(sizes))
    assert same.max() - same.min() <= 1, "classes must share the pairs"


def test_class_of_the_first_input_tells_nothing_of_the_pair():
    labels = np.repeat([0, 1], [50, 90])
    pairs = class_pairs(labels, 400, rng=np.random.default_rng(0))
    table = np.zeros((2, 2), int)
    np.add.at(table, tuple(labels[pairs].T), 1)
    np.testing.assert_array_equal(table, 100)


def test_every_pair_can_be_drawn():
    labels = np.repeat([0, 1], 4)
    pairs = class_pairs(labels, 24, rng=np.random.default_rng(0))
    same = {frozenset(p) for p in pairs.tolist() if labels[p[0]] == labels[p[1]]}
    assert len(same) == 12, "all 2 · 6 pairs within a class"


@pytest.mark.parametrize(
    ("labels", "num", "message"),
    [
        ([0, 0, 1, 1], 3, "num must be even"),
        ([0, 0, 0], 2, "at least two classes, got 1"),
        ([0, 0, 1, 1], 6, "too few inputs: 2 pairs asked for .* have 1"),
        ([0, 0, 1, 1], 0, "at least 2, got 0"),
    ],
)
def test_class_pairs_refuse(labels, num, message):
    with pytest.raises(ValueError, match=message):
        class_pairs(np.array(labels), num, rng=np.random.default_rng(0))


def test_partners_come_from_the_pool_and_never_the_input_itself():
    labels = np.arange(20) % 2
    first, pool = np.arange(6), np.arange(4, 20)
    rng = np.random.default_rng(0)
    pairs = partner_pairs(labels, first, pool, partners=3, rng=rng)
    assert set(pairs[:, 1].tolist()) <= set(pool.tolist())
    for i in first:
        partners_of = pairs[pairs[:, 0] == i, 1]
        assert partners_of.size == 6 == np.unique(partners_of).size
        assert i not in partners_of
        assert (labels[partners_of] == labels[i]).sum() == 3


def test_partners_are_as_many_as_the_scarcest_input_has():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    everyone = np.arange(9)
    rng = np.random.default_rng(0)
    pairs = partner_pairs(labels, everyone, everyone, partners=8, rng=rng)
    assert pairs.shape == (9 * 2 * 3, 2)  # three others of class 0
    with pytest.raises(ValueError, match="a partner of its class and one of another"):
        partner_pairs(labels, everyone[:4], everyone[:4], partners=1, rng=rng)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("counts", [(25, 25), (17, 30), (5, 6, 7)])
def test_folds_rotate_and_stay_apart(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = fold_pairs(labels, partners=2, seed=seed)
    np.testing.assert_array_equal(rows, fold_pairs(labels, partners=2, seed=seed))
    assert not np.array_equal(rows, fold_pairs(labels, partners=2, seed=seed + 7))
    tested, validated = [], []
    for fold in range(5):
        of_fold = rows[rows[:, 0] == fold]
        train, valid, test = (
            of_fold[of_fold[:, 1] == number, 2:] for number in range(3)
        )
        first = [set(part[:, 0].tolist()) for part in (train, valid, test)]
        assert not (first[0] & first[1] or first[0] & first[2] or first[1] & first[2])
        assert set().union(*first) == set(range(labels.size))
        for part in (train, valid, test):
            assert set(part[:, 1].tolist()) <= first[0], "partners train"
            same = labels[part[:, 0]] == labels[part[:, 1]]
            assert same.sum() * 2 == same.size
        for held in first[1:]:
            got = np.bincount(labels[list(held)], minlength=len(counts))
            np.testing.assert_allclose(got, np.array(counts) / 5, atol=1)
        tested.append(first[2])
        validated.append(first[1])
    assert sorted(i for part in tested for i in part) == list(range(labels.size))
    assert validated == tested[1:] + tested[:1]


def test_folds_refuse_rare_classes():
    with pytest.raises(ValueError, match=r"at least 5 inputs each, got \{0: 9, 1: 4\}"):
        fold_pairs(np.repeat([0, 1], [9, 4]), partners=1, seed=0)


def test_split_pairs_stay_in_their_split():
    labels = np.arange(90) % 2
    splits = np.split(np.random.default_rng(0).permutation(90), [50, 70])
    rows = split_pairs(labels, splits, (40, 20, 10), seed=0)
    assert np.bincount(rows[:, 1]).tolist() == [40, 20, 10]
    for number, split in enumerate(splits):
        assert set(rows[rows[:, 1] == number, 2:].ravel()) <= set(split)
