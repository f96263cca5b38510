"""Methods that are another model: trained as that one, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax import models, objectives, programs, training
from r2et_jax.models import MLP, SkipMLP
from r2et_jax.objectives import methods
from r2et_jax.objectives.architecture import check_smooth
from r2et_jax.programs.linear_part import has_linear_part

X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
SIDE = 12


def trained(name, model, *, compiled=True):
    """The parameters before and after the README's own recipe."""
    made = objectives.objective(name, model.apply, k=2, layers=model.layers)
    optimizer = optax.sgd(0.1)
    params = model.init(jax.random.key(0), X[0])
    state = training.init_state(params, optimizer, key=jax.random.key(1))
    run = training.train_epochs(made, optimizer, num_epochs=2, batch_size=4)
    run = jax.jit(run) if compiled else run
    return params, run(state, jnp.full(len(made.terms), 0.1), X, Y).params


def moved(before, after):
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("name", ["sp", "wd+sp", "skip+sp", "logit_h", "cert_rank"])
def test_a_smooth_method_is_refused_for_a_model_with_kinks(name, activation):
    part = {"wd+sp": "sp", "skip+sp": "sp"}.get(name, name)
    model = (SkipMLP if "skip" in name else MLP)((6,), activation=activation)
    message = rf"^{part} trains a model with a smooth activation.*: (max|select_n) at 1"
    for compiled in (True, False):
        with pytest.raises(ValueError, match=message + r".*activation='softplus'"):
            trained(name, model, compiled=compiled)


@pytest.mark.parametrize("name", ["skip", "wd+skip", "skip+sp"])
def test_a_skip_is_refused_for_a_model_without(name):
    model = MLP((6,), activation="softplus")
    for compiled in (True, False):
        with pytest.raises(ValueError, match=r"^skip trains .*models\.SkipMLP"):
            trained(name, model, compiled=compiled)


# It compiles for longer than all others together.
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("sp", MLP((6,), activation="softplus")),
        ("sp", MLP((6,), activation="relu").surrogate(rho=5.0)),
        ("skip", SkipMLP((6,), activation="relu")),
        ("skip+sp", SkipMLP((6,), activation="softplus")),
        pytest.param(
            "skip+cert_rank", SkipMLP((6,), activation="softplus"), marks=SLOW
        ),
    ],
)
def test_the_right_model_trains(name, model):
    before, after = trained(name, model)
    assert moved(before, after) > 1e-2
    if "skip" in name:  # it starts at zero
        assert np.abs(after["params"]["skip"]["kernel"]).max() > 1e-3


def test_a_stand_in_from_the_program_is_smooth_too():
    apply = programs.smooth(MLP((6,), activation="relu").apply, rho=5.0)
    params = MLP((6,)).init(jax.random.key(0), X[0])
    weights = jnp.zeros(0)
    loss = objectives.objective("sp", apply, k=2).loss(params, X, Y, weights)
    assert np.isfinite(loss)


def shapes(model, x):
    return jax.eval_shape(model.init, jax.random.key(0), x)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_pooling_is_no_activation(pooling):
    image = jnp.zeros((28, 28))
    for activation in ("softplus", "relu"):
        cnn = models.CNN(pooling=pooling, activation=activation)
        model = models.Siamese(cnn)
        params = shapes(model, jnp.stack([image, image]))
        both, x = (params, image), jnp.stack([image])
        if activation == "softplus":
            check_smooth("sp", models.pair_apply(model), both, x)
        else:
            with pytest.raises(ValueError, match="sp trains .*max at 8"):
                check_smooth("sp", models.pair_apply(model), both, x)


def test_graphs_with_softplus_are_smooth_and_with_relu_not():
    edges = jnp.zeros(SIDE * (SIDE - 1) // 2)
    for activation in ("softplus", "relu"):
        model = models.Siamese(models.GCN(SIDE, (8, 4), activation=activation))
        both = shapes(model, jnp.stack([edges, edges])), edges
        if activation == "softplus":
            check_smooth("sp", models.pair_apply(model), both, edges[None])
        else:
            with pytest.raises(ValueError, match="sp trains "):
                check_smooth("sp", models.pair_apply(model), both, edges[None])


W = {"in": jnp.ones((3, 4)), "out": jnp.ones(4), "skip": jnp.ones(3), "s": jnp.ones(())}


def hidden(w, x):
    return jax.nn.relu(x @ w["in"]) @ w["out"]


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (lambda w, x: hidden(w, x) + x @ w["skip"], True),
        (lambda w, x: w["s"] * (x @ w["skip"]) / 2 - hidden(w, x), True),
        (lambda w, x: hidden(w, x) + jnp.sum(x[::-1] * w["skip"]) / w["s"], True),
        (lambda w, x: hidden(w, x) + jnp.exp(w["s"]) * (x @ w["skip"]), True),
        (lambda w, x: x @ w["skip"], True),
        (hidden, False),
        (lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"], False),
        # Leaky ReLU, GELU and a residual block hold a line, but not one of its own.
        (lambda w, x: (0.6 * x @ w["in"] + 0.4 * abs(x @ w["in"])) @ w["out"], False),
        (lambda w, x: (x + jax.nn.relu(x @ w["in"] @ w["in"].T)) @ w["skip"], False),
        (lambda w, x: jax.nn.relu(hidden(w, x) + x @ w["skip"]), False),
        (lambda w, x: hidden(w, x) + (x @ w["skip"]) ** 2, False),
        (lambda w, x: hidden(w, x) + x @ w["skip"] * x[0], False),
        (lambda w, x: hidden(w, x) + jnp.where(x[0] > 0, x, 0) @ w["skip"], False),
        # Nothing to learn in it, and nothing of the input.
        (lambda w, x: hidden(w, x) + jnp.sum(x), False),
        (lambda w, x: hidden(w, x) + w["s"], False),
        (lambda w, x: hidden(w, x) + jnp.floor(x) @ w["skip"], False),
    ],
)  # fmt: skip
def test_a_linear_part_has_weights_of_its_own(apply, expected):
    assert has_linear_part(apply, W, jnp.ones(3)) is expected


class Watched(methods.Setting):
    """Settings that remember whether ε was asked for."""

    def __getattribute__(self, name):
        if name == "epsilon":
            seen.append(name)
        return super().__getattribute__(name)


seen: list[str] = []


@pytest.mark.parametrize("term", [n for n, t in methods.TERMS.items() if t.build])
def test_methods_that_look_at_a_ball_are_those_whose_penalties_take_its_radius(term):
    def apply(params, x):
        return jnp.dot(params, x)[None]

    seen.clear()
    methods.TERMS[term].build(apply, Watched(2, 2, apply, 0.1))
    assert methods.Method("", (term,)).in_a_ball == bool(seen)
