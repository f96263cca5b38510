"""Data and weights that training cannot take, and training that diverges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2et_jax import objectives, saved, training
from r2et_jax.models import MLP
from r2et_jax.objectives.loss import with_context
from r2et_jax.training.epochs import train_step

# Adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion

M, N = 6, 4
MODEL = MLP((3,), activation="tanh")
MADE = objectives.objective("wd", MODEL.apply, k=2)
X = np.random.default_rng(0).normal(size=(M, N)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
WEIGHTS = np.float32([0.1])
PARAMS = MODEL.init(jax.random.key(0), X[0])
OPTIMIZER = optax.sgd(0.1)
HOW = ("step", "epochs", "grid")


def train(how, x=X, y=Y, weights=WEIGHTS, *, made=MADE, optimizer=OPTIMIZER, **options):
    """One step on all of the data, by each of the three ways."""
    state = training.init_state(PARAMS, optimizer, key=jax.random.key(1))
    if how == "step":
        return train_step(made, optimizer)(state, x, y, weights)
    options = {"num_epochs": 1, "batch_size": M, **options}
    if how == "epochs":
        return training.train_epochs(made, optimizer, **options)(state, weights, x, y)
    states = training.grid_states(
        jax.tree.map(lambda leaf: leaf[None], PARAMS),
        optimizer,
        keys=jax.random.key(1)[None],
        num_weights=2,
    )
    weights = np.stack([WEIGHTS, weights])
    run = training.compile_grid(made, optimizer, **options)
    state = run(states, weights, x, y)
    return jax.tree.map(
        lambda leaf: leaf[0, 1] if leaf.ndim > 1 else leaf[0],
        state._replace(key=None),
    )


def with_entry(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": with_entry(X, (2, 1), np.nan)}, "x must be finite, got NaN or infinity "
         "in 1 of 6 rows, the first of them 2"),
        ({"x": with_entry(X, (slice(3, None), 0), -np.inf)}, "in 3 of 6 rows, .* 3"),
        ({"y": with_entry(Y.astype(np.float32), 4, np.nan)}, "y must be finite, .* 4"),
        ({"y": Y + 1}, r"y must be 6 class indices in 0…1, got \[2\]"),
        ({"y": -Y}, r"y must be 6 class indices in 0…1, got \[-1\]"),
        ({"y": np.eye(2, dtype=np.int32)[Y]}, "got shape .6, 2.; of one-hot rows take"),
        ({"y": Y.astype(np.float32)}, "y must be 6 class .* got dtype float32"),
        ({"y": Y[:, None]}, "y must be 6 class indices"),
        ({"y": Y[:4]}, r"x and y must hold as many examples each, got \[4, 6\]"),
        ({"x": X[:0], "y": Y[:0]}, "x and y must hold at least one example, got 0"),
        ({"weights": -WEIGHTS}, r"weights of \('l2',\) must be finite and at least 0"),
        ({"weights": np.nan * WEIGHTS}, r"must be finite and at least 0, got \[nan\]"),
        ({"weights": np.inf * WEIGHTS}, r"must be finite and at least 0, got \[inf\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused_with_the_value(how, changed, message):
    with pytest.raises(ValueError, match=message):
        train(how, **changed)


def test_a_context_is_checked_with_the_inputs():
    unchecked = objectives.Objective(lambda params, x, y, weights, **told: 0.0)
    context = with_entry(X, (5, 0), np.nan)
    with pytest.raises(ValueError, match=r"x\[1\] must be finite, .* rows, .* 5"):
        train("epochs", (X, context), made=unchecked)
    paired = with_context(
        objectives.objective("wd", lambda both, x: MODEL.apply(both[0], x), k=2)
    )
    with pytest.raises(ValueError, match=r"y must be 6 class indices .* got \[2\]"):
        train("epochs", (X, X), Y + 1, made=paired)
    assert train("epochs", (X, X), made=paired).num_nonfinite == 0


def test_more_than_float32_holds_is_not_finite():
    with pytest.raises(ValueError, match=r"x must be finite, .* 1 of 6 rows"):
        with np.errstate(over="ignore"):
            train("epochs", with_entry(X.astype(np.float64), (0, 0), 1e39))


@pytest.mark.parametrize("how", HOW)
def test_all_ways_make_the_same_step_and_a_larger_batch_is_all_of_the_data(how):
    gradient = jax.grad(MADE.loss)(PARAMS, X, Y, WEIGHTS)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient)
    options = {} if how == "step" else {"batch_size": 100}
    state = train(how, **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.params,
        expected,
    )
    assert state.num_nonfinite == 0 and state.num_nonfinite.dtype == jnp.int32


def count_by_hand(optimizer, x, steps):
    """Steps after which, or in whose gradient, some number is not finite."""
    params, state, count = PARAMS, optimizer.init(PARAMS), 0
    for _ in range(steps):
        gradient = jax.grad(MADE.loss)(params, x, Y, WEIGHTS)
        change, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        leaves = [np.asarray(a) for a in jax.tree.leaves((gradient, params))]
        count += not all(np.isfinite(leaf).all() for leaf in leaves)
    return count


def test_diverging_steps_are_counted():
    optimizer = optax.sgd(1e30)
    expected = count_by_hand(optimizer, X, 5)
    assert 0 < expected < 5  # the first one alone is finite still
    for how in ("epochs", "grid"):
        counted = train(how, optimizer=optimizer, num_epochs=5).num_nonfinite
        assert counted == expected
    plain = train("epochs", optimizer=optax.sgd(0.1), num_epochs=5)
    assert plain.num_nonfinite == count_by_hand(optax.sgd(0.1), X, 5) == 0


def test_traced_data_show_in_the_count():
    """A compiled run knows no values: NaN, a label of no class, a negative weight."""
    run = jax.jit(training.train_epochs(MADE, OPTIMIZER, num_epochs=3, batch_size=M))
    state = training.init_state(PARAMS, OPTIMIZER, key=jax.random.key(1))
    for x, y, weights in (
        (with_entry(X, (0, 0), np.nan), Y, WEIGHTS),
        (X, Y + 1, WEIGHTS),
        (X, Y, -WEIGHTS),
    ):
        assert run(state, weights, x, y).num_nonfinite == 3
    assert run(state, WEIGHTS, X, Y).num_nonfinite == 0


def test_a_gradient_that_the_optimiser_drops_is_counted_too():
    optimizer = optax.chain(optax.zero_nans(), optax.sgd(0.1))
    state = training.init_state(PARAMS, optimizer, key=jax.random.key(1))
    step = jax.jit(train_step(MADE, optimizer))
    state = step(state, X * np.nan, Y, WEIGHTS)
    assert state.num_nonfinite == 1
    leaves = jax.tree.leaves(state.params)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_lost_parameters_are_not_saved(tmp_path, value):
    saved.save(tmp_path / "model", MODEL, PARAMS)
    lost = jax.tree.map(np.array, PARAMS)
    lost["params"]["Dense_1"]["kernel"][1:] = value
    for folder in ("model", "other"):
        with pytest.raises(
            ValueError, match=r"in 2 of 3 values at params\['params'\]\['Dense_1'\]"
        ):
            saved.save(tmp_path / folder, MODEL, lost)
    assert not (tmp_path / "other").exists()
    again = saved.load(tmp_path / "model").params
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.array, PARAMS))


def test_one_call_refuses_the_same_and_returns_nothing_that_is_lost():
    options = {"weights": WEIGHTS, "num_epochs": 3, "key": jax.random.key(0)}
    for x, y, message in (
        (with_entry(X, (2, 1), np.nan), Y, "x must be finite, .* first of them 2"),
        (X, Y + 1, r"y must be 6 class indices in 0…1, got \[2\]"),
        (X[:0], Y[:0], "at least one example"),
    ):
        with pytest.raises(ValueError, match=message):
            training.train(MADE, PARAMS, x, y, **options)
    decayed = objectives.objective("wd_decoupled", MODEL.apply, k=2)
    options["weights"] = [1e38]
    with pytest.raises(
        ValueError, match=r"NaN or infinity in [12] of its steps.*e\+37"
    ):
        training.train(decayed, PARAMS, X, Y, **options)
