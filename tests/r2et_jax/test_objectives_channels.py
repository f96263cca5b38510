"""Penalties that rank pixels against all pairs of pixels written out, float64.

The references have the dense gradient and Hessian, and loop over pairs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives
from r2et_jax.objectives import thickness

CHANNELS, PIXELS, K, KP, M, EPSILON = 3, 5, 2, 2, 3, 0.8
N = CHANNELS * PIXELS
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(M, N)), np.array([2, 0, 3])
KEY = jax.random.key(5)
# Name of a method, and which of its penalties is meant.
TERMS = {
    "r2et_nh": "gap",
    "r2et_mm_nh": "mm_gap",
    "r2et_anchored": "anchored_gap",
    "r2et_exp": "exp_gap",
    "r2et_mm_exp": "mm_exp_gap",
    "ratio": "radius",
    "ratio_hinge": "radius_hinge",
    "adv_gap": "adv_gap",
    "at_mixed": "adv_loss",
    "rat": "adv_hinge",
    "mc_thickness": "thickness",
}


def network(act):
    def apply(params, x, /):
        return act(x @ params["w1"] + params["b1"]) @ params["w2"]

    return apply


def bent(u):  # the surrogate's activation
    return 0.3 * u + jax.nn.sigmoid(u)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (N, 6), "b1": (6,), "w2": (6, 4)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def _derivatives(act):
    def scores(params, x, c):
        z = act(x @ params["w1"] + params["b1"]) @ params["w2"]
        p = jnp.exp(z) / jnp.sum(jnp.exp(z))
        return jnp.stack([p[c], jnp.log(p[c]) - jnp.log(1 - p[c]), -jnp.log(p[c])])

    def all_of(params, x, c):
        slopes = jax.jacfwd(scores, 1)
        value, first = scores(params, x, c), slopes(params, x, c)
        return value, first, jax.jacfwd(slopes, 1)(params, x, c)

    return jax.jit(all_of)


def dense(params, x, c, act=jnp.tanh):
    """Values, gradients and Hessians of probability, log-odds and loss."""
    return [np.asarray(leaf) for leaf in _derivatives(act)(params, x, c)]


def predicted(params, x):
    return int(np.argmax(network(np.tanh)(params, x)))


def pixels(values):
    return np.array(
        [values[CHANNELS * i : CHANNELS * (i + 1)].sum() for i in range(PIXELS)]
    )


def unit(v):
    return v / np.linalg.norm(v)


def map_of(params, x, c, act=jnp.tanh):
    g = np.abs(dense(params, x, c, act)[1][1])
    return pixels(g) / g.sum()


def all_pairs(order):
    return [(i, j) for i in order[:K] for j in order[K:]]


def smallest(order):
    return [(order[K - 1 - i], order[K + i]) for i in range(KP)]


def slope_of_map(params, x, c, direction, act):
    """∇ₓ Σ direction·I of the pixel map, by the quotient rule."""
    g, h = (leaf[1] for leaf in dense(params, x, c, act)[1:])
    signs, total = np.sign(g), np.abs(g).sum()
    wide = np.repeat(direction, CHANNELS)
    outer = (wide * np.abs(g)).sum() / total
    return h @ ((wide - outer) * signs) / total


def attacked(params, x, c, order, direction_of, start=0.0):
    """Three normalised steps down the goal, through the surrogate."""
    delta = start + np.zeros(N)
    for _ in range(3):
        direction = direction_of(map_of(params, x + delta, c, bent))
        slope = slope_of_map(params, x + delta, c, direction, bent)
        delta = delta - 0.6 * EPSILON * unit(slope)
        delta = delta * min(1.0, EPSILON / np.linalg.norm(delta))
    return delta


def smooth_precision_slope(top, values):
    ordered = np.sort(values)[::-1]
    border, theta = (ordered[K - 1] + ordered[K]) / 2, 0.3 / PIXELS
    s = 1 / (1 + np.exp(-(values - border) / theta))
    return np.where(top, 1, -1) * s * (1 - s) / theta / (2 * K)


def reference_penalty(term, params, ranking_params, index):
    """A penalty of one example; the model itself ranks where ranking_params is None."""
    x, label = X[index], Y[index]
    c = label if term == "adv_loss" else predicted(params, x)
    values, slopes, hessians = dense(params, x, c)
    ranked = slopes[1] if ranking_params is None else dense(ranking_params, x, c)[1][1]
    order = np.argsort(-pixels(np.abs(ranked)))
    top = np.isin(np.arange(PIXELS), order[:K])
    signs = np.sign(ranked)

    def shares(g):
        return pixels(signs * g) / np.abs(g).sum()

    map_shares = shares(slopes[1])
    if term in ("gap", "mm_gap"):
        pairs = all_pairs(order) if term == "gap" else smallest(order)
        return -np.mean([map_shares[i] - map_shares[j] for i, j in pairs])
    if term in ("exp_gap", "mm_exp_gap"):
        pairs = all_pairs(order) if term == "exp_gap" else smallest(order)
        return np.mean(
            [np.exp(-(map_shares[i] - map_shares[j]) / 0.05) for i, j in pairs]
        )
    if term == "anchored_gap":
        pairs = [(order[i], order[K - 1]) for i in range(K - 1)]
        pairs += [(order[K - 1], order[j]) for j in range(K, K + KP)]
        return -np.mean([map_shares[i] - map_shares[j] for i, j in pairs])
    if term in ("radius", "radius_hinge"):
        g, h = (leaf[0 if term == "radius" else 1] for leaf in (slopes, hessians))
        saliency = pixels(signs * g)
        rows = np.array([pixels(signs * row) for row in h.T]).T  # ∇ of each pixel's
        floor = 0.1 * pixels(np.abs(g)).mean()
        radii = [
            (saliency[i] - saliency[j]) / (np.linalg.norm(rows[i] - rows[j]) + floor)
            for i, j in smallest(order)
        ]
        if term == "radius":
            return -np.mean(radii)
        return np.mean([max(0.0, EPSILON - radius) for radius in radii])
    if term in ("adv_gap", "adv_loss"):
        mean = np.where(top, 1 / K, -1 / (PIXELS - K))
        delta = attacked(params, x, c, order, lambda values: mean)
        if term == "adv_loss":
            return dense(params, x + delta, c)[0][2]
        moved = map_of(params, x + delta, c)
        return -np.mean([moved[i] - moved[j] for i, j in all_pairs(order)])
    keys = jax.random.split(jax.random.fold_in(KEY, 0), M)
    if term == "adv_hinge":
        start = np.asarray(jax.random.normal(keys[index], (N,), jnp.float64))
        goal = functools.partial(smooth_precision_slope, top)
        delta = attacked(params, x, c, order, goal, 0.3 * EPSILON * unit(start))
        moved = PIXELS * map_of(params, x + delta, c)
        middle = (moved[top].min() + moved[~top].max()) / 2
        return sum(
            max(0.0, 0.3 - (moved[i] - middle if top[i] else middle - moved[i]))
            for i in range(PIXELS)
        )
    points = thickness.segment_points(
        jnp.asarray(x), num_draws=2, num_points=1, sigma=np.sqrt(0.5), key=keys[index]
    )
    counts = []
    for point in np.asarray(points):
        moved = map_of(params, point, c)
        for i, j in all_pairs(order):
            gap = (moved[i] - moved[j]) * PIXELS / 0.3
            counts.append(1 / (1 + np.exp(-gap)))
    return -np.mean(counts)


def references(name, params, ranking_params=None):
    """The penalty of every example."""
    term = TERMS[name]
    return [reference_penalty(term, params, ranking_params, i) for i in range(M)]


def penalty_of(name):
    """The mean of one penalty over the batch, from the method's loss."""
    made = objectives.objective(
        name,
        network(jnp.tanh),
        k=K,
        k_prime=KP,
        surrogate=network(bent),
        epsilon=EPSILON,
        channels=CHANNELS,
    )
    weights = jnp.array([float(term == TERMS[name]) for term in made.terms])

    def penalty(params, reference=None):
        data, options = (jnp.asarray(X), jnp.asarray(Y)), {"reference": reference}
        whole = made.loss(params, *data, weights, key=KEY, **options)
        return whole - made.loss(params, *data, 0 * weights, key=KEY, **options)

    return penalty


@pytest.mark.parametrize("name", TERMS)
def test_penalties_rank_pixels(name):
    params = parameters()
    penalty = jax.jit(penalty_of(name))(params)
    expected = np.mean(references(name, params))
    np.testing.assert_allclose(penalty, expected, rtol=1e-8)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("name", ["r2et_nh", "r2et_anchored", "ratio_hinge"])
def test_another_models_ranking_and_signs_are_those_of_its_pixels(name):
    params, reference = parameters(), parameters(1)
    penalty = jax.jit(penalty_of(name))(params, reference)
    each = references(name, params, reference)
    np.testing.assert_allclose(penalty, np.mean(each), rtol=1e-8)
    alone = references(name, params)
    assert abs(np.mean(each) - np.mean(alone)) > 1e-3


@pytest.mark.parametrize("name", ["r2et_nh", "ratio"])
def test_slopes_are_those_of_the_reference(name):
    params, step = parameters(), 1e-6
    direction = jax.tree.map(np.cos, params)
    slope = jax.jit(lambda p: jax.jvp(penalty_of(name), (p,), (direction,))[1])(params)
    moved = [
        np.mean(references(name, {n: p + t * direction[n] for n, p in params.items()}))
        for t in (step, -step)
    ]
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-5)


def test_curvature_is_that_of_the_input():
    made = [
        objectives.objective("est_h", network(jnp.tanh), k=K, channels=channels)
        for channels in (1, CHANNELS)
    ]
    data = parameters(), jnp.asarray(X), jnp.asarray(Y), jnp.ones(1)
    assert made[0].loss(*data) == made[1].loss(*data)


def test_mistakes_raise():
    apply = network(jnp.tanh)
    with pytest.raises(ValueError, match="channels must be .* got 0"):
        objectives.objective("r2et_nh", apply, k=K, channels=0)
    with pytest.raises(ValueError, match="cert_rank ranks single inputs.*= 3"):
        objectives.objective("cert_rank", apply, k=K, layers=lambda p: p, channels=3)
    made = objectives.objective("r2et_nh", apply, k=K, channels=4)
    with pytest.raises(ValueError, match=r"4 channels need .*got shape \(15,\)"):
        made.loss(parameters(), jnp.asarray(X), jnp.asarray(Y), jnp.ones(1))
    for name in ("r2et_nh", "rat"):
        made = objectives.objective(name, apply, k=PIXELS, channels=CHANNELS)
        with pytest.raises(ValueError, match="1…4 for n = 5"):
            made.loss(
                parameters(), jnp.asarray(X), jnp.asarray(Y), jnp.ones(1), key=KEY
            )
