"""What a training step may be told: keys, progress, averages, decay, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax import objectives, training
from r2et_jax.models import Linear
from r2et_jax.objectives import Objective
from r2et_jax.objectives.loss import with_context
from r2et_jax.training.epochs import train_step

# Adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion

X = jnp.arange(12.0).reshape(6, 2)
Y = jnp.zeros(6, jnp.int32)
KEY = jax.random.key(4)
NONE = jnp.zeros(0)


def state_of(params, optimizer, **options):
    return training.init_state(params, optimizer, key=KEY, **options)


def test_the_loss_is_told_the_share_of_training_that_is_done():
    def loss(params, x, y, weights, /, *, reference, key, progress):
        # The gradient is what it is told, entered at the number of the step.
        step = jnp.round(progress * 12).astype(jnp.int32)
        return -params[jnp.minimum(step, 11)] * progress

    run = training.train_epochs(
        Objective(loss), optax.sgd(1.0), num_epochs=2, batch_size=2, total_epochs=4
    )
    run = jax.jit(run)
    state = run(state_of(jnp.zeros(12), optax.sgd(1.0)), NONE, X, Y)
    expected = np.where(np.arange(12) < 6, np.arange(12) / 12, 0)
    np.testing.assert_allclose(state.params, expected, atol=1e-6)
    state = run(state, NONE, X, Y)
    np.testing.assert_allclose(state.params, np.arange(12) / 12, atol=1e-6)


def test_every_batch_has_a_key_of_its_own_and_a_run_repeats_them():
    def loss(params, x, y, weights, /, *, reference, key, progress):
        place = jnp.argmin(params != 0)
        return -params[place] * jax.random.uniform(key)

    def drawn(key, cuts):
        state = state_of(jnp.zeros(9), optax.sgd(1.0))._replace(key=key)
        for num_epochs in cuts:
            run = training.train_epochs(
                Objective(loss), optax.sgd(1.0), num_epochs=num_epochs, batch_size=2
            )
            state = jax.jit(run)(state, NONE, X, Y)
        return np.asarray(state.params)

    whole = drawn(KEY, [3])
    assert len(set(whole.tolist())) == 9 and (whole > 0).all()
    np.testing.assert_array_equal(drawn(KEY, [1, 2]), whole)
    assert not set(drawn(jax.random.key(5), [3])) & set(whole)


def test_the_average_is_that_of_a_loop():
    def loss(params, x, y, weights, /, *, reference, key, progress):
        return jnp.sum((params - jnp.mean(x)) ** 2)

    optimizer = optax.sgd(0.1)
    run = training.train_epochs(
        Objective(loss), optimizer, num_epochs=1, batch_size=6, average_decay=0.75
    )
    state = state_of(jnp.zeros(1), optimizer, average=True)
    params = average = 0.0
    for _ in range(4):
        state = jax.jit(run)(state, NONE, X, Y)
        params -= 0.2 * (params - 5.5)
        average = 0.75 * average + 0.25 * params
    np.testing.assert_allclose(state.params, params, rtol=1e-5)
    np.testing.assert_allclose(state.average, average, rtol=1e-5)
    np.testing.assert_array_equal(state.best_params, state.average)
    plain = state_of(jnp.zeros(1), optimizer)
    assert plain.average is None and plain.best_params is plain.params


def zero_loss(params, x, y, weights, /, *, reference, key, progress):
    return 0.0 * jnp.sum(params["w"]) + 0.0 * jnp.sum(params["b"])


def test_decoupled_decay_shrinks_matrices_alone_and_is_free_of_adam():
    params = {"w": jnp.full((2, 2), 3.0), "b": jnp.full(2, 3.0)}
    optimizer = training.adam(0.1)
    made = Objective(zero_loss, ("l2", "decay"), lambda weights: weights[1])
    step = train_step(made, optimizer)
    state = state_of(params, optimizer)
    for _ in range(3):
        state = step(state, X, Y, jnp.array([7.0, 0.5]))
    np.testing.assert_allclose(state.params["w"], 3 * (1 - 0.1 * 0.5) ** 3, rtol=1e-6)
    np.testing.assert_array_equal(state.params["b"], params["b"])


def test_decoupled_decay_is_that_of_adamw():
    params = {"w": jnp.ones((2, 2))}
    ours, theirs = training.adam(0.1), optax.adamw(0.1, weight_decay=0.3)
    states, values = [ours.init(params), theirs.init(params)], [params, params]
    for _ in range(4):
        for i, (optimizer, extra) in enumerate(
            [(ours, {"weight_decay": 0.3}), (theirs, {})]
        ):
            gradient = jax.tree.map(lambda w: jnp.sin(5 * w) + 1, values[i])
            change, states[i] = optimizer.update(
                gradient, states[i], values[i], **extra
            )
            values[i] = optax.apply_updates(values[i], change)
    np.testing.assert_allclose(values[0]["w"], values[1]["w"], rtol=1e-6)


def test_a_cosine_ends_at_zero_and_a_clipped_gradient_has_the_norm():
    optimizer = training.adam(0.1, schedule="cosine", num_steps=4, clip_norm=1.0)
    params, moved = {"w": jnp.zeros((1, 1))}, []
    state = optimizer.init(params)
    for _ in range(5):
        change, state = optimizer.update({"w": jnp.full((1, 1), 9.0)}, state, params)
        moved.append(-float(change["w"][0, 0]))
    # A constant gradient moves Adam by the learning rate.
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(5) / 4))
    np.testing.assert_allclose(moved, cosine, atol=1e-6)
    adam_state = next(s for s in jax.tree.leaves(
        state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState)
    ) if isinstance(s, optax.ScaleByAdamState))  # fmt: skip
    np.testing.assert_allclose(adam_state.mu["w"], 1 - 0.9**5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; known: constant, cosine"),
        ({"schedule": "cosine"}, "a cosine schedule needs num_steps, got None"),
        ({"schedule": "cosine", "num_steps": 0}, "num_steps must be an integer"),
        ({"clip_norm": -1.0}, "clip_norm must be positive"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        training.adam(**arguments)


def test_a_decay_of_the_objective_reaches_the_optimiser_or_is_missed():
    """AdamW's own decay is the oracle, with biases left out."""
    model = Linear()
    made = objectives.objective("wd_decoupled", model.apply, k=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
    y = (x[:, 0] > 0).astype(jnp.int32)
    params = model.init(jax.random.key(1), x[0])

    def trained(objective, optimizer, weights):
        state = training.init_state(params, optimizer, key=KEY)
        run = training.train_epochs(objective, optimizer, num_epochs=5, batch_size=4)
        return jax.jit(run)(state, weights, x, y).params

    after = trained(made, training.adam(1e-2), jnp.array([10.0]))
    matrices = jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
    oracle = optax.adamw(1e-2, weight_decay=10.0, mask=matrices)
    plain = objectives.objective("vanilla", model.apply, k=1)
    expected = trained(plain, oracle, jnp.zeros(0))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(ValueError, match=r"takes weight_decay, such as training\.adam"):
        trained(made, optax.adam(1e-2), jnp.array([10.0]))


@pytest.mark.parametrize("take", [
    lambda loss: train_step(loss, training.adam()),
    lambda loss: training.train_epochs(
        loss, training.adam(), num_epochs=1, batch_size=2
    ),
    lambda loss: training.compile_grid(
        loss, training.adam(), num_epochs=1, batch_size=2
    ),
    with_context,
])  # fmt: skip
def test_a_loss_without_its_decay_is_taken_nowhere(take):
    made = objectives.objective("wd_decoupled", Linear().apply, k=1)
    for given in (made.loss, tuple(made), None):
        with pytest.raises(
            ValueError, match=r"an Objective as .* objectives\.Objective"
        ):
            take(given)
    take(made)
    take(Objective(made.loss))


def test_a_context_leaves_the_decay():
    """One step without a gradient: the weights fall by learning rate × coefficient."""
    decayed = Objective(lambda params, x, y, weights, **told: 0.0 * jnp.sum(params[0]))
    decayed = with_context(decayed._replace(decay=lambda weights: weights[0]))
    step = train_step(decayed, training.adam(0.1))
    state = state_of(jnp.ones((2, 2)), training.adam(0.1))
    state = step(state, (X, X), Y, jnp.array([2.0]))
    np.testing.assert_allclose(state.params, 0.8 * np.ones((2, 2)), rtol=1e-6)
