"""Training against loops in Python, selection against brute force, saved models."""

import shutil

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from sklearn.linear_model import LogisticRegression

from r2et_jax import objectives, training
from r2et_jax.models import MLP, Linear
from r2et_jax.training import checkpoint
from r2et_jax.training.checkpoint import load_model, save_model
from r2et_jax.training.epochs import REFERENCES
from r2et_jax.training.packing import params_sha256
from r2et_jax.training.selection import admissible

# Adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion

N, M, BATCH = 4, 26, 8  # three batches an epoch; two examples are left out
MODEL = MLP(hidden=(5,), activation="tanh")
OBJECTIVE = objectives.objective("r2et_nh", MODEL.apply, k=2)
OPTIMIZER = optax.adam(1e-2)
GRID = jnp.array([[0.0], [0.5], [5.0]])
SEEDS = (3, 8)


def data(m=M):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(m, N)).astype(np.float32)
    y = (x[:, 0] - x[:, 1] * x[:, 2] > 0).astype(np.int32)
    return jnp.asarray(x), jnp.asarray(y)


def keys(seeds=SEEDS):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def initial(seeds=SEEDS):
    return jax.vmap(MODEL.init, (0, None))(keys(seeds), jnp.zeros(N))


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), a, b)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def grid(reference="self", *, num_epochs=3, **options):
    return training.compile_grid(
        OBJECTIVE,
        OPTIMIZER,
        num_epochs=num_epochs,
        batch_size=BATCH,
        reference=reference,
        **options,
    )


def start(reference="self"):
    return training.grid_states(
        initial(), OPTIMIZER, keys=keys(), num_weights=len(GRID), reference=reference
    )


@jax.jit
def python_step(params, state, x, y, weights, reference):
    gradient = jax.grad(OBJECTIVE.loss)(params, x, y, weights, reference=reference)
    updates, state = OPTIMIZER.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_grid_trains_every_model_as_if_it_were_alone(reference):
    x, y = data()
    trained = grid(reference)(start(reference), GRID, x, y)
    assert trained.epoch.tolist() == [3, 3]
    for s in range(len(SEEDS)):
        first = jax.tree.map(lambda leaf, s=s: leaf[s], initial())
        for w in (1, 2):
            params, state = first, OPTIMIZER.init(first)
            kept = first if reference == "fixed" else None
            for epoch in range(3):
                if reference == "previous_epoch":
                    kept = params
                order_key, _ = jax.random.split(jax.random.fold_in(keys()[s], epoch))
                order = jax.random.permutation(order_key, M)
                for rows in np.asarray(order)[:24].reshape(3, BATCH):
                    params, state = python_step(
                        params, state, x[rows], y[rows], GRID[w],
                        params if kept is None else kept,
                    )  # fmt: skip
            alone = jax.tree.map(lambda leaf, at=(s, w): leaf[at], trained.params)
            close(alone, params)


def test_runs_are_repeatable_and_may_be_cut_into_epochs():
    x, y = data()
    whole, run = grid(), grid(num_epochs=1)
    first = whole(start(), GRID, x, y)
    equal(whole(start(), GRID, x, y).params, first.params)
    # Chunks of two models, the last one padded, train the same.
    chunks = grid(max_models=2)(start(), GRID, x, y)
    close(chunks.params, first.params)
    assert chunks.epoch.tolist() == first.epoch.tolist() == [3, 3]
    states = start()
    for _ in range(3):
        states = run(states, GRID, x, y)
    close(states.params, first.params)
    # Another seed is another model.
    leaf = jax.tree.leaves(first.params)[0]
    assert np.abs(leaf[0] - leaf[1]).max() > 1e-3


def recorder(num_examples, *, batch_size, num_epochs, key):
    """Order in which one model sees the examples: [epochs, batches, size]."""

    def loss(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        # Its gradient writes 1 + index of the example into the next free place.
        free = jnp.cumsum(params == 0) <= x.shape[0]
        place = jnp.clip(jnp.cumsum((params == 0) & free) - 1, 0, x.shape[0] - 1)
        written = jnp.where((params == 0) & free, x[place, 0] + 1, 0)
        return -jnp.sum(params * jax.lax.stop_gradient(written))

    run = jax.jit(
        training.train_epochs(
            objectives.Objective(loss),
            optax.sgd(1.0),
            num_epochs=num_epochs,
            batch_size=batch_size,
        )
    )
    x = jnp.arange(num_examples, dtype=jnp.float32)[:, None]
    size = min(batch_size, num_examples)
    num_seen = num_epochs * (num_examples // size) * size
    state = training.init_state(jnp.zeros(num_seen), optax.sgd(1.0), key=key)
    seen = run(state, jnp.zeros(0), x, jnp.zeros(num_examples, jnp.int32)).params
    return np.asarray(seen).astype(int).reshape(num_epochs, -1, size) - 1


def test_every_epoch_is_a_new_shuffle_without_the_incomplete_batch():
    seen = recorder(10, batch_size=4, num_epochs=3, key=jax.random.key(0))
    assert seen.shape == (3, 2, 4)
    epochs = [tuple(epoch.ravel()) for epoch in seen]
    for epoch in epochs:
        assert len(set(epoch)) == 8 and set(epoch) <= set(range(10))
    assert len(set(epochs)) == 3
    equal(recorder(10, batch_size=4, num_epochs=3, key=jax.random.key(0)), seen)
    other = recorder(10, batch_size=4, num_epochs=3, key=jax.random.key(1))
    assert not np.array_equal(other, seen)


def test_a_batch_is_at_most_the_data():
    seen = recorder(5, batch_size=64, num_epochs=2, key=jax.random.key(0))
    assert seen.shape == (2, 1, 5)
    assert all(sorted(epoch.ravel()) == [0, 1, 2, 3, 4] for epoch in seen)


def test_the_penalty_widens_the_gaps_and_the_loss_falls():
    x, y = data(64)
    run = grid(num_epochs=30)
    trained = run(start(), GRID, x, y)
    gap = objectives.penalties.mean_gap(MODEL.apply, k=2)

    def measure(params):
        cross_entropy = objectives.objective("vanilla", MODEL.apply, k=2).loss
        gaps = jax.vmap(gap, (None, 0, None))(params, x, 1)
        return cross_entropy(params, x, y, jnp.zeros(0)), -jnp.mean(gaps)

    both = jax.jit(jax.vmap(jax.vmap(measure)))
    before, after = both(start().params), both(trained.params)
    assert (after[0][:, 0] < 0.8 * before[0][:, 0]).all()
    assert (after[1][:, 2] > after[1][:, 0] + 0.05).all()


def test_logistic_regression_reaches_its_optimum():
    x, y = data(120)
    y = y.at[:12].set(1 - y[:12])  # not separable
    model = Linear()
    objective = objectives.objective("wd", model.apply, k=1)
    optimizer = optax.adam(5e-2)
    params = model.init(jax.random.key(0), x[0])
    state = training.init_state(params, optimizer, key=jax.random.key(0))
    run = jax.jit(
        training.train_epochs(objective, optimizer, num_epochs=300, batch_size=120)
    )
    layer = run(state, jnp.array([0.1]), x, y).params["params"]["Dense_0"]
    # Scikit-learn minimises ½‖w‖² + C·Σ loss: here C = 1/(.1 m).
    best = LogisticRegression(C=1 / (0.1 * 120), tol=1e-8).fit(x, y)
    np.testing.assert_allclose(layer["kernel"].T, best.coef_, atol=2e-3)
    np.testing.assert_allclose(layer["bias"], best.intercept_, atol=2e-3)


def test_it_compiles_once_for_all_states_and_weights():
    traces = 0

    def loss(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        nonlocal traces
        traces += 1
        return jnp.mean((x @ params - y) ** 2) + weights[0] * jnp.sum(params**2)

    made = objectives.Objective(loss, ("l2",))
    run = training.compile_grid(made, optax.sgd(0.1), num_epochs=2, batch_size=8)
    x, y = data()
    y = y.astype(jnp.float32)
    states = training.grid_states(
        jnp.ones((2, N)), optax.sgd(0.1), keys=keys(), num_weights=3
    )
    states = run(states, GRID, x, y)
    before = traces
    run(states, 2 * GRID, x + 1, y)
    assert traces == before > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid("vanilla"), "unknown reference 'vanilla'; known: fixed, prev"),
        (lambda: start("vanilla"), "unknown reference 'vanilla'"),
        (lambda: grid(num_epochs=0), "num_epochs must be an integer of at least 1"),
        (
            lambda: training.compile_grid(
                OBJECTIVE, OPTIMIZER, num_epochs=1, batch_size=0
            ),
            "batch_size must be an integer",
        ),
        (
            lambda: training.grid_states(
                initial(), OPTIMIZER, keys=keys(), num_weights=0
            ),
            "num_weights must be an integer",
        ),
        (
            lambda: grid("previous_epoch")(start("self"), GRID, *data()),
            "reference",
        ),
        (lambda: grid("self")(start("fixed"), GRID, *data()), "reference"),
        (lambda: grid(max_models=0), "max_models must be an integer of at least 1"),
        (lambda: grid(total_epochs=0), "total_epochs must be an integer of at least"),
        (lambda: grid(average_decay=1.0), r"average_decay must lie in \[0, 1\), got 1"),
        (
            lambda: grid(average_decay=0.5)(start(), GRID, *data()),
            "state must come from init_state with average=True",
        ),
        (
            lambda: training.init_state(
                PARAMS, OPTIMIZER, key=keys()[0], reference_params=PARAMS
            ),
            "reference_params belong to reference='fixed', got reference='self'",
        ),
    ],
)
def test_static_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SHARES = st.one_of(st.sampled_from([0.5, 0.6, 0.7, float("nan")]), st.floats(0, 1))


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=8),
    SHARES,
    st.sampled_from([0.0, 0.003, 0.1]),
)
def test_selection_is_that_of_brute_force(candidates, reference_auc, tolerance):
    admitted = [
        i for i, (auc, _) in enumerate(candidates) if auc >= reference_auc - tolerance
    ]
    best = None
    for i in admitted:
        auc, precision = candidates[i]
        if np.isnan(precision):
            continue
        if best is None or (precision, auc) > (
            candidates[best][1],
            candidates[best][0],
        ):
            best = i
    auc, precision = np.array(candidates).T
    choice = training.select(
        auc, precision, reference_auc=reference_auc, tolerance=tolerance
    )
    assert choice.index == best and choice.num_admissible == len(admitted)
    if best is None:
        assert np.isnan(choice.auc) and np.isnan(choice.precision)
    else:
        assert (choice.auc, choice.precision) == candidates[best]
    mask = admissible(auc, reference_auc=reference_auc, tolerance=tolerance)
    assert np.flatnonzero(mask).tolist() == admitted


@pytest.mark.parametrize("tolerance", [-0.01, float("nan")])
def test_the_tolerance_must_be_nonnegative(tolerance):
    with pytest.raises(ValueError, match="tolerance must be nonnegative"):
        training.select([0.5], [0.5], reference_auc=0.5, tolerance=tolerance)


PARAMS = {"params": {"layer": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3)}}}
OTHER = {"params": {"layer": {"w": np.zeros((2, 3)), "b": np.full(3, 7.0)}}}


def test_a_saved_model_comes_back(tmp_path):
    params = {**PARAMS, "count": np.int32(4), "half": jnp.ones(2, jnp.float32)}
    description = {"config": {"seed": 1, "grid": [[0.1], [0.3]]}, "auc": 0.9}
    save_model(tmp_path / "a" / "model", params, description)
    loaded, told = load_model(tmp_path / "a" / "model")
    equal(loaded, params)
    for leaf, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype == old.dtype
    assert told == {**description, "params_sha256": params_sha256(params)}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]


def test_a_model_is_replaced_as_a_whole(tmp_path):
    save_model(tmp_path / "model", PARAMS, {"which": "old"})
    save_model(tmp_path / "model", OTHER, {"which": "new"})
    loaded, told = load_model(tmp_path / "model")
    equal(loaded, OTHER)
    assert told["which"] == "new"
    assert len(list(tmp_path.rglob("_METADATA"))) == 1  # the old one is gone


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("where", ["parameters", "description", "replace"])
def test_a_kill_while_writing_leaves_what_was_there(tmp_path, monkeypatch, where, old):
    folder = tmp_path / "model"
    if old:
        save_model(folder, PARAMS, {"which": "old"})

    def kill(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "parameters":
            patch.setattr(orbax.checkpoint.StandardCheckpointer, "save", kill)
        elif where == "description":
            patch.setattr(checkpoint.os, "fsync", kill)
        else:
            patch.setattr(checkpoint.os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            save_model(folder, OTHER, {"which": "new"})
    if old:
        loaded, told = load_model(folder)
        equal(loaded, PARAMS)
        assert told["which"] == "old"
    else:
        with pytest.raises(FileNotFoundError, match="no saved model in .*model"):
            load_model(folder)
    save_model(folder, OTHER, {"which": "new"})
    equal(load_model(folder)[0], OTHER)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved model in .*nothing"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage", ["no parameters", "empty parameters", "torn values", "no JSON", "no text"]
)
def test_a_damaged_model_is_named(tmp_path, damage):
    folder = tmp_path / "model"
    save_model(folder, PARAMS, {"which": "old"})
    description = folder / "description.json"
    (stored,) = [path for path in folder.iterdir() if path.is_dir()]
    if damage == "no parameters":
        shutil.rmtree(stored)
    elif damage == "empty parameters":
        shutil.rmtree(stored)
        stored.mkdir()
    elif damage == "torn values":
        for path in stored.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "no JSON":
        description.write_text(description.read_text()[:-4])
    else:
        description.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="saved model in .*model is damaged"):
        load_model(folder)
