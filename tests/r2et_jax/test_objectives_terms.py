"""Penalties beyond R2ET's own against dense derivatives and differences, float64.

Each penalty is written anew from the dense gradient and Hessian of the probability,
the log-odds and the loss. What it holds constant (ranks, signs, perturbations) is
found once and kept by the differences.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import objectives
from r2et_jax.models import MLP
from r2et_jax.objectives import adversarial, gradient_penalties, ratios
from r2et_jax.objectives.linearity import is_piecewise_linear
from r2et_jax.objectives.perturb import ascend

N, K, KP, M, EPSILON = 5, 2, 2, 3, 0.8
# In test_objectives.py, and in test_objectives_random.py and _certified.py.
ELSEWHERE = {"l2", "gap", "exp_gap", "mm_gap", "mm_gap_k", "curvature"}
ELSEWHERE |= {"curvature_fd", "tau"}
ELSEWHERE |= {"decay", "frobenius_squared", "thickness", "certified_gap"}
NAMES = tuple(
    name
    for name in objectives.NAMES
    if name == "at" or not set(objectives.method(name).terms) <= ELSEWHERE
)
OF_LABEL = ("gradient_change", "ig_change", "adv_loss")
RANKED = ("r2et_anchored", "ratio_hinge", "rat", "adv_gap", "r2et_mm_exp")
SEVERAL = ("exact_h", "ssr", "logit_h", "cl", "cure", "ig_norm", "rat", "ratio_hinge")
X = np.random.default_rng(7).normal(size=(M, N))
LABELS = {1: np.array([0, 1, 1]), 3: np.array([2, 0, 1])}
SEED = 4


@functools.cache
def random_directions():
    """Of the inner attack that starts at random: one key for each example."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0), M)
    drawn = [jax.random.normal(key, (N,), jnp.float64) for key in keys]
    return {tuple(x): unit(np.asarray(v)) for x, v in zip(X, drawn, strict=True)}


def network(act):
    def apply(params, x, /):
        hidden = act(x @ params["w1"] + params["b1"])
        return hidden @ params["w2"] + params["b2"]

    return apply


def bent(u):  # the surrogate's activation
    return 0.3 * u + jax.nn.sigmoid(u)


def parameters(num_outputs, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (N, 6), "b1": (6,), "w2": (6, num_outputs), "b2": (num_outputs,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


# Dense derivatives of functions written anew, for one network and one class.
@functools.cache
def _derivatives(act):
    def scores(params, x, c):
        z = act(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
        z = jnp.concatenate([jnp.zeros(1), z]) if z.shape[0] == 1 else z
        p = jnp.exp(z) / jnp.sum(jnp.exp(z))
        return jnp.stack([p[c], jnp.log(p[c]) - jnp.log(1 - p[c]), -jnp.log(p[c])]), z

    first = jax.jacrev(scores, 1)

    def all_of(params, x, c):
        (_, logits) = scores(params, x, c)
        slopes, rows = first(params, x, c)
        hessians = jax.jacfwd(lambda x: first(params, x, c)[0])(x)
        return {
            "logits": logits,
            "J": rows,
            "p": (slopes[0], hessians[0]),
            "u": (slopes[1], hessians[1]),
            "loss": (slopes[2], hessians[2]),
        }

    return jax.jit(all_of)


def dense(params, x, c, act=jnp.tanh):
    return jax.tree.map(np.asarray, _derivatives(act)(params, x, c))


def unit(v):
    return v / np.linalg.norm(v)


def inside(delta):
    return delta * min(1.0, EPSILON / np.linalg.norm(delta))


def attack(goal_gradient, params, x, c, delta=0.0):
    """Three normalised steps of descent through the surrogate, by the chain rule."""
    for _ in range(3):
        g, h = dense(params, x + delta, c, bent)["u"]
        total, s = np.abs(g).sum(), np.sign(g)
        jacobian = s[:, None] * h / total - np.outer(np.abs(g), s @ h) / total**2
        slope = goal_gradient(np.abs(g) / total) @ jacobian
        delta = inside(delta - 0.6 * EPSILON * unit(slope))
    return delta


def smooth_precision_gradient(top, values):
    ordered = np.sort(values)[::-1]
    border, theta = (ordered[K - 1] + ordered[K]) / 2, 0.3 / N
    s = 1 / (1 + np.exp(-(values - border) / theta))
    return np.where(top, 1, -1) * s * (1 - s) / theta / (2 * K)


def attributions(delta, params, x, c):
    times = (np.arange(8) + 0.5) / 8
    parts = [dense(params, x + t * delta, c)["loss"] for t in times]
    mean = np.mean([g for g, _ in parts], axis=0)
    bend = np.mean([t * h for t, (_, h) in zip(times, parts, strict=True)], axis=0)
    signs = np.sign(delta * mean)
    return np.abs(delta * mean).sum(), signs * mean + (signs * delta) @ bend


def constants(term, params, reference, x, c):
    """What the penalty does not differentiate."""
    g = dense(params, x, c)["u"][0]
    ranked = g if reference is None else dense(reference, x, c)["u"][0]
    order = np.argsort(-np.abs(ranked))
    top = np.isin(np.arange(N), order[:K])
    held = {"order": order, "top": top, "signs": np.sign(ranked)}
    if term in ("adv_gap", "adv_loss"):
        mean = np.where(top, 1 / K, -1 / (N - K))
        held["delta"] = attack(lambda values: mean, params, x, c)
    if term == "adv_hinge":
        goal = functools.partial(smooth_precision_gradient, top)
        start = 0.3 * EPSILON * random_directions()[tuple(x)]
        held["delta"] = attack(goal, params, x, c, start)
        g = np.abs(dense(params, x + held["delta"], c)["u"][0])
        values = N * g / g.sum()
        held["threshold"] = (values[top].min() + values[~top].max()) / 2
    if term == "ig_change":
        delta = EPSILON * unit(dense(params, x, c)["loss"][0])
        for _ in range(3):
            slope = attributions(delta, params, x, c)[1]
            delta = inside(delta + 0.5 * EPSILON * unit(slope))
        held["delta"] = delta
    return held


def penalty_by_hand(term, params, held, x, c):
    """One penalty of one example."""
    order, top, signs = held["order"], held["top"], held["signs"]
    at = dense(params, x + held.get("delta", 0), c)
    (g, h), (gp, hp) = at["u"], at["p"]
    v = np.sign(g) / np.sqrt(N)
    values = signs * g / np.abs(g).sum()
    pairs = [(order[K - 1 - i], order[K + i]) for i in range(KP)]
    if term == "curvature":
        return np.linalg.norm(hp @ v)
    if term == "mm_exp_gap":
        return np.mean([np.exp(-(values[i] - values[j]) / 0.05) for i, j in pairs])
    if term == "anchored_gap":
        up = [values[i] - values[order[K - 1]] for i in order[: K - 1]]
        down = [values[order[K - 1]] - values[j] for j in order[K : K + KP]]
        return -np.mean(up + down)
    if term == "frobenius":
        return np.linalg.norm(hp)
    if term == "spectral":
        return np.abs(np.linalg.eigvalsh(hp)).max()
    if term == "logit_curvature":
        return np.linalg.norm(h @ v) / np.linalg.norm(g)
    if term.startswith("radius"):
        a, b = (gp, hp) if term == "radius" else (g, h)
        gaps = [signs[i] * a[i] - signs[j] * a[j] for i, j in pairs]
        slopes = [np.linalg.norm(signs[i] * b[i] - signs[j] * b[j]) for i, j in pairs]
        radii = np.array(gaps) / (np.array(slopes) + 0.1 * np.abs(a).mean())
        hinge = np.maximum(EPSILON - radii, 0)
        return -radii.mean() if term == "radius" else hinge.mean()
    if term == "cross_lipschitz":
        rows = at["J"]
        some = [(a, b) for a in range(len(rows)) for b in range(a)]
        return np.mean([np.sum((rows[a] - rows[b]) ** 2) for a, b in some])
    if term == "gradient_change":
        moved = x + EPSILON * np.sign(at["loss"][0]) / np.sqrt(N)
        return np.sum((dense(params, moved, c)["loss"][0] - at["loss"][0]) ** 2)
    if term == "ig_change":
        return attributions(held["delta"], params, x, c)[0]
    if term == "adv_loss":
        return np.log(np.exp(at["logits"]).sum()) - at["logits"][c]
    moved_values = np.abs(g) / np.abs(g).sum()
    if term == "adv_gap":
        return -(moved_values[top].mean() - moved_values[~top].mean())
    assert term == "adv_hinge"
    over = N * moved_values - held["threshold"]
    return np.maximum(0.3 - np.where(top, over, -over), 0).sum()


def by_hand(name, num_outputs, reference=None, step=2e-6):
    """A loss with unit weights, and its difference along a direction."""
    params, direction = parameters(num_outputs), parameters(num_outputs, 2)
    predicted = [int(np.argmax(dense(params, x, 0)["logits"])) for x in X]
    cases = []
    for x, c, y in zip(X, predicted, LABELS[num_outputs], strict=True):
        for term in ("adv_loss",) if name == "at" else objectives.method(name).terms:
            about = int(y) if term in OF_LABEL else c
            held = constants(term, params, reference, x, about)
            cases.append((term, held, x, about))

    def loss(t):
        moved = {k: v + t * direction[k] for k, v in params.items()}
        total = sum(penalty_by_hand(term, moved, *case) for term, *case in cases)
        if name == "at":  # in place of the clean cross-entropy
            return total / M
        for x, y in zip(X, LABELS[num_outputs], strict=True):
            z = dense(moved, x, 0)["logits"]
            total += np.log(np.exp(z).sum()) - z[y]
        return total / M

    return loss(0.0), (loss(step) - loss(-step)) / (2 * step)


@functools.cache
def compute_all(num_outputs):
    """Value and directional derivative of every loss, from one program."""
    if num_outputs == 1:
        wanted = [(n, False) for n in NAMES] + [(n, True) for n in RANKED]
    else:
        wanted = [(n, False) for n in SEVERAL]
    params, other, direction = (parameters(num_outputs, s) for s in (0, 1, 2))

    def compute(params, other):
        values = []
        for name, referred in wanted:
            made = objectives.objective(
                name,
                network(jnp.tanh),
                k=K,
                k_prime=KP,
                surrogate=network(bent),
                epsilon=EPSILON,
            )
            reference = other if referred else None
            value, gradient = jax.value_and_grad(made.loss)(
                params,
                jnp.asarray(X),
                jnp.asarray(LABELS[num_outputs]),
                jnp.ones(len(made.terms)),
                reference=reference,
                key=jax.random.key(SEED),
            )
            slopes = [jnp.vdot(gradient[k], direction[k]) for k in gradient]
            values.append((value, sum(slopes)))
        return values

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        values = jax.tree.map(float, jax.jit(compute)(params, other))
    return dict(zip(wanted, values, strict=True))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


CASES = [(1, name) for name in NAMES] + [(3, name) for name in SEVERAL]


@pytest.mark.parametrize(("num_outputs", "name"), CASES)
def test_value_and_gradient_are_those_of_the_dense_computation(num_outputs, name):
    value, slope = compute_all(num_outputs)[name, False]
    expected, difference = by_hand(name, num_outputs)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("name", RANKED)
def test_another_reference_ranks_and_has_no_gradient(name):
    value, slope = compute_all(1)[name, True]
    expected, difference = by_hand(name, 1, parameters(1, 1))
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert abs(value - compute_all(1)[name, False][0]) > 1e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_piecewise_linear_networks_take_the_exact_short_forms(num_outputs):
    apply = network(lambda u: jax.nn.leaky_relu(u, 0.3))
    params, direction = parameters(num_outputs), parameters(num_outputs, 2)

    def act(u):
        return jnp.where(u > 0, u, 0.3 * u)

    def both(params):
        data = jnp.asarray(X), jnp.asarray(LABELS[num_outputs]), jnp.ones(1)
        return [
            objectives.objective(name, apply, k=K, k_prime=KP).loss(params, *data)
            for name in ("exact_h", "ssr", "ratio")
        ]

    values, slopes = jax.jit(lambda p: jax.jvp(both, (p,), (direction,)))(params)

    def by_dense(t):
        moved = {k: v + t * direction[k] for k, v in params.items()}
        total = np.zeros(3)
        for x, y in zip(X, LABELS[num_outputs], strict=True):
            at = dense(moved, x, 0, act)
            g, h = dense(moved, x, int(np.argmax(at["logits"])), act)["p"]
            total += np.log(np.exp(at["logits"]).sum()) - at["logits"][y]
            size, rows = np.abs(g), np.sign(g)[:, None] * h
            order = np.argsort(-size)
            radii = [
                (size[i] - size[j])
                / (np.linalg.norm(rows[i] - rows[j]) + 0.1 * size.mean())
                for i, j in zip(order[K - KP : K][::-1], order[K : K + KP], strict=True)
            ]
            norms = np.linalg.norm(h), np.abs(np.linalg.eigvalsh(h)).max()
            total += [*norms, -np.mean(radii)]
        return total / M

    np.testing.assert_allclose(values, by_dense(0.0), rtol=1e-9)
    difference = (by_dense(1e-5) - by_dense(-1e-5)) / 2e-5
    np.testing.assert_allclose(slopes, difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "hidden", "expected"),
    [
        ("relu", (4,), True),
        ("leaky_relu", (4, 3), True),
        ("relu", (), True),
        ("tanh", (4,), False),
        ("gelu", (4,), False),
        ("softplus", (4, 3), False),
        ("leaky_softplus", (4,), False),
    ],
)
@pytest.mark.standard_promotion
def test_piecewise_linear_models_are_recognised(activation, hidden, expected):
    model = MLP(hidden=hidden, activation=activation)
    x = jnp.zeros(N, jnp.float32)
    params = model.init(jax.random.key(0), x)
    assert is_piecewise_linear(model.apply, params, x) is expected


@pytest.mark.parametrize("name", ["logit_h", "ratio_hinge", "wd+logit_h"])
def test_piecewise_linear_models_are_refused_where_nothing_is_left(name):
    assert objectives.method(name).smooth
    for activation in (jax.nn.relu, jnp.positive):
        made = objectives.objective(name, network(activation), k=K)
        data = jnp.asarray(X), jnp.asarray(LABELS[1]), jnp.ones(len(made.terms))
        with pytest.raises(ValueError, match="smooth activation|needs a smooth"):
            made.loss(parameters(1), *data)


def test_an_attack_through_the_surrogate_moves_a_piecewise_linear_network():
    # With one logit its own normalised map is constant between kinks.
    def change(surrogate):
        inner = adversarial.InnerAttack(surrogate, EPSILON)
        find = adversarial.perturbation(adversarial.goals.mean_gap(), inner, k=K)
        return find(parameters(1), jnp.arange(5.0), jnp.asarray(X[0]), 1)

    np.testing.assert_array_equal(change(network(jax.nn.relu)), np.zeros(N))
    moved = np.linalg.norm(change(network(bent)))
    assert 0.1 * EPSILON < moved <= EPSILON * (1 + 1e-12)


def test_ascent_stays_in_the_ball_and_where_there_is_no_slope():
    start = jnp.array([0.3, 0.0])
    keywords = {"epsilon": 0.5, "num_steps": 4, "step_size": 0.4}
    flat = ascend(lambda d: 0.0 * jnp.sum(d), start, **keywords)
    np.testing.assert_array_equal(flat, start)
    up = ascend(lambda d: d @ jnp.array([3.0, 4.0]), start, **keywords)
    assert np.linalg.norm(up) == pytest.approx(0.5) and up[1] > 0.3


def test_the_ratio_does_not_see_saturation_in_float32():
    # p′ is about 1e-26 at a logit of 60; the radius is that of float64.
    params = parameters(1) | {"b2": np.full(1, 60.0)}
    radii = ratios.mean_radius(network(jnp.tanh), k=K, k_prime=KP)
    both = jax.jit(jax.value_and_grad(lambda p, x: radii(p, x, 1)))
    fine = both(params, jnp.asarray(X[0]))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, X[0]))
    coarse = both(*single)
    assert float(fine[0]) < -0.1
    np.testing.assert_allclose(coarse[0], fine[0], rtol=1e-4)
    np.testing.assert_allclose(coarse[1]["w1"], fine[1]["w1"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: objectives.objective("at_mixed", a, k=K, epsilon=0.0),
            "epsilon must be",
        ),
        (lambda a: gradient_penalties.gradient_change(a, step=-1.0), "step must be"),
        (lambda a: gradient_penalties.attribution_change(a, epsilon=0.0), "epsilon"),
        (lambda a: ratios.mean_radius(a, k=K, k_prime=KP, floor=0.0), "floor must be"),
        (lambda a: ratios.radius_hinge(a, k=K, k_prime=KP, margin=0.0), "margin must"),
        (
            lambda a: adversarial.adversarial_gap(
                a, adversarial.InnerAttack(a, num_steps=0), k=K
            ),
            "num_steps must be",
        ),
        (
            lambda a: adversarial.perturbation(
                adversarial.goals.mse(), adversarial.InnerAttack(a), k=K
            ),
            "slope at the clean input",
        ),
    ],
)
def test_static_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(network(jnp.tanh))


@pytest.mark.parametrize("name", ["ratio", "r2et_anchored"])
def test_too_many_pairs_are_refused_when_traced(name):
    made = objectives.objective(name, network(jnp.tanh), k=K, k_prime=K + 1)
    data = jnp.asarray(X), jnp.asarray(LABELS[1]), jnp.ones(len(made.terms))
    with pytest.raises(ValueError, match="k_prime must lie in 1…2"):
        made.loss(parameters(1), *data)
