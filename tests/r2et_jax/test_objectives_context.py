"""Losses in a context against a loop over examples with the context closed in."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax import objectives, training
from r2et_jax.context import without_context
from r2et_jax.models import MLP, Siamese, pair_apply
from r2et_jax.objectives import loss as loss_lib
from r2et_jax.objectives.loss import with_context

N, K, M = 5, 2, 6
PAIR = jax.ShapeDtypeStruct((2, N), jnp.float32)
MODEL = Siamese(MLP(hidden=(7,), num_outputs=4, activation="tanh"))
PLAIN = MLP(hidden=(32,), activation="tanh")


def apply(both, x, /):
    """A model of pairs with a matrix in its context, which is no weight matrix."""
    params, context = both
    return pair_apply(MODEL)((params, context["partner"] @ context["turn"]), x)


def data():
    rng = np.random.default_rng(2)
    x, partner = rng.normal(size=(2, M, N))
    turn = rng.normal(size=(M, N, N))
    y = np.arange(M, dtype=np.int32) % 2
    contexts = {"partner": jnp.asarray(partner), "turn": jnp.asarray(turn)}
    return jnp.asarray(x), contexts, jnp.asarray(y)


def parameters(seed):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), PAIR)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape)), shapes
    )


def close(a, b, **tolerances):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b)


def test_docstring_examples_run():
    result = doctest.testmod(loss_lib)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ["wd+r2et+cl", "r2et_mm_nh+at", "rat"])
def test_it_is_the_mean_of_a_loop_over_examples(name, kept):
    with jax.enable_x64(True):
        weights = jnp.linspace(0.3, 0.9, len(objectives.method(name).terms))
        x, contexts, y = data()
        params = parameters(0)
        reference = parameters(1) if kept else None
        key = jax.random.key(3)

        @jax.jit
        @jax.value_and_grad
        def alone(params, context, x, y, key):
            def model(params, x, /):
                return apply((params, context), x)

            def fixed(params, x, /):
                return model(params, x)

            loss = objectives.objective(name, fixed, k=K).loss
            return loss(params, x, y, weights, reference=reference, key=key)

        loss = with_context(objectives.objective(name, apply, k=K)).loss
        computed = jax.jit(jax.value_and_grad(loss))(
            params, (x, contexts), y, weights, reference=reference, key=key
        )
        keys = jax.random.split(key, M)
        each = []
        for i in range(M):
            context = jax.tree.map(lambda leaf, i=i: leaf[i], contexts)
            rows = slice(i, i + 1)
            each.append(alone(params, context, x[rows], y[rows], keys[i]))
        expected = jax.tree.map(lambda *leaves: sum(leaves) / M, *each)
        close(computed, expected, rtol=1e-9, atol=1e-11)
        assert np.ptp([value for value, _ in each]) > 1e-2


def test_weight_decay_counts_the_weights_of_the_network_once():
    loss = with_context(objectives.objective("wd", apply, k=K)).loss
    params, (x, contexts, y) = parameters(0), data()
    params, x, contexts = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32), (params, x, contexts)
    )
    values = [loss(params, (x, contexts), y, jnp.array([w])) for w in (0.0, 0.5)]
    squares = [np.sum(np.square(w)) for w in jax.tree.leaves(params) if w.ndim == 2]
    np.testing.assert_allclose(values[1] - values[0], 0.25 * sum(squares), rtol=1e-5)


def test_what_the_loss_is_told_goes_through():
    def told(params, x, y, weights, /, *, reference, key, progress):
        assert x.shape == (1, N) and y.shape == (1,) and weights.shape == (2,)
        (weights_told, context), (kept, same) = params, reference
        return (kept - weights_told + context - same + x[0, 0] + weights[1]) * progress

    loss = with_context(objectives.Objective(told)).loss
    x = jnp.ones((M, N)), jnp.arange(6.0)
    value = loss(1.0, x, jnp.zeros(M, jnp.int32), jnp.array([0.0, 5.0]),
                 reference=3.0, progress=0.5)  # fmt: skip
    assert value == 4.0
    random = with_context(objectives.objective("rat", apply, k=K)).loss
    with pytest.raises(ValueError, match="rat draws at random: pass a key"):
        random(parameters(0), data()[:2], data()[2], jnp.array([0.1]))


@pytest.fixture(scope="module")
def ignored():
    """The plain loss and the one in a context that the model ignores, compiled."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 12)), jnp.float32)
    y = (x[:, 0] > 0).astype(jnp.int32)
    params = PLAIN.init(jax.random.key(0), x[0])
    weights = jnp.array([0.1, 0.4, 0.2], jnp.float32)
    name = "wd+r2et"
    plain = objectives.objective(name, PLAIN.apply, k=4).loss
    other = without_context(PLAIN.apply)
    loss = with_context(objectives.objective(name, other, k=4)).loss
    programs = [
        jax.jit(jax.value_and_grad(fn)).lower(params, seen, y, weights).compile()
        for fn, seen in ((plain, x), (loss, (x, x[:, :3])))
    ]
    return programs, params, x, y, weights


def test_an_ignored_context_changes_nothing(ignored):
    programs, params, x, y, weights = ignored
    expected = programs[0](params, x, y, weights)
    value = programs[1](params, (x, x[:, :3]), y, weights)
    close(value, expected, rtol=2e-5, atol=2e-6)


def test_an_ignored_context_costs_nothing(ignored):
    plain, other = (program.cost_analysis()["flops"] for program in ignored[0])
    assert plain > 1e5
    assert 0.8 < other / plain <= 1.05


@pytest.mark.standard_promotion  # Adam mixes dtypes
def test_a_grid_of_models_of_pairs_trains_as_a_loop_does():
    x, contexts, y = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.ndim > 1 else leaf, data()
    )
    name = "r2et_nh"
    made = with_context(objectives.objective(name, apply, k=K))
    optimizer = optax.adam(1e-2)
    keys = jnp.stack([jax.random.key(4)])
    first = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters(0))
    states = training.grid_states(
        jax.tree.map(lambda leaf: leaf[None], first),
        optimizer,
        keys=keys,
        num_weights=2,
    )
    weights = jnp.array([[0.0], [2.0]])
    run = training.compile_grid(made, optimizer, num_epochs=2, batch_size=3)
    trained = run(states, weights, (x, contexts), y)

    @jax.jit
    def step(params, state, x, contexts, y):
        gradient = jax.grad(made.loss)(params, (x, contexts), y, weights[1])
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = first, optimizer.init(first)
    for epoch in range(2):
        order_key, _ = jax.random.split(jax.random.fold_in(keys[0], epoch))
        for rows in np.asarray(jax.random.permutation(order_key, M)).reshape(2, 3):
            of_rows = jax.tree.map(lambda leaf, rows=rows: leaf[rows], contexts)
            params, state = step(params, state, x[rows], of_rows, y[rows])
    alone = jax.tree.map(lambda leaf: leaf[0, 1], trained.params)
    close(alone, params, atol=2e-5)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, first)
    assert max(jax.tree.leaves(apart)) > 1e-2


def test_rows_of_different_lengths_are_refused():
    made = objectives.Objective(lambda *args, **keywords: 0.0)
    run = training.train_epochs(made, optax.sgd(0.1), num_epochs=1, batch_size=2)
    state = training.init_state(jnp.zeros(1), optax.sgd(0.1), key=jax.random.key(0))
    y, none = jnp.zeros(M, jnp.int32), jnp.zeros(0)
    for x in ((jnp.zeros((M, N)), jnp.zeros((M - 1, N))), jnp.zeros((M - 1, N))):
        with pytest.raises(ValueError, match=r"as many examples each, got \[5, 6\]"):
            run(state, none, x, y)
