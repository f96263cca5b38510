"""DFFOT, COMP and SUFF, against loops in NumPy over the definitions."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import metrics
from r2et_jax.metrics.faithfulness import (
    Faithfulness,
    conditional_baseline,
    constant_baseline,
)

N, HIDDEN = 7, 6
SIZES, FLIPS = (1, 3, 7), (2, 3, 5)
NAMES = Faithfulness._fields
module = importlib.import_module("r2et_jax.metrics.faithfulness")


def net(params, x):
    w, v = params
    return jnp.tanh(x @ w) @ v


def network(num_logits, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, HIDDEN)), rng.normal(size=(HIDDEN, num_logits))


def data(num, seed=1):
    """Inputs, and maps with ties and zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, N))
    return x, rng.integers(0, 4, (num, N)).astype(x.dtype)


def numpy_probabilities(params, x):
    w, v = params
    z = np.tanh(x @ w) @ v
    z = np.concatenate([[0.0], z]) if len(z) == 1 else z
    return np.exp(z) / np.exp(z).sum()


def by_definition(params, x, saliency, replacements, sizes, flip_sizes):
    """Feature by feature, size by size, draw by draw.

    replacements(removed) -> rows whose values stand for the removed features.
    """
    order = sorted(range(N), key=lambda i: (-saliency[i], i))

    def mean(removed):
        values = []
        for row in replacements(removed):
            changed = x.copy()
            for i in removed:
                changed[i] = row[i]
            values.append(numpy_probabilities(params, changed))
        return np.mean(values, axis=0)

    clean = numpy_probabilities(params, x)
    c = clean.argmax()
    flips = [j for j in sorted(flip_sizes) if mean(order[:j]).argmax() != c]
    comp = np.array([clean[c] - mean(order[:j])[c] for j in sizes])
    suff = np.array([clean[c] - mean(order[j:])[c] for j in sizes])
    tied = [sum(v == other for other in saliency) > 1 for v in saliency]
    return (
        min(flips) / N if flips else 1.0,
        float(bool(flips)),
        np.abs(comp).mean(),
        np.abs(suff).mean(),
        comp.mean(),
        suff.mean(),
        np.mean(tied),
    )


def measured(params, x, maps, baseline, **keywords):
    measure = metrics.faithfulness(net, baseline, **keywords)

    def measure_one(x, saliency, key):
        return measure(params, x, saliency, key=key)

    keys = jax.random.split(jax.random.key(0), len(x))
    return np.stack(jax.jit(jax.vmap(measure_one))(x, maps, keys), axis=1)


@pytest.mark.parametrize("num_logits", [1, 3])
@pytest.mark.parametrize("flip_sizes", [None, FLIPS])
def test_equals_loops_over_the_definition(num_logits, flip_sizes):
    with jax.enable_x64(True):
        params, (x, maps) = network(num_logits), data(40)
        mean = np.linspace(-0.5, 0.5, N)
        faithful = measured(
            params,
            x,
            maps,
            constant_baseline(mean),
            sizes=SIZES,
            flip_sizes=flip_sizes,
        )
    flips = range(1, N + 1) if flip_sizes is None else flip_sizes
    expected = [
        by_definition(params, *both, lambda _: [mean], SIZES, flips)
        for both in zip(x, maps, strict=True)
    ]
    np.testing.assert_allclose(faithful, expected, atol=1e-12)
    dffot, flipped = faithful[:, :2].T
    assert 0 < flipped.mean() < 1 and len(set(dffot)) >= 3  # all that can happen does
    assert np.all(dffot[flipped == 0] == 1)


def test_the_conditional_baseline_takes_the_nearest_inputs_on_what_is_kept():
    with jax.enable_x64(True):
        params, (x, maps) = network(2), data(25)
        inputs = np.random.default_rng(5).normal(size=(30, N))
        baseline = conditional_baseline(inputs, num_draws=3)
        sizes = range(1, N)  # with nothing kept, chance decides
        faithful = measured(params, x, maps, baseline, sizes=sizes, flip_sizes=sizes)
    for i in range(len(x)):

        def nearest(removed, x=x[i]):
            kept = [j for j in range(N) if j not in removed]
            distances = [sum((row[j] - x[j]) ** 2 for j in kept) for row in inputs]
            return inputs[np.argsort(distances)[:3]]

        # SUFF with j = n − 1 keeps all but one: never empty either.
        expected = by_definition(params, x[i], maps[i], nearest, sizes, sizes)
        np.testing.assert_allclose(faithful[i], expected, atol=1e-12, err_msg=str(i))


@pytest.mark.parametrize("unit", [1.0, 0.1, 0.01, 0.001, 1e-15, 1e12])
def test_the_nearest_inputs_are_the_nearest_in_any_unit(unit):
    rng = np.random.default_rng(11)
    inputs, x = rng.normal(size=(400, 6)), rng.normal(size=6)
    kept = np.array([True, True, False, True, True, False])
    nearest = np.argsort((inputs - x) ** 2 @ kept)[:10]
    baseline = jax.jit(conditional_baseline(np.float32(unit * inputs)))
    drawn = np.asarray(baseline(np.float32(unit * x), kept, jax.random.key(3)))
    # Features that are not kept tell which inputs were drawn.
    tags = np.float32(unit * inputs[:, 2])
    chosen = np.argmin(abs(tags - drawn[:, 2:3]), axis=1)
    assert set(chosen) == set(nearest)


def test_the_channels_of_a_pixel_go_together():
    params, (x, _) = network(2), data(20)
    params, x = jax.tree.map(np.float32, (params, x[:, :6]))
    params = params[0][:6], params[1]
    pixels = np.random.default_rng(2).random((20, 3)).astype(np.float32)
    zero = constant_baseline(0.0)
    of_pixels = measured(params, x, pixels, zero, sizes=(1, 2, 3))
    # The same as a saliency that ranks the channels of a pixel one after the other.
    entries = np.repeat(pixels, 2, axis=1)
    sizes = (2, 4, 6)
    alike = measured(params, x, entries, zero, sizes=sizes, flip_sizes=sizes)
    np.testing.assert_allclose(of_pixels[:, :6], alike[:, :6], atol=1e-6)
    assert len(set(of_pixels[:, 0])) > 1 and not of_pixels[:, 6].any()


def test_ties_between_inputs_are_broken_by_chance():
    inputs = np.repeat(np.arange(8.0), 2).reshape(8, 2)
    baseline = conditional_baseline(inputs, num_draws=1)
    keys = jax.random.split(jax.random.key(0), 400)
    x, nothing = np.zeros(2, np.float32), np.zeros(2, bool)
    drawn = jax.jit(jax.vmap(lambda key: baseline(x, nothing, key)))(keys)
    counts = np.bincount(np.asarray(drawn, int)[:, 0, 0], minlength=8)
    assert counts.min() > 20 and counts.sum() == 400


def test_a_one_hot_column_stays_while_the_others_of_its_group_tell_it():
    groups = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    baseline = jax.jit(conditional_baseline(groups, num_draws=4))
    x, key = np.float32([0, 1, 0]), jax.random.key(1)
    drawn = baseline(x, np.array([True, False, True]), key)
    np.testing.assert_array_equal(drawn, np.tile(x, (4, 1)))
    several = np.asarray(baseline(x, np.array([True, False, False]), key))
    np.testing.assert_array_equal(several.sum(axis=1), 1.0)  # of a category, always
    zero = constant_baseline(0.0)(x, jnp.array([True, False, True]), key)
    assert zero.sum() == 0  # of none


def test_a_ranking_by_what_the_model_needs_beats_its_reverse():
    w = jnp.array([3.0, -2.0, 1.0, 0.5, 0.1, 0.0, 0.0])
    x = np.random.default_rng(3).normal(size=(200, N)).astype(np.float32)
    measure = metrics.faithfulness(
        lambda w, x: (w @ x)[None],
        constant_baseline(0.0),
        sizes=range(1, N + 1),
    )

    @jax.jit
    @jax.vmap
    def both(x):
        # What a feature adds to the decision: positive for the predicted class.
        share = w * x * jnp.sign(w @ x)
        key = jax.random.key(0)
        return measure(w, x, share, key=key), measure(w, x, -share, key=key)

    best, worst = both(x)
    assert np.all(best.dffot <= worst.dffot)
    assert np.mean(best.dffot) < np.mean(worst.dffot) - 0.3
    better = best.eraser_comprehensiveness - worst.eraser_comprehensiveness
    assert np.all(better >= -1e-6)
    assert np.all(best.eraser_sufficiency <= worst.eraser_sufficiency + 1e-6)


def test_what_is_not_finite_is_not_a_number():
    params, (x, maps) = network(1), data(4)
    maps[1, 2] = np.nan
    x[2, 0] = np.inf
    params = jax.tree.map(np.float32, params)
    zero = constant_baseline(0.0)
    faithful = measured(params, np.float32(x), np.float32(maps), zero, sizes=SIZES)
    finite = np.isfinite(faithful[:, : NAMES.index("tied")])
    assert finite[[0, 3]].all() and not finite[1].any()
    nothing = np.float32(np.full((1, N), np.nan)), np.float32(maps[:1])
    faithful = measured(params, *nothing, zero, sizes=SIZES)
    assert np.isnan(faithful[0, : NAMES.index("tied")]).all()


def test_wrong_arguments_are_named():
    x, key = jnp.ones(N), jax.random.key(0)
    params = network(1)
    zero = constant_baseline(0.0)
    with pytest.raises(ValueError, match=r"sizes must lie in 1…n = 1…7, got \[0\]"):
        metrics.faithfulness(net, zero, sizes=(0,))(params, x, x, key=key)
    with pytest.raises(ValueError, match=r"flip_sizes must lie in 1…n = 1…7, got \[8"):
        faithful = metrics.faithfulness(net, zero, sizes=(1,), flip_sizes=(8,))
        faithful(params, x, x, key=key)
    with pytest.raises(ValueError, match=r"a multiple, got shapes \(7,\) and \(6,\)"):
        metrics.faithfulness(net, zero, sizes=(1,))(params, x, x[1:], key=key)
    with pytest.raises(ValueError, match=r"at most N = 3, got 4"):
        conditional_baseline(np.ones((3, N)), num_draws=4)
    with pytest.raises(ValueError, match=r"inputs must have the shape \[N, n\]"):
        conditional_baseline(np.ones(N))
    broken = np.ones((20, N))
    broken[3, 2] = broken[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"got nan at \[3, 2\] and 1 other places"):
        conditional_baseline(broken)

    def drawn(inputs):
        return conditional_baseline(inputs)(x, jnp.arange(N) > 0, key)

    assert np.isnan(jax.jit(drawn)(np.float32(broken))[:, 0]).all()


@pytest.mark.standard_promotion
def test_examples_in_docstrings():
    names = {"jax": jax, "jnp": jnp}
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 8 and result.failed == 0
