"""Rows that are equal after coding stay in one part of a split, and are counted."""

import collections

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from r2et_jax.datasets import from_arrays
from r2et_jax.datasets.reference import drop_reference
from r2et_jax.datasets.splitting import equal_rows, split_apart, stratified_split

SPLITS = ("train", "valid", "test")


def crossing(dataset):
    """Rows that stand in more than one split, as a set of tuples."""
    parts = [{tuple(r) for r in getattr(dataset, s).x.tolist()} for s in SPLITS]
    train, valid, test = parts
    return (train & valid) | (train & test) | (valid & test)


def test_every_row_twice_is_kept_together_and_said():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)), np.arange(100) % 2
    with pytest.warns(UserWarning, match="own: 200 of 200 rows equal another row"):
        dataset = from_arrays(np.r_[x, x], np.r_[y, y], name="own")
    assert not crossing(dataset)
    sizes = [getattr(dataset, s).y.size for s in SPLITS]
    np.testing.assert_allclose(sizes, [140, 30, 30], atol=2)
    assert dataset.meta["copies"] == {
        "rows": 200,
        "groups": 100,
        "rows_labels_differ": 0,
    }


def test_a_table_without_copies_is_split_as_without_groups():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 3)), np.arange(90) % 3
    dataset = from_arrays(x, y, name="own")
    assert dataset.meta["copies"] == {"rows": 0, "groups": 0, "rows_labels_differ": 0}
    without, alone = (
        stratified_split(y, groups=groups, seed=4) for groups in (None, np.arange(90))
    )
    for a, b in zip(without, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=200),
    num_classes=st.integers(2, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_tables_with_many_copies(sizes, num_classes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    # A third of the labels are those of the row, whatever its copies say.
    y = np.where(
        rng.random(groups.size) < 1 / 3,
        rng.integers(0, num_classes, groups.size),
        groups % num_classes,
    )
    splits = stratified_split(y, groups=groups, seed=seed)
    assert sorted(np.concatenate(splits).tolist()) == list(range(y.size))
    parts = [set(groups[rows].tolist()) for rows in splits]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    for rows, share in zip(splits, (0.7, 0.15, 0.15), strict=True):
        assert abs(rows.size - share * y.size) <= 9, "more than the largest group off"
        for c in range(num_classes):
            right = share * (y == c).sum()
            assert abs((y[rows] == c).sum() - right) <= 9, f"class {c}"
    again = stratified_split(y, groups=groups, seed=seed)
    for a, b in zip(splits, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shares_are_met_exactly_where_single_rows_are_many():
    rng = np.random.default_rng(2)
    groups = np.r_[np.arange(4000), rng.integers(4000, 4300, 2000)]
    y = (rng.random(6000) < 0.1).astype(int)
    for seed in (0, 1):
        splits = stratified_split(y, groups=groups, seed=seed)
        for rows, share in zip(splits, (0.7, 0.15, 0.15), strict=True):
            assert rows.size == pytest.approx(share * 6000, abs=2)
            assert y[rows].sum() == pytest.approx(share * y.sum(), abs=2)
            assert not np.array_equal(rows, np.sort(rows))


def test_large_groups_go_everywhere_in_their_share():
    """A draw that filled one split first would give it the large groups alone."""
    sizes = np.repeat([20, 1], [40, 400])
    groups = np.repeat(np.arange(440), sizes)
    held = []
    for seed in range(100):
        splits = stratified_split(np.arange(1200) % 2, groups=groups, seed=seed)
        held.append(
            [len(set(groups[rows].tolist()) & set(range(40))) for rows in splits]
        )
    mean = np.mean(held, axis=0)
    np.testing.assert_allclose(mean, [28, 6, 6], atol=0.7)
    assert np.std(held, axis=0).min() > 0.3, "each seed draws anew"


def test_rows_made_equal_by_the_coding_are_kept_together():
    """A missing value becomes the training split's median; float32 drops digits."""
    rng = np.random.default_rng(3)
    known = rng.integers(0, 3, 300).astype(float)
    column = np.where(rng.random(300) < 0.3, np.nan, known)
    x = np.stack([column, 1000.0 + np.arange(300) // 4 + 1e-9 * np.arange(300)], axis=1)
    y = np.arange(300) // 4 % 2

    def code(train):
        median = np.nanmedian(column[train])
        filled = np.where(np.isnan(x), median, x)
        return filled.astype(np.float32), median

    splits, (coded, median), copies = split_apart(x, y, code)
    assert median == np.nanmedian(column[splits[0]])
    rows = [{tuple(r) for r in coded[part].tolist()} for part in splits]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])
    count = collections.Counter(map(tuple, coded.tolist()))
    assert copies["rows"] == sum(c for c in count.values() if c > 1)
    assert copies["groups"] == sum(c > 1 for c in count.values())
    assert equal_rows(x).max() == 299, "no two rows are equal before"


def test_copies_with_another_label_are_counted():
    x = np.repeat(np.arange(80.0), 2)[:, None]
    y = np.arange(160) // 2 % 2
    y[:10:2] = 1 - y[:10:2]
    with pytest.warns(UserWarning, match="10 rows have a copy with another label"):
        dataset = from_arrays(x, y, name="own")
    assert not crossing(dataset)
    assert dataset.meta["copies"]["rows_labels_differ"] == 10


def test_the_coding_without_reference_levels_has_the_same_parts():
    rng = np.random.default_rng(5)
    level, number = rng.integers(0, 3, 400), rng.integers(0, 40, 400)
    x = np.c_[number, np.eye(3)[level]]
    with pytest.warns(UserWarning, match="own: .* equal another row"):
        full = from_arrays(x, rng.integers(0, 2, 400), name="own", groups=[(1, 2, 3)])
    dropped = drop_reference(full)
    assert not crossing(full) and not crossing(dropped)
    for name in SPLITS:
        a, b = getattr(full, name), getattr(dropped, name)
        np.testing.assert_array_equal(a.y, b.y)
        np.testing.assert_array_equal(a.x[:, 0], b.x[:, 0])


def test_equal_rows_by_value():
    x = np.array([[0.0, np.nan], [1, 2], [-0.0, np.nan], [2, 1], [1, 2]])
    assert equal_rows(x).tolist() == [0, 1, 0, 2, 1]
    assert equal_rows(x[1::2].astype(np.uint8)).tolist() == [0, 1]


def test_refusals():
    with pytest.raises(ValueError, match=r"shape of y, \(20,\), got \(19,\)"):
        stratified_split(np.arange(20) % 2, groups=np.arange(19))
    with pytest.raises(ValueError, match="60 rows, 2 distinct ones with class"):
        stratified_split(np.arange(60) % 2, groups=np.arange(60) % 4)
