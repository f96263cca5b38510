"""A user's own labels and numbers: taken as they are, or refused with a word."""

import time

import numpy as np
import pytest

from r2et_jax.datasets import from_arrays


def of_arrays(y, x=None, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(y), 2)) if x is None else x
    return from_arrays(x, y, name="own", **options)


HALF = np.arange(60) % 2


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (HALF * 2_000_000_000, "no row of class 1 below class 2000000000; give class"),
        (HALF.astype(np.uint64) * 2**63, "no row of class 1 below class 92233"),
        (HALF + 1, r"no row of class 0 below class 2; give class numbers: np.unique"),
        (HALF * 2 - 1, r"labels must be 0…C−1, got \[-1, 1\]; give class numbers"),
        (np.arange(60) - 9, r"got \[-9, -8, -7, -6, -5, -4, -3, -2, …\]; give"),
        (
            HALF * 1.0,
            "must hold integers 0…C−1, got dtype float64, such as 0.0 in row 0",
        ),
        (np.where(HALF, np.nan, 0), "got dtype float64, such as nan in row 1; give"),
        (HALF + 0.5, "got dtype float64, such as 0.5 in row 0; give class numbers"),
        (HALF + 0j, "got dtype complex128"),
        (np.array(["no", "yes"])[HALF], "got dtype <U3, such as no in row 0; give"),
        (np.array([None, 1])[HALF], "got dtype object, such as None in row 0"),
        (np.ma.array(HALF, mask=HALF == 1), "y has masked values"),
        (np.eye(2, dtype=int)[HALF], r"and y \[m\], got \(60, 2\) and \(60, 2\)"),
    ],
)
def test_labels_are_refused_with_a_word_on_how_to_recode_them(y, message):
    begin = time.monotonic()
    with pytest.raises(ValueError, match=f"own: .*{message}"):
        of_arrays(y)
    assert time.monotonic() - begin < 1


def test_the_recoding_of_the_message_is_taken():
    classes, numbers = np.unique(np.array([3, 7])[HALF], return_inverse=True)
    data = of_arrays(numbers)
    assert set(data.train.y.tolist()) == {0, 1} and classes.tolist() == [3, 7]


NORMAL = np.random.default_rng(1).normal(size=(60, 2))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (NORMAL + 1j, {}, "x must hold real numbers, got complex128"),
        (NORMAL.astype(str), {}, "x must hold real numbers, got <U"),
        (NORMAL.astype(str).astype(object), {}, "x must hold real numbers in rows"),
        (np.where(NORMAL > 0, NORMAL, None), {}, "x must hold real numbers .*None"),
        (np.ma.array(NORMAL, mask=NORMAL > 2), {}, "x has . masked values, expected"),
        (NORMAL * 1e200, {}, "column 'x0' is too large to standardise, .*e.200"),
        (NORMAL * 1e40, {"standardize": False}, "x at .* is .*e.[34]., .* float32"),
        (NORMAL, {"lower": [-9j, -9]}, "lower must hold real numbers, got complex"),
        (NORMAL, {"upper": ["9", "9"]}, "upper must hold real numbers, got <U1"),
    ],
)
def test_inputs_that_a_cast_would_change_are_refused(x, options, message):
    with pytest.raises(ValueError, match=f"own: {message}"):
        of_arrays(HALF, x, **options)


def test_objects_that_are_numbers_are_read():
    data = of_arrays(HALF, NORMAL.astype(object), upper=[1e300, np.inf])
    np.testing.assert_array_equal(data.train.x, of_arrays(HALF, NORMAL).train.x)
    assert np.isinf(data.upper).all()
