"""Domains: the support function against the largest value of many points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.bounds import Policy, affine, ball, bound, box, of_threat
from r2et_jax.bounds.domain import with_slabs
from r2et_jax.threat import threat_model
from tests.bounds_sampling import points


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


X = np.array([0.2, 0.5, 0.9])
COEFFICIENTS = np.random.default_rng(0).standard_normal((3, 40))
NORMAL = np.array([[1.0, 2.0, -1.0]])


SETS = {
    "l2": lambda: ball(X, 0.5),
    "linf": lambda: ball(X, 0.5, norm="linf"),
    "frozen": lambda: ball(X, 0.5, movable=np.array([True, False, True])),
    "box": lambda: box(X - 0.1, X + 0.3),
    "l2 in box": lambda: of_threat(threat_model("l2", 0.5, lower=0, upper=1), X),
    "linf in box": lambda: of_threat(threat_model("linf", 0.3, lower=0, upper=1), X),
    "frozen l2 in box": lambda: of_threat(
        threat_model("l2", 0.5, lower=0, upper=1, frozen=[1], num_features=3), X
    ),
    "slab": lambda: with_slabs(ball(X, 0.5), NORMAL, np.array([0.1]), np.array([0.3])),
    "slab beyond": lambda: with_slabs(
        ball(X, 0.5), NORMAL, np.array([-9.0]), np.array([9.0])
    ),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_support_is_that_of_the_set(name):
    domain = SETS[name]()
    delta = points(domain, count=90000) - np.asarray(domain.center)
    largest = (delta @ COEFFICIENTS).max(axis=0)
    support = np.asarray(domain.support(jnp.asarray(COEFFICIENTS)))
    assert np.all(largest <= support + 1e-12)
    scale = np.abs(COEFFICIENTS).sum(axis=0)
    # Random points come near the largest one in three dimensions.
    assert np.all(support - largest <= 0.03 * scale)


def test_support_of_a_slab_is_the_closed_form():
    domain = with_slabs(ball(X, 0.5), NORMAL, np.array([0.1]), np.array([0.3]))
    unit = NORMAL[0] / np.linalg.norm(NORMAL)
    low, high = (end / np.linalg.norm(NORMAL) for end in (0.1, 0.3))
    a = COEFFICIENTS[:, 0]
    along, across = a @ unit, np.linalg.norm(a - (a @ unit) * unit)
    place = np.linspace(low, high, 200001)
    best = (along * place + across * np.sqrt(0.25 - place**2)).max()
    support = domain.support(jnp.asarray(a))
    np.testing.assert_allclose(support, best, rtol=1e-9)


def test_a_ball_in_a_box_is_no_wider_than_either():
    cut = SETS["l2 in box"]()
    a = jnp.asarray(COEFFICIENTS)
    alone = ball(X, 0.5).support(a), box(0 * X, 0 * X + 1, center=X).support(a)
    assert np.all(cut.support(a) <= np.minimum(*alone) + 1e-9)
    assert np.mean(np.asarray(cut.support(a)) / np.minimum(*alone)) < 0.99


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.5])
def test_a_ball_in_a_box_has_the_best_multiplier(epsilon):
    """Duality is exact there: against the largest value, by bisection."""
    rng = np.random.default_rng(2)
    x = np.where(rng.uniform(size=60) < 0.5, 0.0, rng.integers(0, 256, 60) / 255)
    a = rng.standard_normal((60, 20)) * np.exp(rng.standard_normal((60, 1)))
    cut = of_threat(threat_model("l2", epsilon, lower=0, upper=1), jnp.asarray(x))
    least, most = np.zeros(20), np.full(20, 1e3)
    for _ in range(100):
        mu = (least + most) / 2
        delta = np.clip(mu * a, -x[:, None], 1 - x[:, None])
        inside = np.linalg.norm(delta, axis=0) <= epsilon
        least, most = np.where(inside, mu, least), np.where(inside, most, mu)
    exact = (a * np.clip(least * a, -x[:, None], 1 - x[:, None])).sum(axis=0)
    support = np.asarray(cut.support(jnp.asarray(a)))
    assert np.all(support >= exact)
    np.testing.assert_allclose(support, exact, rtol=1e-6)


def test_what_a_threat_model_freezes_has_no_part():
    threat = threat_model("l2", 0.5, absent="frozen")
    domain = of_threat(threat, jnp.array([0.0, 1.0, 2.0]))
    assert float(domain.support(jnp.array([5.0, 0.0, 0.0]))) == 0
    made = jax.jit(lambda d: bound(lambda x: x * 2, d).interval())(domain)
    assert made[0][0] == made[1][0] == 0 or abs(made[1][0] - made[0][0]) < 1e-300


def test_slabs_together_hold_what_the_whole_ball_holds():
    # The best of both halves is at most that of the whole.
    halves = [
        with_slabs(ball(X, 0.5), NORMAL, np.array([low]), np.array([high]))
        for low, high in ((-9.0, 0.0), (0.0, 9.0))
    ]
    a = jnp.asarray(COEFFICIENTS)
    both = np.maximum(*(np.asarray(half.support(a)) for half in halves))
    np.testing.assert_allclose(both, ball(X, 0.5).support(a), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ball(np.arange(3), 0.1), "float array, got int64"),
        (lambda: ball(X, -0.1), "epsilon.*-0.1"),
        (lambda: ball(X, 0.1, norm="l1"), "l1"),
        (lambda: ball(X, 0.1, movable=np.ones(3)), r"boolean mask of shape \(3,\)"),
        (lambda: box(X, X[:2]), r"\(3,\) and \(2,\)"),
        (lambda: box(X, X - 1), "lower must not exceed upper"),
        (
            lambda: with_slabs(ball(X, 0.1), NORMAL[:, :2], np.zeros(1), np.ones(1)),
            r"normals \[s, 3\]",
        ),
    ],
)
def test_sets_that_are_none_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("block", [40, 400, 2**17])
def test_sums_of_pairs_by_blocks(monkeypatch, block):
    """In one piece, in blocks, and row by row."""
    monkeypatch.setattr(affine, "_BLOCK", block)
    rng = np.random.default_rng(6)
    rows, features = rng.normal(size=(70, 5)), np.array([4, 1, 2])
    signs = np.array([[1.0], [-1.0], [0.0]])
    sums = affine.Affine._pair_sums(jnp.asarray(rows), features, signs, jnp.abs)
    leading = (signs * rows[:, features].T)[:, None]
    for made, t in zip(sums, (-1, 1), strict=True):
        expected = np.abs(leading + t * rows.T).sum(axis=2)
        np.testing.assert_allclose(made, expected, rtol=1e-12)


@pytest.mark.parametrize("block", [None, 40])
@pytest.mark.parametrize("kind", ["l2", "linf", "l2 in box", "slab", "no symbols"])
def test_separations_are_the_sums_of_pairs(monkeypatch, kind, block):
    """All pairs in one pass, as `combined` bounds each of them."""
    if block:
        monkeypatch.setattr(affine, "_BLOCK", block)
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        x, w = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=(4, 5)))
        domain = ball(x, 0.3, norm="linf" if kind == "linf" else "l2")
        if kind == "l2 in box":
            domain = of_threat(
                threat_model("l2", 0.3, lower=np.asarray(x) - 0.1, upper=None), x
            )
        elif kind == "slab":
            normal = jnp.asarray(rng.normal(size=(1, 4)))
            domain = with_slabs(domain, normal, jnp.array([-0.1]), jnp.array([0.2]))
        policy = Policy(max_symbols=0 if kind == "no symbols" else None)
        # Noise that one entry has alone would be its box.
        mix = jnp.asarray(rng.normal(size=(5, 5)))
        made = bound(lambda x: jnp.tanh(x @ w) ** 2 @ mix, domain, policy=policy)
        assert (made.noise.shape[0] == 0) == (kind == "no symbols")
        features, signs = jnp.array([3, 0, 2]), jnp.array([1.0, -1.0, 0.0])
        separations = np.asarray(made.separations(features, signs))
        for row, (i, sign) in enumerate(zip(features, signs, strict=True)):
            pairs = jnp.stack([jnp.full(5, i), jnp.arange(5)], 1)
            ends = [
                made.combined(pairs, jnp.stack([jnp.full(5, sign), t * jnp.ones(5)], 1))
                for t in (-1.0, 1.0)
            ]
            expected = np.minimum(*(np.asarray(end.lower()) for end in ends))
            others = np.arange(5) != i
            np.testing.assert_allclose(
                separations[row, others], expected[others], rtol=1e-12
            )
            # Never above what values of the domain are.
            seen = np.asarray(jnp.tanh(points(domain) @ w) ** 2 @ mix)
            gaps = sign * seen[:, [i]] - np.abs(seen)
            assert (gaps >= separations[row] - 1e-12)[:, others].all()
