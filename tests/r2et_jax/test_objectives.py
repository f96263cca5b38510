"""Losses against dense Hessians, brute force over pairs and differences, float64."""

import doctest
import functools
import importlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from r2et_jax import objectives
from r2et_jax.models import MLP

N, K, KP, M = 5, 2, 2, 4
WEIGHTS = {
    "l2": 0.3,
    "gap": 0.7,
    "exp_gap": 0.4,
    "mm_gap": 0.9,
    "curvature": 0.6,
    "curvature_fd": 0.5,
    "tau": 0.05,
    "mm_gap_k": 0.8,
}
# The other names' penalties are in test_objectives_terms.py, the skip, which asks for
# another model, in test_objectives_architecture.py.
HERE = tuple(
    name
    for name in objectives.NAMES
    if set(objectives.method(name).terms) <= set(WEIGHTS) and name not in ("at", "skip")
)
NAMES = (*HERE, "wd+r2et_nh")
RANKED = ("r2et_nh", "r2et_mm_nh", "r2et_exp")
FEW = (*RANKED, "est_h_fd")  # with three classes


def apply(params, x, /):
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def parameters(num_outputs, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (N, 6), "b1": (6,), "w2": (6, num_outputs), "b2": (num_outputs,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


RNG = np.random.default_rng(5)
X = RNG.normal(size=(M, N))
BINARY, SEVERAL = np.array([0, 1, 1, 0]), np.array([2, 0, 1, 1])


def weights(name):
    return np.array([WEIGHTS[term] for term in objectives.method(name).terms])


def probabilities(params, x):
    z = np.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    if len(z) == 1:
        z = np.array([0.0, z[0]])
    return np.exp(z) / np.exp(z).sum()


# Derivatives of the probability by JAX's dense ones, of a function written anew.
def _plain(params, x, c):
    z = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    z = jnp.concatenate([jnp.zeros(1), z]) if z.shape[0] == 1 else z
    return jnp.exp(z[c]) / jnp.sum(jnp.exp(z))


_dense = jax.jit(jax.jacfwd(jax.jacrev(_plain, 1), 1))
_slope = jax.jit(jax.grad(_plain, 1))


def penalty_by_hand(term, params, reference, x):
    """One penalty of one example."""
    if term == "l2":
        return 0.5 * (np.sum(params["w1"] ** 2) + np.sum(params["w2"] ** 2))
    c = int(probabilities(params, x).argmax())
    g = np.asarray(_slope(params, x, c))
    if term.startswith("curvature"):
        v = np.sign(g) / np.sqrt(N)
        if term == "curvature":
            return np.linalg.norm(np.asarray(_dense(params, x, c)) @ v)
        moved = np.asarray(_slope(params, x + WEIGHTS["tau"] * v, c))
        return np.linalg.norm(moved - g) / WEIGHTS["tau"]
    ranked = g if reference is None else np.asarray(_slope(reference, x, c))
    values = np.sign(ranked) * g / np.abs(g).sum()
    order = np.argsort(-np.abs(ranked))
    gaps = [values[i] - values[j] for i in order[:K] for j in order[K:]]
    if term == "gap":
        return -np.mean(gaps)
    if term == "exp_gap":
        return np.mean([np.exp(-gap / 0.05) for gap in gaps])
    pairs = zip(order[K - KP : K][::-1], order[K : K + KP], strict=True)
    return -np.mean([values[i] - values[j] for i, j in pairs])


def loss_by_hand(name, params, y, reference=None):
    probability = np.array([probabilities(params, x) for x in X])
    total = -np.mean(np.log(probability[np.arange(M), y]))
    for term in objectives.method(name).terms:
        if term == "tau":
            continue
        each = [penalty_by_hand(term, params, reference, x) for x in X]
        total += WEIGHTS[term] * np.mean(each)
    return total


class Computed(NamedTuple):
    params: dict
    other: dict
    y: np.ndarray
    direction: dict
    of_cases: dict  # (method, reference) -> value and gradient


@functools.cache
def compute_all(num_outputs):
    """Values and gradients of all losses, from one program."""
    names, y = (NAMES, BINARY) if num_outputs == 1 else (FEW, SEVERAL)
    wanted = [(name, "none") for name in names]
    wanted += [(name, kept) for name in RANKED for kept in ("same", "other")]
    params, other, direction = (parameters(num_outputs, seed) for seed in range(3))

    def compute(params, other):
        references = {"none": None, "same": params, "other": other}
        values = []
        for name, kept in wanted:
            loss = objectives.objective(name, apply, k=K, k_prime=KP).loss
            data = jnp.asarray(X), jnp.asarray(y), jnp.asarray(weights(name))
            keywords = {} if kept == "none" else {"reference": references[kept]}
            values.append(jax.value_and_grad(loss)(params, *data, **keywords))
        return values

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        values = jax.tree.map(np.asarray, jax.jit(compute)(params, other))
    values = dict(zip(wanted, values, strict=True))
    return Computed(params, other, y, direction, values)


def slope(gradient, direction):
    return sum(np.sum(gradient[key] * direction[key]) for key in gradient)


def difference(computed, name, reference=None, step=1e-5):
    """Central difference of the loss by hand along the direction."""
    ahead, behind = (
        {k: v + t * computed.direction[k] for k, v in computed.params.items()}
        for t in (step, -step)
    )
    ends = (loss_by_hand(name, p, computed.y, reference) for p in (ahead, behind))
    return (next(ends) - next(ends)) / (2 * step)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


CASES = [(1, name) for name in NAMES] + [(3, name) for name in FEW]
BOTH = [(num_outputs, name) for num_outputs in (1, 3) for name in RANKED]


@pytest.mark.parametrize(("num_outputs", "name"), CASES)
def test_value_and_gradient_are_those_of_the_dense_computation(num_outputs, name):
    computed = compute_all(num_outputs)
    value, gradient = computed.of_cases[name, "none"]
    expected = loss_by_hand(name, computed.params, computed.y)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    expected = difference(computed, name)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(slope(gradient, computed.direction), expected, rtol=1e-6)


@pytest.mark.parametrize(("num_outputs", "name"), BOTH)
def test_the_model_itself_is_the_default_reference(num_outputs, name):
    computed = compute_all(num_outputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        computed.of_cases[name, "same"],
        computed.of_cases[name, "none"],
    )


@pytest.mark.parametrize(("num_outputs", "name"), BOTH)
def test_another_reference_ranks_and_signs_but_has_no_gradient(num_outputs, name):
    computed = compute_all(num_outputs)
    value, gradient = computed.of_cases[name, "other"]
    expected = loss_by_hand(name, computed.params, computed.y, computed.other)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert abs(value - computed.of_cases[name, "none"][0]) > 1e-3
    expected = difference(computed, name, computed.other)
    np.testing.assert_allclose(slope(gradient, computed.direction), expected, rtol=1e-6)


def test_vanilla_is_the_log_loss_of_scikit_learn():
    loss = objectives.objective("vanilla", apply, k=K).loss
    for num_outputs, y in ((1, BINARY), (3, SEVERAL)):
        params = parameters(num_outputs)
        expected = log_loss(y, [probabilities(params, x) for x in X])
        value = loss(params, jnp.asarray(X), jnp.asarray(y), jnp.zeros(0))
        np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.standard_promotion
def test_squared_weights_leave_the_biases_out():
    model = MLP(hidden=(4, 3))
    params = model.init(jax.random.key(0), jnp.zeros(N, jnp.float32))
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    kernels = [layer["kernel"] for layer in params["params"].values()]
    assert len(kernels) == 3
    expected = 0.5 * sum(float(np.sum(np.square(w))) for w in kernels)
    value = objectives.penalties.squared_weights(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_sums_take_the_terms_of_their_parts_in_order():
    assert objectives.method("wd+r2et").terms == ("l2", "gap", "curvature")
    assert not objectives.method("wd+r2et").smooth
    assert objectives.method("sp+r2et_nh").smooth
    assert objectives.method("vanilla+wd")[1:] == objectives.method("wd")[1:]
    assert objectives.objective("est_h+wd", apply, k=K).terms == ("curvature", "l2")


def test_k_prime_is_k_unless_given():
    def value(k_prime):
        loss = objectives.objective("r2et_mm_nh", apply, k=K, k_prime=k_prime).loss
        return loss(parameters(1), jnp.asarray(X), jnp.asarray(BINARY), jnp.ones(1))

    assert value(None) == value(2) != value(1)


def test_r2et_mm_k_has_the_published_number_of_pairs():
    def value(name, k, k_prime):
        loss = objectives.objective(name, apply, k=k, k_prime=k_prime).loss
        weights = jnp.array([1.0, 0.0])
        return loss(parameters(1), jnp.asarray(X), jnp.asarray(BINARY), weights)

    assert value("r2et_mm_k", 2, 1) == value("r2et_mm", 2, 2) != value("r2et_mm", 2, 1)
    assert value("r2et_mm_k", 4, 1) == value("r2et_mm", 4, 1)  # one feature outside


def test_a_tiny_step_misses_the_kink_that_a_large_one_meets():
    """z = 2x, and 4x − .1 from x = .05 on: between .03 and .08 the slope doubles."""

    def kinked(params, x, /):
        return params * (x + jax.nn.relu(x - 0.05))

    def penalty(tau):
        loss = objectives.objective("est_h_fd", kinked, k=1).loss
        data = jnp.asarray(2.0), jnp.array([[0.03]]), jnp.array([1])
        return loss(*data, jnp.array([1.0, tau])) - np.log(1 + np.exp(-0.06))

    def slope(z):
        return 1 / (2 + np.exp(z) + np.exp(-z))

    jump = 4 * slope(0.22) - 2 * slope(0.06)
    np.testing.assert_allclose(penalty(0.05), jump / 0.05, rtol=1e-9)
    bend = 2**2 * slope(0.06) * np.tanh(0.03)  # of the sigmoid alone
    np.testing.assert_allclose(penalty(1e-6), bend, rtol=1e-3)


def test_at_has_no_weight_and_goes_into_sums():
    assert objectives.method("at").terms == ()
    method = objectives.method("wd+at")
    assert method.attacked and method.terms == ("l2",)
    assert objectives.method("at_mixed").terms == ("adv_loss",)


@pytest.mark.parametrize("module", ["linearity", "perturb", "methods", "registry"])
def test_docstring_examples_run(module):
    with jax.enable_x64(False):
        imported = importlib.import_module(f"r2et_jax.objectives.{module}")
        result = doctest.testmod(imported)
    assert result.attempted > 0 and result.failed == 0


def test_every_name_has_a_description():
    assert set(objectives.DESCRIPTIONS) == set(objectives.NAMES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r2et+r2et_nh", "names a penalty twice: .*gap"),
        ("wd+wd", "names a penalty twice"),
        ("r3et", "unknown method 'r3et'; known: adv_gap, .*vanilla, wd"),
        ("wd+", "unknown method ''; known"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        objectives.objective(name, apply, k=K)


@pytest.mark.parametrize(
    ("name", "keywords", "shape", "message"),
    [
        ("r2et", {}, (1,), r"r2et takes one weight for each .* shape \(1,\)"),
        ("r2et", {}, (3,), r"one weight for each"),
        ("vanilla", {}, (1,), r"one weight for each of its penalties \(\)"),
        ("wd", {}, (), r"one weight for each .* shape \(\)"),
        ("r2et_nh", {"k": 0}, (1,), "k must be an integer of at least 1, got 0"),
        ("r2et_nh", {"k": N}, (1,), "k must lie in 1…n−1"),
        ("r2et_mm_nh", {"k_prime": 3}, (1,), "k_prime must lie in 1…2"),
        ("r2et_mm_nh", {"k_prime": 0}, (1,), "k_prime must be an integer"),
    ],
)
def test_static_mistakes_are_named_when_traced(name, keywords, shape, message):
    with pytest.raises(ValueError, match=message):
        loss = objectives.objective(name, apply, **{"k": K, **keywords}).loss
        loss(parameters(1), jnp.asarray(X), jnp.asarray(BINARY), jnp.ones(shape))
