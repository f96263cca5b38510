"""Thickness against brute force, hand-derived integrals and its own properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2et_jax import ranking, saliency
from r2et_jax.ranking import thickness as module
from r2et_jax.ranking.thickness import ordered_share, pair_thickness

VALUES = st.sampled_from([0.0, 0.5, 1.0, 2.0, float("nan")])


def square(params, x, target):
    del target
    return jnp.sum(params * x**2)


EXPLAIN = saliency.gradient(square)


@given(
    st.lists(VALUES, min_size=1, max_size=6), st.lists(VALUES, min_size=1, max_size=6)
)
@pytest.mark.parametrize("few", [0, 10**6])
def test_ordered_share_is_that_of_all_pairs(few, inside, outside):
    expected = np.mean([[a >= b for b in outside] for a in inside])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW_INSIDE", few)
        share = ordered_share(jnp.array(inside), jnp.array(outside))
    np.testing.assert_allclose(share, expected, atol=1e-6)


def test_a_crossing_on_the_way_is_found_where_it_is():
    """The first feature falls below the second at t = .3 and stays there."""
    x, draw = jnp.array([1.0, 0.7]), jnp.array([[0.0, 0.7]])
    share = ranking.mean_thickness(EXPLAIN, k=1, num_points=1000)(1.0, x, 0, draw)
    np.testing.assert_allclose(share.mean, 0.3, atol=1e-3)
    assert np.isnan(share.stderr)


def draws(n, count=50):
    return 2 * jax.random.normal(jax.random.key(1), (count, n))


def test_mean_and_pairs_agree_with_brute_force():
    n, k, points = 6, 2, 5
    params, x = jnp.arange(1.0, n + 1), jnp.array([0.3, -1.2, 0.5, 0.1, 0.9, -0.2])
    ends = draws(n)
    pairs = pair_thickness(EXPLAIN, k=k, num_points=points)(params, x, 0, ends)
    mean = ranking.mean_thickness(EXPLAIN, k=k, num_points=points)(params, x, 0, ends)
    order = np.argsort(-np.abs(params * x), kind="stable")
    each = np.zeros((len(ends), k, n - k))
    for d, end in enumerate(np.asarray(ends)):
        for t in (np.arange(points) + 0.5) / points:
            size = np.abs(np.asarray(params) * ((1 - t) * np.asarray(x) + t * end))
            size = size[order]
            each[d] += (size[:k, None] >= size[None, k:]) / points
    np.testing.assert_allclose(pairs, each.mean(0), atol=1e-6)
    np.testing.assert_allclose(mean.mean, each.mean(), atol=1e-6)
    spread = each.mean((1, 2)).std(ddof=1) / np.sqrt(len(ends))
    np.testing.assert_allclose(mean.stderr, spread, rtol=1e-4)
    assert pairs.min() < mean.mean < pairs.max()


def test_a_ranking_that_never_moves_is_as_thick_as_may_be():
    def linear(params, x, target):
        return params @ x

    explain = saliency.gradient(linear)
    params, x = jnp.array([3.0, 1.0, 2.0]), jnp.ones(3)
    assert ranking.mean_thickness(explain, k=1)(params, x, 0, draws(3)).mean == 1
    assert pair_thickness(explain, k=2)(params, x, 0, draws(3)).min() == 1


def test_it_maps_over_inputs_and_scales():
    fn = ranking.mean_thickness(EXPLAIN, k=2, num_points=4)
    x = jax.random.normal(jax.random.key(2), (3, 5))
    params = jnp.arange(1.0, 6.0)
    ends = x[:, None] + draws(5, 7)
    run = jax.vmap(fn, (None, 0, None, 0))
    both = run(params, x, 0, ends), run(10 * params, x, 0, ends)
    assert both[0].mean.shape == (3,)
    np.testing.assert_allclose(both[0].mean, both[1].mean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.mean_thickness(EXPLAIN, k=1, num_points=0), "num_points"),
        (
            lambda: ranking.mean_thickness(EXPLAIN, k=2)(
                1.0, jnp.ones(2), 0, jnp.ones((1, 2))
            ),
            "k must",
        ),
        (
            lambda: pair_thickness(EXPLAIN, k=1)(1.0, jnp.ones(2), 0, jnp.ones((4, 3))),
            r"draws must have the shape \[D, 2\], got \(4, 3\)",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
