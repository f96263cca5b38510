"""What a threat model is built from, and the clean inputs that it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import threat as threats
from r2et_jax.threat import threat_model
from r2et_jax.threat.definition import NORMS
from r2et_jax.threat.geometry import check_inputs

MASK = np.array([False, False, True, True])


@pytest.mark.parametrize(
    "frozen",
    [MASK, MASK.tolist(), jnp.asarray(MASK), (2, 3), {3, 2}, np.array([2, 3])],
    ids=["array", "list", "jax", "indices", "set", "integers"],
)
def test_a_mask_freezes_the_features_that_it_marks(frozen):
    threat = threat_model(frozen=frozen, num_features=4)
    np.testing.assert_array_equal(threat.movable, ~MASK)


def test_a_mask_tells_the_number_of_features():
    np.testing.assert_array_equal(threat_model(frozen=MASK).movable, ~MASK)


def test_groups_are_masks_or_indices():
    masks = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1]], bool)
    for groups in (masks, masks.tolist(), [(0, 1), np.array([2, 4])]):
        threat = threat_model(groups=groups, group_rule="simplex", num_features=5)
        assert threat.groups == ((0, 1), (2, 4))


BOX = {"lower": [0.0, -np.inf, 2.0], "upper": 10.0}
SIMPLEX = {"groups": [(0, 2)], "group_rule": "simplex"}


@pytest.mark.parametrize(
    ("options", "clean", "message"),
    [
        (
            BOX,
            [[1, -9, 3], [1, 0, 11]],
            r"x\[1, 2\] is 11, outside .*\[2, 10\] \(1 of 2",
        ),
        (BOX, [[1, -9, 1], [-1, 0, 3]], r"x\[0, 2\] is 1, .*\(2 of 2 .*clip=True"),
        (SIMPLEX, [[0.5, 9, -0.5]], r"x\[0, 2\] is -0.5, outside .*\[0, inf\]"),
        ({"lower": [0.0, 0.0]}, [[1, 1, 1]], r"lower of shape \(2,\), expected \(3,\)"),
        ({"frozen": MASK}, [[1, 1, 1]], r"movable of shape \(4,\), expected \(3,\)"),
        ({"num_features": 4}, [[1, 1, 1]], r"movable of shape \(4,\), expected \(3,\)"),
        (SIMPLEX | {"groups": [(1, 3)]}, [[1, 1, 1]], r"feature 3 .*in 0…2"),
    ],
)
@pytest.mark.parametrize("norm", NORMS)
def test_what_a_threat_model_does_not_admit_is_named(norm, options, clean, message):
    threat, clean = threat_model(norm, 0.1, **options), np.float32(clean)
    with pytest.raises(ValueError, match=message):
        check_inputs(threat, clean)


@pytest.mark.parametrize("norm", NORMS)
def test_around_an_input_outside_nothing_is_admissible(norm):
    threat = threat_model(norm, 0.5, lower=0.0, upper=1.0, frozen=[1], num_features=3)
    inside, outside = np.float32([0.5, 7.0, 0.2]), np.float32([1.2, 7.0, 0.2])
    project, contains = jax.jit(threats.project), jax.jit(threats.contains)
    # Traced: as data. The box would be reached within the budget.
    assert np.isnan(project(threat, outside, outside)).all()
    assert not contains(threat, outside, np.float32([1.0, 7.0, 0.2]))
    with pytest.raises(ValueError, match=r"x\[0, 0\] is 1.2"):
        threats.project(threat, outside, outside)
    # A frozen feature may lie anywhere, and rounding is no violation.
    check_inputs(threat, inside[None])
    rounded = inside + np.float32([0.5 + 1e-6, 0, 0])
    value = project(threat, rounded, rounded)
    np.testing.assert_allclose(value, [1, 7, 0.2], atol=2e-6)
    assert contains(threat, rounded, value)
    clipping = threat_model(norm, 0.5, lower=0.0, upper=1.0, clip=True)
    check_inputs(clipping, outside[None])
    np.testing.assert_allclose(project(clipping, outside, outside), [1, 1, 0.2])


def test_an_input_that_is_known_is_checked_inside_of_a_trace():
    threat = threat_model("l2", 0.5, lower=0.0)
    clean = np.float32([-1.0, 2.0])
    with pytest.raises(ValueError, match=r"x\[0, 0\] is -1"):
        jax.eval_shape(lambda x: threats.project(threat, clean, x), clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": [1.9]}, "frozen must be indices .*, got 1.9 among them"),
        ({"frozen": np.array([1.0, 2.0])}, "got 1.0 among them"),
        ({"frozen": ["age"]}, "got the name 'age': give its index"),
        ({"frozen": "age"}, "frozen must be indices .*, got 'age'"),
        ({"frozen": 3}, "frozen must be indices .*, got 3"),
        ({"frozen": [True, 2]}, "got True among them"),
        ({"frozen": [0, 0, 1, 1]}, "got 0 twice; a mask must be boolean"),
        ({"frozen": MASK, "num_features": 5}, "n = 5, got a mask of 4"),
        ({"frozen": [[0, 1]]}, r"got \[0, 1\] among them"),
        ({"groups": [0, 1, 2]}, r"groups\[0\] must be indices .*, got 0"),
        ({"groups": {"colour": [0, 1]}}, r"groups\[0\] must be .*got 'colour'"),
        ({"groups": [("red", "blue")]}, "got the name 'red'"),
        ({"groups": 2}, "groups must be a sequence of one-hot groups, got 2"),
        ({"groups": [(0, 9)], "num_features": 4}, r"0…3, got \[9\]"),
        ({"num_features": 2.5}, "num_features must be an integer.*2.5"),
        ({"lower": "zero"}, "lower must hold numbers, got 'zero'"),
        ({"upper": [1, None, "x"]}, "upper must hold numbers"),
        ({"lower": [0, 0], "num_features": 3}, r"lower must be a number or \[3\].*2"),
        ({"lower": [0, 0], "upper": [1, 1, 1]}, r"upper must be a number or \[2\].*3"),
        ({"lower": np.zeros((2, 3))}, r"lower must be .*shape \(2, 3\)"),
        ({"epsilon": "big"}, "epsilon must be nonnegative and finite, got 'big'"),
        ({"epsilon": None}, "epsilon must be nonnegative and finite, got None"),
        ({"epsilon": np.ones(2)}, "epsilon must be nonnegative and finite, got array"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        threat_model(**options)
