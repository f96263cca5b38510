"""The certified hinge against a bound by brute force over its box, float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives
from r2et_jax.models import MLP, SkipMLP
from r2et_jax.objectives import certified
from r2et_jax.subject import subject

N, H, K = 7, 4, 3
RNG = np.random.default_rng(8)
X = RNG.normal(size=N)
RHO = 2.0
MODEL = SkipMLP(hidden=(H,), activation="softplus", rho=RHO)


def parameters(seed=0):
    """As the model's, and as plain arrays."""
    rng = np.random.default_rng(seed)
    w, a, b = rng.normal(size=(N, H)), rng.normal(size=H), rng.normal(size=(H, 1))
    skip = rng.normal(size=(N, 1))
    return {
        "params": {
            "Dense_0": {"kernel": jnp.asarray(w), "bias": jnp.asarray(a)},
            "Dense_1": {"kernel": jnp.asarray(b), "bias": jnp.zeros(1)},
            "skip": {"kernel": jnp.asarray(skip)},
        }
    }


def arrays(params):
    layers = params["params"]
    w, a = layers["Dense_0"]["kernel"], layers["Dense_0"]["bias"]
    b, skip = layers["Dense_1"]["kernel"][:, 0], layers["skip"]["kernel"][:, 0]
    return [np.asarray(leaf) for leaf in (w, a, b, skip)]


def slope(u):
    return 1 / (1 + np.exp(-RHO * u))


def hinge_by_hand(params, radius, margin, num_border, ranking_params=None):
    """Every corner of the box of slopes, every sign of the feature outside."""
    w, a, b, skip = arrays(params)
    g = w @ (b * slope(X @ w + a)) + skip
    ranked = g
    if ranking_params is not None:
        rw, ra, rb, rskip = arrays(ranking_params)
        ranked = rw @ (rb * slope(X @ rw + ra)) + rskip
    order = np.argsort(-np.abs(ranked))
    reach = radius * np.linalg.norm(w, axis=0)
    ends = slope(X @ w + a - reach), slope(X @ w + a + reach)
    corners = np.array(list(itertools.product(*zip(*ends, strict=True))))
    slopes = corners * b @ w.T + skip  # [2^h, n]
    hinges = []
    for i in order[max(K - num_border, 0) : K]:
        for j in order[K : K + num_border]:
            least = min(
                np.min(np.sign(ranked[i]) * slopes[:, i] - t * slopes[:, j])
                for t in (1, -1)
            )
            hinges.append(max(margin - least / np.mean(np.abs(g)), 0))
    return np.mean(hinges)


@functools.cache
def penalty(num_border=5, margin=0.6):
    fn = certified.certified_hinge(
        MODEL.layers, k=K, epsilon=0.5, margin=margin, num_border=num_border
    )
    return jax.jit(
        lambda params, reference, progress: fn(
            params, jnp.asarray(X), 1, reference=reference, progress=progress
        )
    )


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("num_border", [1, 2, 5])
@pytest.mark.parametrize("reference", [None, 1])
def test_the_hinge_is_that_over_all_corners_of_the_box(num_border, reference):
    params = parameters()
    kept = None if reference is None else parameters(reference)
    hinge = penalty(num_border)(params, kept, 1.0)
    expected = hinge_by_hand(params, 0.5, 0.6, num_border, kept)
    assert expected > 0.05
    np.testing.assert_allclose(hinge, expected, rtol=1e-10)


def test_the_radius_grows_over_the_first_half():
    params = parameters()
    for progress, radius in ((0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.8, 0.5), (1, 0.5)):
        hinge = penalty()(params, None, jnp.float32(progress))
        expected = hinge_by_hand(params, radius, 0.6, 5)
        np.testing.assert_allclose(hinge, expected, rtol=1e-6)
    assert penalty()(params, None, 0.0) < penalty()(params, None, 0.5)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_its_derivative_is_a_difference(progress):
    params, direction = parameters(), parameters(3)

    def at(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
        return penalty()(moved, None, progress)

    derivative = jax.jit(jax.grad(lambda p: penalty()(p, None, progress)))(params)
    derivative = sum(
        np.vdot(a, b)
        for a, b in zip(
            jax.tree.leaves(derivative), jax.tree.leaves(direction), strict=True
        )
    )
    difference = (at(1e-6) - at(-1e-6)) / 2e-6
    assert abs(difference) > 1e-2
    np.testing.assert_allclose(derivative, difference, rtol=1e-6)


def test_descent_certifies_the_border():
    # From a network of which nothing is certified to one without a hinge left.
    loss = jax.jit(jax.value_and_grad(lambda p: penalty(2, 0.4)(p, None, 1.0)))
    params = parameters()
    assert loss(params)[0] > 0.05
    for _ in range(300):
        value, slopes = loss(params)
        if value == 0:
            break
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, slopes)
    assert value == 0
    w, a, b, skip = arrays(params)
    g = w @ (b * slope(X @ w + a)) + skip
    top = np.argsort(-np.abs(g))[:K]
    rng = np.random.default_rng(0)
    for _ in range(300):
        delta = rng.normal(size=N)
        moved = X + 0.5 * delta / np.linalg.norm(delta)
        size = np.abs(w @ (b * slope(moved @ w + a)) + skip)
        inside, outside = top[K - 2 :], np.argsort(-np.abs(g))[K : K + 2]
        assert size[inside].min() > size[outside].max()


def test_a_flat_network_has_the_full_hinge_and_a_finite_derivative():
    params = jax.tree.map(jnp.zeros_like, parameters())
    value, slopes = jax.value_and_grad(lambda p: penalty()(p, None, 1.0))(params)
    np.testing.assert_allclose(value, 0.6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_the_loss_passes_progress_on():
    made = objectives.objective("cert_rank", MODEL.apply, k=K, layers=MODEL.layers)
    data = jnp.asarray(X[None]), jnp.zeros(1, jnp.int32)

    @jax.jit
    def loss(progress, weight=1.0):
        weights = jnp.full(1, weight)
        return made.loss(parameters(), *data, weights, progress=progress)

    # Margin and radius of `cert_rank` are 0.1 and 1.
    for progress in (0.1, 1.0):
        expected = hinge_by_hand(parameters(), min(2 * progress, 1), 0.1, 5)
        term = loss(progress) - loss(progress, 0.0)
        np.testing.assert_allclose(term, expected, rtol=1e-9)
    assert loss(0.1) < loss(1.0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"margin": -1.0}, "margin must be positive"),
        ({"num_border": 0}, "num_border must be"),
    ],
)
def test_arguments_out_of_range_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        certified.certified_hinge(MODEL.layers, k=K, **keywords)


DEEP = MLP(hidden=(4, 3), activation="softplus", rho=RHO)


def deep_parameters(seed):
    rng = np.random.default_rng(seed)
    sizes = (N, 4, 3, 1)
    return {
        "params": {
            f"Dense_{i}": {
                "kernel": jnp.asarray(rng.normal(size=pair)),
                "bias": jnp.asarray(rng.normal(size=pair[1])),
            }
            for i, pair in enumerate(zip(sizes, sizes[1:], strict=False))
        }
    }


def deep_gradients(params, points):
    """By hand, of the logit [m, n]."""
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    (w, a), (v, b), (o, _) = (
        (np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in layers
    )
    first = points @ w + a
    second = np.logaddexp(0, RHO * first) / RHO @ v + b
    return ((slope(second) * o[:, 0]) @ v.T * slope(first)) @ w.T


@functools.cache
def deep_hinge():
    fn = certified.program_hinge(DEEP.apply, k=K, epsilon=0.3, margin=0.6, num_border=2)

    def value(params, progress):
        return fn(params, jnp.asarray(X), 1, progress=progress)

    return jax.jit(jax.value_and_grad(value))


def relative_gaps(params, points):
    """Of the border pairs at the points, over the mean |g| at x [m, 2, 2]."""
    at_x = np.abs(deep_gradients(params, X[None]))[0]
    order = np.argsort(-at_x)
    size = np.abs(deep_gradients(params, points))
    inside, outside = size[:, order[K - 2 : K]], size[:, order[K : K + 2]]
    return (inside[:, :, None] - outside[:, None, :]) / at_x.mean()


def in_ball(radius, count=4000):
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(count, N))
    delta /= np.linalg.norm(delta, axis=1, keepdims=True)
    return X + radius * delta * rng.uniform(size=(count, 1)) ** (1 / N)


@pytest.mark.standard_promotion
def test_the_hinge_of_a_deep_network_is_sound_and_not_vacuous():
    for seed in range(4):
        params = deep_parameters(seed)
        at_x = np.maximum(0.6 - relative_gaps(params, X[None]), 0).mean()
        np.testing.assert_allclose(deep_hinge()(params, 0.0)[0], at_x, rtol=1e-9)
        worst = relative_gaps(params, in_ball(0.1)).min(axis=0)
        seen = np.maximum(0.6 - worst, 0).mean()
        hinge = deep_hinge()(params, 0.1 / 0.6)[0]
        # Samples do not reach the worst point, and bounds go beyond it.
        assert seen <= hinge <= at_x + 2 * (seen - at_x) + 0.02


@pytest.mark.standard_promotion
def test_its_derivative_on_a_deep_network_is_a_difference():
    params, direction = deep_parameters(1), deep_parameters(9)

    def at(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
        return deep_hinge()(moved, 1.0)[0]

    slopes = jax.tree.leaves(deep_hinge()(params, 1.0)[1])
    derivative = sum(map(np.vdot, slopes, jax.tree.leaves(direction)))
    difference = (at(1e-6) - at(-1e-6)) / 2e-6
    assert abs(difference) > 1e-2
    np.testing.assert_allclose(derivative, difference, rtol=1e-5)


@pytest.mark.standard_promotion
def test_descent_certifies_the_border_of_a_deep_network():
    params = deep_parameters(2)
    assert deep_hinge()(params, 1.0)[0] > 0.1
    for _ in range(400):
        value, slopes = deep_hinge()(params, 1.0)
        if value == 0:
            break
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, slopes)
    assert value == 0
    assert relative_gaps(params, in_ball(0.3)).min() > 0.6


def test_pairs_without_a_bound_have_no_slope():
    def hinge(gaps):
        return certified._hinge(gaps, jnp.ones(3), 0.5)

    value, slopes = jax.value_and_grad(hinge)(jnp.array([0.25, -jnp.inf]))
    np.testing.assert_allclose(value, (0.25 + 100.5) / 2)
    np.testing.assert_allclose(slopes, [-0.5, 0])


@pytest.mark.standard_promotion
def test_layers_that_a_network_has_not_are_refused_where_given():
    made = objectives.objective("cert_rank", DEEP.apply, k=K, layers=DEEP.layers)
    params = jax.eval_shape(DEEP.init, jax.random.key(0), jnp.zeros(N))
    data = jnp.asarray(X[None]), jnp.zeros(1, jnp.int32), jnp.ones(1)
    with pytest.raises(ValueError, match="at most one hidden layer"):
        jax.eval_shape(made.loss, params, *data)
    # A subject knows that there are none.
    examined = subject(DEEP, deep_parameters(0))
    made = objectives.objective("cert_rank", examined, k=K)
    assert jax.eval_shape(made.loss, params, *data).shape == ()


def transposed(model):
    """The layers of a model with the weight of n = h the wrong way round."""
    return lambda params: model.layers(params)._replace(
        weight=model.layers(params).weight.T
    )


@pytest.mark.standard_promotion
def test_layers_of_another_model_are_refused_however_it_is_compiled():
    """Shapes alone do not tell a square weight from its transpose."""
    square = MLP(hidden=(N,), activation="softplus")
    sharper = square.clone(rho=7.0)
    x, y = X[None].astype(np.float32), jnp.zeros(1, jnp.int32)
    params = square.init(jax.random.key(0), x[0])
    weights = jnp.ones(1, jnp.float32)

    def plain(loss):
        return loss

    for layers, compiled in (
        (transposed(square), jax.jit),
        (sharper.layers, lambda loss: jax.jit(jax.grad(loss))),
        (sharper.layers, plain),
    ):
        made = objectives.objective("cert_rank", square.apply, k=K, layers=layers)
        with pytest.raises(ValueError, match=r"layers must give .* weight is \[n,"):
            compiled(made.loss)(params, x, y, weights)
    made = objectives.objective("cert_rank", square.apply, k=K, layers=square.layers)
    assert np.isfinite(jax.jit(made.loss)(params, x, y, weights))


@pytest.mark.standard_promotion
def test_programs_are_bounded_for_the_first_examples_of_a_batch_alone(monkeypatch):
    monkeypatch.setattr(certified, "BOUNDED_EXAMPLES", 2)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(5, N)), np.zeros(5, np.int32)
    params = deep_parameters(1)

    def penalty_of(made, params):
        """A function of rows, one program for each number of them."""
        loss = jax.jit(functools.partial(made.loss, progress=1.0))

        def run(rows):
            weighted, plain = (
                loss(params, x[rows], y[rows], w) for w in (np.ones(1), np.zeros(1))
            )
            return weighted - plain

        return run

    deep = objectives.objective("cert_rank", DEEP.apply, k=K)
    penalty = penalty_of(deep, params)
    first, whole = penalty(slice(0, 2)), penalty(slice(None))
    assert abs(first - penalty(slice(3, 5))) > 1e-3
    np.testing.assert_allclose(whole, first, rtol=1e-9)
    # Bounds of one hidden layer are cheap: all examples.
    model = MLP(hidden=(H,), activation="softplus", rho=RHO)
    params = model.init(jax.random.key(0), x[0])
    shallow = objectives.objective("cert_rank", model.apply, k=K, layers=model.layers)
    penalty = penalty_of(shallow, params)
    first, whole = penalty(slice(0, 2)), penalty(slice(None))
    assert abs(first - whole) > 1e-3
