"""Certified P@k: hunts for inputs that break it, and the counting rule by force."""

import doctest
import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, certificates, models, saliency, score, threat
from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.certificates import counting
from r2et_jax.certificates.intervals import gap_bounds, slope_bounds, unit_reach
from r2et_jax.subject import Form

N, H, K = 6, 5, 3
RNG = np.random.default_rng(5)
X = RNG.normal(size=(4, N))
NORMS = ("l2", "linf")
NAMES = ("softplus", "leaky_relu", "tanh")


def module(name="softplus", skip=True, rho=2.0):
    kind = models.SkipMLP if skip else models.MLP
    return kind(hidden=(H,), activation=name, rho=rho)


def parameters(model, seed=0, scale=1.0, dtype=np.float64):
    """Random weights of size `scale` throughout, the skip too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(N, jnp.float32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), dtype), shapes
    )


@functools.cache
def _gradients(model):
    """|∇z| by automatic differentiation of the module [m, n]."""

    def size(params, x):
        return jnp.abs(jax.grad(lambda x: model.apply(params, x)[0])(x))

    return jax.jit(jax.vmap(size, (None, 0)))


@functools.cache
def _worst(model, norm):
    """Lowest |g_i| − |g_j| of all pairs [n, n] that descent finds around x."""

    def gap(params, x, i, j):
        g = jnp.abs(jax.grad(lambda x: model.apply(params, x)[0])(x))
        return g[i] - g[j]

    def worst_pair(params, x, start, i, j, ball):
        def step(t, carry):
            point, lowest = carry
            toward = -jax.grad(gap, 1)(params, point, i, j)
            length = 0.5 * ball.epsilon / (1 + 0.2 * t)
            if norm == "linf":
                move = jnp.sign(toward)
            else:
                move = toward / jnp.maximum(jnp.linalg.norm(toward), 1e-12)
            point = threat.project(ball, x, point + length * move)
            return point, jnp.minimum(lowest, gap(params, point, i, j))

        point = threat.project(ball, x, x + start)
        start = point, gap(params, point, i, j)
        return jax.lax.fori_loop(0, 15, step, start)[1]

    def run(params, x, starts, ball):
        i, j = (v.ravel() for v in jnp.meshgrid(*2 * [jnp.arange(N)], indexing="ij"))
        pairs = jax.vmap(worst_pair, (None, None, None, 0, 0, None))
        reached = jax.vmap(pairs, (None, None, 0, None, None, None))
        return jnp.min(reached(params, x, starts, i, j, ball), axis=0).reshape(N, N)

    return jax.jit(run)


def sampled(model, params, x, ball, count=2000):
    """Lowest gaps [n, n] over random points of the admissible set."""
    rng = np.random.default_rng(1)
    delta = rng.normal(size=(count, N))
    if ball.norm == "linf":
        delta = np.sign(delta)
    delta *= 2 * float(ball.epsilon) * rng.uniform(size=(count, 1)) ** 0.2
    project = jax.jit(jax.vmap(threat.project, (None, None, 0)))
    points = project(ball, jnp.asarray(x), jnp.asarray(x + delta))
    g = np.asarray(_gradients(model)(params, points))
    return (g[:, :, None] - g[:, None, :]).min(axis=0)


@functools.cache
def _certify(model, **options):
    options = {"all_pairs": True, **options}
    certify = certificates.ranking_certificate(
        model.apply, model.layers, k=K, **options
    )
    return jax.jit(jax.vmap(certify, (None, 0, None)))


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "l2") for name in NAMES), ("softplus", "linf")]
)
def test_no_point_of_the_ball_breaks_a_pair(name, norm, wide):
    model = module(name)
    params = parameters(model)
    starts = jnp.asarray(0.5 * RNG.normal(size=(6, N)))
    certified = 0
    for epsilon in (0.03, 0.2, 0.8):
        ball = threat.threat_model(norm, epsilon, num_features=N)
        certificate = _certify(model)(params, X, ball)
        for x, features, bounds in zip(
            X, certificate.features, certificate.separation, strict=True
        ):
            lowest = np.minimum(
                _worst(model, norm)(params, jnp.asarray(x), epsilon * starts, ball),
                sampled(model, params, x, ball),
            )[np.asarray(features)]
            assert np.all(np.asarray(bounds) <= lowest + 1e-12)
            certified += int(np.sum(np.asarray(bounds) > 0))
    assert certified > 30  # the hunt was for something


@pytest.mark.parametrize("rule", ["frozen", "box", "both"])
def test_frozen_features_and_a_box_are_respected(rule, wide):
    model = module()
    params = parameters(model, seed=3)
    # The second input lies outside of the box and is moved into it first.
    box = {} if rule == "frozen" else {"lower": -1.0, "upper": 1.5, "clip": True}
    frozen = () if rule == "box" else (0, 2, 5)
    ball = threat.threat_model("l2", 0.5, frozen=frozen, num_features=N, **box)
    x = np.stack([0.3 * X[0], 3 * X[1]])
    certificate = _certify(model)(params, x, ball)
    starts = jnp.asarray(0.3 * RNG.normal(size=(6, N)))
    for row, features, bounds in zip(
        x, certificate.features, certificate.separation, strict=True
    ):
        lowest = np.minimum(
            _worst(model, "l2")(params, jnp.asarray(row), starts, ball),
            sampled(model, params, row, ball),
        )[np.asarray(features)]
        assert np.all(np.asarray(bounds) <= lowest + 1e-12)
    if rule == "frozen":
        free = _certify(model)(params, x, threat.threat_model("l2", 0.5))
        others = np.asarray(certificate.features)[..., None] != np.arange(N)
        gain = np.asarray(certificate.separation - free.separation)[others]
        assert np.all(gain >= -1e-12) and gain.max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_bounds_are_the_gaps_at_radius_zero(name, wide):
    model = module(name)
    params = parameters(model)
    certificate = _certify(model)(params, X, threat.threat_model("l2", 0.0))
    g = np.asarray(_gradients(model)(params, X))
    for row, features, bounds in zip(
        g, certificate.features, certificate.separation, strict=True
    ):
        order = np.argsort(-row, kind="stable")[:K]
        np.testing.assert_array_equal(features, order)
        expected = row[order][:, None] - row[None]
        np.testing.assert_allclose(bounds, expected, atol=1e-11)
    np.testing.assert_array_equal(certificate.precision, 1)


def test_each_form_tightens_the_one_before(wide):
    model = module(rho=5.0)
    params = parameters(model, seed=1)
    layers = model.layers(params)
    ball = threat.threat_model("l2", 0.1)
    whole = _certify(model, num_slabs=1)(params, X, ball)
    slabs = _certify(model)(params, X, ball)
    gains = []
    for x, features, uncut, cut in zip(
        X, whole.features, whole.separation, slabs.separation, strict=True
    ):
        slopes = slope_bounds(layers, jnp.asarray(x), 0.1 * unit_reach(layers))
        g = jax.grad(lambda x: model.apply(params, x)[0])(jnp.asarray(x))
        rows = jnp.eye(N)[features] * jnp.sign(g[features])[:, None]
        first = gap_bounds(layers, slopes, rows, jnp.eye(N))
        others = np.asarray(features)[:, None] != np.arange(N)
        gains.append(
            [np.asarray(uncut - first)[others], np.asarray(cut - uncut)[others]]
        )
    second, sliced = np.concatenate(gains, axis=1)
    assert np.all(second >= -1e-9) and np.all(sliced >= -1e-9)
    assert np.mean(second > 0.01) > 0.2 and np.mean(sliced > 0.001) > 0.2


@pytest.mark.parametrize("at_a_time", [3, 100])
def test_pairs_that_decide_are_enough(wide, monkeypatch, at_a_time):
    """What stays is that of slabs for all pairs, whatever is left out."""
    monkeypatch.setattr(counting, "_AT_A_TIME", at_a_time)
    some = _certify.__wrapped__(module(rho=5.0), all_pairs=False)
    x = np.random.default_rng(0).normal(size=(40, N))
    only, spared = 0, 0
    for seed, epsilon in itertools.product(range(4), (0.05, 0.1, 0.2)):
        params = parameters(module(rho=5.0), seed=seed, scale=0.7)
        ball = threat.threat_model("l2", epsilon)
        certificate = some(params, x, ball)
        whole = _certify(module(rho=5.0))(params, x, ball)
        without = _certify(module(rho=5.0), num_slabs=1)(params, x, ball)
        np.testing.assert_array_equal(certificate.kept, whole.kept)
        np.testing.assert_array_equal(certificate.precision, whole.precision)
        assert (certificate.separation <= whole.separation + 1e-12).all()
        assert (certificate.separation >= without.separation - 1e-12).all()
        only += int(np.sum(whole.kept & ~without.kept))
        spared += int(np.sum(certificate.separation < whole.separation - 1e-6))
    assert only > 3 and spared > 100, (only, spared)


def test_bounds_are_close_to_what_descent_finds(wide):
    model = module(rho=5.0)
    params = parameters(model, seed=1, scale=0.5)
    ball = threat.threat_model("l2", 0.5)
    starts = jnp.asarray(RNG.normal(size=(16, N)))
    certificate = _certify(model)(params, X, ball)
    clean = np.asarray(_certify(model)(params, X, threat.threat_model("l2", 0.0))[3])
    bound, reached = [], []
    for x, features, bounds, at in zip(X, *certificate[1::2], clean, strict=True):
        lowest = np.asarray(_worst(model, "l2")(params, jnp.asarray(x), starts, ball))
        others = np.asarray(features)[:, None] != np.arange(N)
        bound.append((at - np.asarray(bounds))[others])
        reached.append((at - lowest[np.asarray(features)])[others])
    # Half of the pairs fall by at most a quarter less than the bound allows.
    assert np.median(np.concatenate(reached) / np.concatenate(bound)) > 0.75


def test_the_count_is_that_of_all_rankings(wide):
    model = module(rho=5.0)
    # Of every ranking the place of each feature.
    places = np.array(list(itertools.permutations(range(N))))
    seen = set()
    for seed, epsilon in itertools.product(range(3), (0.05, 0.15, 0.4)):
        params = parameters(model, seed=seed)
        certificate = _certify(model)(params, X, threat.threat_model("l2", epsilon))
        for m in range(len(X)):
            above = np.asarray(certificate.separation[m]) > 0
            for feature, row, kept in zip(
                certificate.features[m], above, certificate.kept[m], strict=True
            ):
                place, below = places[:, int(feature)], places[:, row]
                possible = (place[:, None] < below).all(axis=1)
                assert bool(kept) == (place[possible].max() < K)
                seen.add(bool(kept))
            assert float(certificate.precision[m]) == np.mean(certificate.kept[m])
    assert seen == {True, False}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", ["softplus", "leaky_relu"])
def test_no_attack_goes_below_the_certificate(name):
    model = module(name, rho=5.0)
    x = np.random.default_rng(2).normal(size=(40, N)).astype(np.float32)
    smoothed = lambda rho: model.surrogate(rho=rho).apply  # noqa: E731
    form = Form(model.apply, smoothed)
    # By the same members whether the model has kinks or not.
    members = [
        member._replace(suited="all")
        for member in default_ensemble(form, k=K)
        if member.name in ("annealed", "elite_soft", "random")
    ]
    ensemble = compile_strongest(members, evaluations=900)
    named = attacks.protocol("er_surrogate", form, k=K)
    single = attacks.compile_attack(named.attack, num_steps=60, track_every=2)
    between, lowered = 0, 0
    for seed, epsilon in ((0, 0.02), (1, 0.1), (2, 0.3)):
        params = parameters(model, seed, dtype=np.float32)
        ball = threat.threat_model("l2", epsilon)
        certified = np.asarray(_certify(model)(params, x, ball).precision)
        for run in (ensemble, single):
            attacked = run(params, x, ball, key=jax.random.key(0)).best.precision
            assert np.all(certified <= attacked + 1e-6)
            lowered += int(np.sum(attacked < 1))
        between += int(np.sum((certified > 0) & (attacked < 1)))
    assert lowered > 5 and between > 0


@pytest.mark.parametrize("name", ["softplus", "leaky_relu"])
def test_small_budgets_are_certified(name):
    model = module(name, rho=5.0)
    params = parameters(model, dtype=np.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(40, N)), jnp.float32)
    g = np.sort(np.asarray(_gradients(model)(params, x)), axis=1)[:, ::-1]
    certificate = _certify(model)(params, x, threat.threat_model("l2", 1e-4))
    clear = g[:, K - 1] - g[:, K] > 0.05
    assert clear.sum() > 25
    # A kink within reach opens the slope's whole interval.
    assert np.mean(np.asarray(certificate.precision)[clear] == 1) > 0.95


@pytest.mark.parametrize("name", ["softplus", "leaky_relu"])
def test_float32_stays_below_float64(name):
    model = module(name, rho=5.0)
    for epsilon in (0.0, 1e-3, 0.3):
        ball = threat.threat_model("l2", epsilon)
        params = parameters(model, dtype=np.float32)
        x = X.astype(np.float32)
        narrow = _certify(model)(params, x, ball)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
            exact = _certify(model)(params, x.astype(np.float64), ball)
        difference = np.asarray(exact.separation) - np.asarray(narrow.separation)
        others = np.asarray(exact.features)[..., None] != np.arange(N)
        assert np.all(difference[others] > 0)
        assert np.all(difference < 2e-3)


def test_a_linear_model_keeps_its_ranking_at_any_budget():
    model = models.Linear()
    params = {"params": {"Dense_0": {"kernel": X[:1].T, "bias": np.zeros(1)}}}
    params = jax.tree.map(jnp.float32, params)
    for norm in NORMS:
        ball = threat.threat_model(norm, 1e3)
        certificate = _certify(model)(params, X.astype(np.float32), ball)
        np.testing.assert_array_equal(certificate.precision, 1)


def test_ties_and_broken_models_certify_nothing_more():
    model = models.Linear()
    kernel = jnp.float32([[3.0], [1.0], [-1.0], [1.0], [0.5], [0.0]])
    params = {"params": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(1)}}}
    x, ball = jnp.ones((1, N)), threat.threat_model("l2", 0.1)
    # Features 1, 2 and 3 tie for two places.
    np.testing.assert_allclose(_certify(model)(params, x, ball).precision, 1 / 3)
    for value in (0.0, jnp.nan):
        broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), params)  # noqa: B023
        assert float(_certify(model)(broken, x, ball).precision[0]) == 0


def test_what_has_no_certificate_is_refused():
    deep, layers = models.MLP(hidden=(4, 4)), module().layers
    params = deep.init(jax.random.key(0), jnp.zeros(N))
    ball, x = threat.threat_model("l2", 0.1), jnp.zeros(N)
    make = functools.partial(certificates.ranking_certificate, module().apply)
    with pytest.raises(ValueError, match="one hidden layer"):
        make(deep.layers, k=K)(params, x, ball)
    with pytest.raises(ValueError, match="one hidden layer"):
        make(None, k=K)
    with pytest.raises(ValueError, match="'smooth_grad'; known: gradient"):
        make(layers, k=K, explanation="smooth_grad")
    with pytest.raises(ValueError, match="num_slabs"):
        make(layers, k=K, num_slabs=0)
    params = module().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="k must lie"):
        make(layers, k=N)(params, x, ball)


def test_the_ranking_is_that_of_the_explanation():
    model = module()
    params = parameters(model, dtype=np.float32)
    explain = saliency.gradient(score.log_odds(model.apply))
    certificate = _certify(model)(
        params, X.astype(np.float32), threat.threat_model("l2", 0)
    )
    for x, features in zip(X.astype(np.float32), certificate.features, strict=True):
        values = explain(params, jnp.asarray(x), jnp.int32(1))
        np.testing.assert_array_equal(features, np.argsort(-np.asarray(values))[:K])


@pytest.mark.parametrize(
    "name", ["r2et_jax.certificates.counting", "r2et_jax.models.lines"]
)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0
