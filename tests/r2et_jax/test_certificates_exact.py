"""The exact worst P@k against all activation patterns of tiny networks."""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from r2et_jax import models, subject, threat_model
from r2et_jax.audit import measures
from r2et_jax.audit.layout import Layout
from r2et_jax.certificates import certify, exact, exact_certificate, regions, search
from r2et_jax.certificates.exact import is_piecewise_linear

N, H, K = 4, 5, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, N)).astype(np.float32)
MODEL = models.SkipMLP(hidden=(H,), activation="leaky_relu")


def parameters(seed):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros(N, jnp.float32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
    )


PARAMS = parameters(0)
EXAMINED = subject(MODEL, PARAMS)
THREATS = {
    "l2": threat_model("l2", 0.6),
    "frozen and boxed": threat_model(
        "l2", 0.8, frozen=[1], lower=-2.5, upper=1.0, num_features=N, clip=True
    ),
    "linf": threat_model("linf", 0.3, lower=-2.5, upper=1.0, clip=True),
}


@functools.cache
def weights(seed=0):
    dense, last, skip = (
        parameters(seed)["params"][name] for name in ("Dense_0", "Dense_1", "skip")
    )
    parts = dense["kernel"], dense["bias"], last["kernel"][:, 0], skip["kernel"][:, 0]
    return tuple(np.asarray(part, float) for part in parts)


def gradients(z, seed=0):
    """|g| where the pre-activations have the signs of z [..., h], [..., n]."""
    weight, _, out, skip = weights(seed)
    return np.abs(np.where(z > 0, 1.0, 0.01) * out @ weight.T + skip)


def stay(maps, top):
    """Share of `top` among the K largest [...]."""
    order = np.argsort(-maps, axis=-1, kind="stable")[..., :K]
    return np.isin(order, top).mean(axis=-1)


def admitted(threat, x):
    """Centre and box of moves, written anew: frozen features have a box of no width."""
    low = np.full(N, -np.inf if threat.lower is None else float(threat.lower))
    high = np.full(N, np.inf if threat.upper is None else float(threat.upper))
    moves = np.ones(N, bool) if threat.movable is None else np.array(threat.movable)
    center = np.where(moves, np.clip(x, low, high), x).astype(float)
    low = np.where(moves, low - center, 0.0)
    return center, low, np.where(moves, high - center, 0.0)


def reached(threat, center, low, high, signs):
    """Whether an admissible move leads inside of a pattern, by a general optimiser."""
    weight, bias, *_ = weights()
    rows = signs[:, None] * weight.T
    start = signs * (center @ weight + bias)
    radius = float(threat.epsilon)
    if threat.norm == "linf":
        ends = np.stack([np.maximum(low, -radius), np.minimum(high, radius)], 1)
        solved = optimize.linprog(np.zeros(N), A_ub=-rows, b_ub=start, bounds=ends)
        return solved.status == 0
    solved = optimize.minimize(
        lambda d: d @ d / 2,
        np.zeros(N),
        jac=lambda d: d,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints={
            "type": "ineq",
            "fun": lambda d: rows @ d + start,
            "jac": lambda d: rows,
        },
    )
    fits = solved.success and (rows @ solved.x + start > -1e-7).all()
    return fits and np.linalg.norm(solved.x) < radius


def worst(threat, x, top):
    """The least share of all patterns that are reached."""
    center, low, high = admitted(threat, x)
    patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=H)))
    shares = stay(gradients(patterns), top)
    for i in np.argsort(shares, kind="stable"):
        if reached(threat, center, low, high, patterns[i]):
            return shares[i]
    raise AssertionError("no pattern is reached")


def clean_top(x, seed=0):
    weight, bias, *_ = weights(seed)
    return np.argsort(-gradients(x @ weight + bias, seed), kind="stable")[:K]


@pytest.mark.parametrize("name", THREATS)
def test_it_is_the_least_over_all_patterns(name):
    threat = THREATS[name]
    certificate = exact_certificate(EXAMINED, X, threat, k=K)
    expected = [worst(threat, x, clean_top(x)) for x in X]
    assert certificate.closed.all() and certificate.matches.all()
    np.testing.assert_allclose(certificate.lower, expected)
    np.testing.assert_allclose(certificate.upper, expected)
    assert min(expected) < 1
    # The witness itself, by other code.
    weight, bias, *_ = weights()
    for x, moved, share in zip(
        X, certificate.perturbed, certificate.upper, strict=True
    ):
        center, low, high = admitted(threat, x)
        move = moved - center
        order = 2 if threat.norm == "l2" else np.inf
        if share < 1:
            assert np.linalg.norm(move, order) <= float(threat.epsilon) * (1 + 1e-6)
            assert (move >= low - 1e-6).all() and (move <= high + 1e-6).all()
        assert stay(gradients(moved @ weight + bias), clean_top(x)) == share


def run(x, epsilon, *, norm="l2", seed=0, unit=1e-7, max_nodes=10_000, top=None):
    """The search alone, in NumPy."""
    layer = search.Layer(*weights(seed), 0.01, 1.0, unit)
    low = np.full(N, -epsilon if norm == "linf" else -np.inf)
    moves = regions.Moves(norm, epsilon, low, -low)
    top = clean_top(x, seed) if top is None else top
    return search.search(
        layer, x.astype(float), moves, np.ones(N, bool), np.sort(top), k=K, known=K,
        max_nodes=max_nodes, max_seconds=60.0,
    )  # fmt: skip


def violations(norm="l2", count=800):
    """Random inputs of balls at which fewer features stay than is proved."""
    rng, below = np.random.default_rng(1), 0
    for seed, x, epsilon in itertools.product(range(6), X, (0.25, 0.6)):
        moves = rng.normal(size=(count, N))
        if norm == "l2":
            moves /= np.linalg.norm(moves, axis=1, keepdims=True)
        else:
            moves = np.sign(moves) * rng.uniform(size=moves.shape) ** 0.2
        moves *= epsilon * rng.uniform(size=(count, 1)) ** 0.1
        weight, bias, *_ = weights(seed)
        top = clean_top(x, seed)
        shares = stay(gradients((x + moves) @ weight + bias, seed), top)
        violated = run(x, epsilon, norm=norm, seed=seed)
        assert violated.least <= violated.most
        below += (shares < violated.least / K - 1e-9).sum()
    return below


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_input_of_the_ball_is_below(norm):
    assert violations(norm) == 0


@pytest.mark.parametrize("damage", ["reach", "given", "point"])
def test_the_hunt_finds_a_search_that_forgets_regions(damage, monkeypatch):
    whole = getattr(regions.Moves, damage)
    monkeypatch.setattr(search, "_NUM_DRAWS", 1)
    if damage == "point":
        monkeypatch.setattr(
            regions.Moves,
            "point",
            lambda self, *args: whole(self.scaled(0.5), *args),
        )
    else:

        def less(self, *args):
            low, high = whole(self, *args)
            middle = (low + high) / 2
            return middle - (high - low) / 4, middle + (high - low) / 4

        monkeypatch.setattr(regions.Moves, damage, less)
    assert violations() > 0


def test_regions_that_are_not_met_are_proved_so():
    """The shortest move and its proof, against the closed form of one half-space."""
    moves = regions.Moves("l2", 1.0, np.full(2, -np.inf), np.full(2, np.inf))
    row = np.array([[0.6, 0.8]])
    np.testing.assert_allclose(moves.point(row, np.array([0.7])), 0.7 * row[0])
    assert moves.point(row, np.array([1.0 + 1e-9])) is None
    both = np.array([[1.0, 0.0], [0.0, 1.0]])
    sides = np.array([0.6, 0.79])
    np.testing.assert_allclose(moves.point(both, sides), sides, atol=1e-12)
    assert moves.point(both, np.array([0.6, 0.81])) is None
    low, high = moves.given(both.T, np.array([0.6, -0.5]))
    np.testing.assert_allclose(high, [[1.0, 0.8], [1.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(low, [[0.6, -0.8], [-1.0, -0.5]], atol=1e-6)
    boxed = regions.Moves("l2", 1.0, np.array([-1.0, -1.0]), np.array([0.5, 1.0]))
    assert boxed.point(both, sides) is None
    box = regions.Moves("linf", 1.0, np.full(2, -1.0), np.ones(2))
    assert box.point(row, np.array([1.39])) is not None
    assert box.point(row, np.array([1.41])) is None
    assert box.scaled(0.5).point(row, np.array([0.71])) is None


def test_a_limit_leaves_a_gap_that_holds_the_truth():
    whole = [run(x, 0.6) for x in X]
    assert all(certificate.least == certificate.most for certificate in whole)
    stopped = [run(x, 0.6, max_nodes=1) for x in X]
    for certificate, first in zip(whole, stopped, strict=True):
        assert first.least <= certificate.least and certificate.most <= first.most
    assert any(first.least < first.most for first in stopped)


def test_rounding_counts_against_the_features():
    """Two features of equal weights tie everywhere: neither is above the other."""
    weight, bias, out, skip = (part.copy() for part in weights())
    weight[:2], skip[:2] = 9 * weight[0], 9 * skip[0]
    layer = search.Layer(weight, bias, out, skip, 0.01, 1.0, 1e-7)
    moves = regions.Moves("l2", 0.0, np.full(N, -np.inf), np.full(N, np.inf))
    searched = search.search(
        layer, X[0].astype(float), moves, np.ones(N, bool), np.array([0]), k=1, known=1,
        max_nodes=100, max_seconds=9.0,
    )  # fmt: skip
    assert (searched.least, searched.most) == (0, 1)


def test_an_attacked_input_is_where_the_search_starts(monkeypatch):
    threat = THREATS["l2"]
    certificate = exact_certificate(EXAMINED, X, threat, k=K)
    monkeypatch.setattr(search, "_NUM_DRAWS", 1)
    stopped = exact_certificate(EXAMINED, X, threat, k=K, max_nodes=1)
    assert (stopped.upper >= certificate.upper).all() and not stopped.closed.all()
    start = np.where(np.arange(len(X))[:, None] % 2, certificate.perturbed, X + 9)
    helped = exact_certificate(EXAMINED, X, threat, k=K, max_nodes=1, start=start)
    odd = np.arange(len(X)) % 2 == 1
    np.testing.assert_array_equal(helped.upper[odd], certificate.upper[odd])
    assert (helped.lower <= certificate.lower).all()
    still = exact_certificate(EXAMINED, X, threat_model("l2", 0.0), k=K)
    assert (still.lower == 1).all() and still.closed.all()
    np.testing.assert_array_equal(still.perturbed, X)


def test_layers_of_another_model_prove_nothing():
    def other(params):
        return MODEL.layers(params)._replace(
            bias=params["params"]["Dense_0"]["bias"] + 1
        )

    made = subject(MODEL.apply, PARAMS, layers=other)
    certificate = exact_certificate(made, X, THREATS["l2"], k=K)
    assert not certificate.matches.any() and (certificate.lower == 0).all()


def test_what_is_not_served_is_named():
    smooth = models.MLP(hidden=(H,), activation="softplus")
    params = {name: PARAMS["params"][name] for name in ("Dense_0", "Dense_1")}
    made = subject(smooth, {"params": params})
    with pytest.raises(ValueError, match="linear on each side of 0"):
        exact._layer(made.layers(made.params), np.float32)
    plain = THREATS["l2"]
    group = threat_model("l2", 0.1, groups=[[0, 1]], group_rule="simplex")
    for examined, threat, options, match in (
        (subject(MODEL.apply, PARAMS), plain, {}, "needs a subject with `layers`"),
        (EXAMINED, group, {}, r"groups \(\(0, 1\),\)"),
        (EXAMINED, threat_model(prediction="same_class"), {}, "'same_class'"),
        (EXAMINED.at(PARAMS, X), plain, {}, "no contexts"),
        (EXAMINED, plain, {"k": N}, "k must lie"),
        (EXAMINED, plain, {"max_nodes": 0}, "max_nodes"),
        (EXAMINED, plain, {"max_seconds": 0.0}, "max_seconds"),
        (EXAMINED, plain, {"start": X[:1]}, "the shape of x"),
    ):
        with pytest.raises(ValueError, match=match):
            exact_certificate(examined, np.abs(X), threat, **{"k": K} | options)


@pytest.mark.slow
def test_no_other_certificate_proves_more():
    for epsilon in (0.05, 0.2, 0.6):
        threat = threat_model("l2", epsilon)
        certificate = exact_certificate(EXAMINED, X, threat, k=K)
        proved = certify(EXAMINED, X, threat, k=K).precision
        assert (proved <= certificate.lower + 1e-6).all()


@pytest.mark.slow
def test_its_example_runs():
    assert doctest.testmod(exact).failed == 0


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"activation": "relu"}, True),
        ({"activation": "leaky_relu"}, True),
        ({"activation": "softplus"}, False),
        ({"activation": "relu", "hidden": (4, 4)}, False),
        ({"activation": "relu", "num_outputs": 2}, False),
    ],
)
def test_who_has_an_exact_worst_case_is_known_without_a_search(options, fits):
    model = models.MLP(**{"hidden": (4,), **options})
    x = np.ones((1, 5), np.float32)
    examined = subject(model, model.init(jax.random.key(0), x[0]))
    assert is_piecewise_linear(examined) is fits
    threat = threat_model("l2", 0.01)
    if fits:
        assert exact_certificate(examined, x, threat, k=2).closed.all()
    else:
        with pytest.raises(ValueError, match="exact worst case needs"):
            exact_certificate(examined, x, threat, k=2)


def test_an_audit_that_proves_searches_too():
    row = Layout(jax.tree.structure(0), ((N,),), None, (N,))
    threat = threat_model("l2", 1.0)
    top_k = certify(EXAMINED, X, threat, k=K).features
    proved = {
        how: measures.certified(
            EXAMINED, row, X, threat, (0.3, 0.6), top_k, certify=how
        ).precision
        for how in ("auto", True)
    }
    exact_ones = [
        exact_certificate(EXAMINED, X, threat_model("l2", e), k=K).lower
        for e in (0.3, 0.6)
    ]
    np.testing.assert_array_equal(proved[True], np.maximum(proved["auto"], exact_ones))
    assert (proved[True] > proved["auto"]).any()
