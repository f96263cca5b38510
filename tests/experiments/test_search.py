"""The search of a grid, against a plain simulation over tables of what it measures.

Its parts are functions: here a model is the number of its seed, of its setting and of
the epochs it was trained for, and validation AUC and P@k are read from random tables.
"""

import concurrent.futures
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.models import kept
from r2et_jax import training
from r2et_jax.training.checkpoint import save_model
from r2et_jax.training.epochs import TrainState
from r2et_jax.training.packing import params_sha256
from r2et_jax.training.search import Plan, search

BLOCK_EPOCHS = 4
TOLERANCES = (0.05, 0.02)
HALVING = ((0.2, 0.5), (0.4, 0.25))
REFERENCE = 0.8


class Tables:
    """Validation AUC and P@k of [seed, block, setting]; block 0 is the start."""

    def __init__(self, seed, *, num_seeds, num_blocks, num_settings, nan=0.0):
        rng = np.random.default_rng(seed)
        shape = num_seeds, num_blocks + 1, num_settings
        # Few values: ties in both are common.
        self.auc = rng.choice([0.7, 0.74, 0.76, 0.79, 0.8, 0.82], shape)
        self.auc[rng.random(shape) < nan] = np.nan
        self.precision = rng.choice([0.2, 0.4, 0.6, 0.8], shape)
        self.auc[:, 0], self.precision[:, 0] = self.auc[:, 0, :1], 0.5
        self.reference_auc = np.full(num_seeds, REFERENCE)

    def look(self, table, params):
        columns = (np.asarray(params[name]) for name in ("seed", "epochs", "setting"))
        seed, epochs, setting = columns
        return table[seed, epochs // BLOCK_EPOCHS, setting]


class Candidates:
    """What `search` asks of its candidates, read from tables."""

    def __init__(self, tables):
        self.tables = tables
        self.num_precisions = 0

    def auc(self, params):
        return self.tables.look(self.tables.auc, params)

    def precision(self, params, wanted):
        self.num_precisions += int(wanted.sum())
        return np.where(wanted, self.tables.look(self.tables.precision, params), np.nan)


class NoCheckpoints:
    """Keeps nothing."""

    def restore(self, template):
        return None

    def save(self, epoch, state, *, extra):
        pass


class Grid:
    """A search whose training only counts; `ran` has the settings of every block."""

    def __init__(self, tables, *, pruning=HALVING, with_start=True):
        self.tables, self.ran = tables, []
        self.num_seeds, blocks, self.num_settings = tables.auc.shape
        self.num_blocks = blocks - 1
        weights = [(float(w), 10.0 * w) for w in range(self.num_settings)]
        self.plan = Plan(
            self.run, weights, ("first", "second"), self.num_blocks, BLOCK_EPOCHS,
            pruning, TOLERANCES, with_start,
        )  # fmt: skip
        self.candidates = Candidates(tables)

    def run(self, states, weights, x, y):
        del x, y
        setting = np.asarray(states.params["setting"])
        assert np.all(np.asarray(weights)[:, 0] == setting)
        assert np.all(np.asarray(weights)[:, 1] == 10 * setting)
        self.ran.append(setting[0].tolist())
        epochs = np.asarray(states.params["epochs"]) + BLOCK_EPOCHS
        # What the optimiser carries stays with its setting.
        assert np.array_equal(states.optimizer_state["moment"], setting)
        return states._replace(params={**states.params, "epochs": epochs})

    def states(self):
        shape = self.num_seeds, self.num_settings
        setting = np.broadcast_to(np.arange(self.num_settings), shape)
        params = {
            "seed": np.broadcast_to(np.arange(self.num_seeds)[:, None], shape),
            "setting": setting,
            "epochs": np.zeros(shape, int),
        }
        return TrainState(
            params,
            {"moment": jnp.asarray(setting)},
            None,
            jax.random.split(jax.random.key(0), self.num_seeds),
            np.zeros(self.num_seeds, np.int32),
            np.zeros(setting.shape, np.int32),
        )

    def search(self, checkpoints=None, track=lambda blocks: blocks):
        searched = search(
            self.plan,
            self.states(),
            None,
            None,
            candidates=self.candidates,
            reference_auc=self.tables.reference_auc,
            checkpoints=checkpoints or NoCheckpoints(),
            track=track,
        )
        return searched.params, searched.choices


def simulate(tables, pruning, with_start):
    """Settings that run in each block, those left, and the candidates of each seed.

    A candidate is (block, setting, AUC, P@k), in the order of measurement.
    """
    num_seeds, blocks, num_settings = tables.auc.shape
    candidates = [
        [(0, 0, tables.auc[s, 0, 0], tables.precision[s, 0, 0])] if with_start else []
        for s in range(num_seeds)
    ]
    alive, ran = list(range(num_settings)), []

    def reached(seed, setting, tolerance):
        """The best P@k so far among those within the tolerance; −1 without any."""
        return max(
            [
                p
                for b, w, auc, p in candidates[seed]
                if w == setting and b > 0 and auc >= REFERENCE - tolerance
            ],
            default=-1.0,
        )

    for block in range(1, blocks):
        ran.append(list(alive))
        for s in range(num_seeds):
            for w in alive:
                candidates[s].append(
                    (block, w, tables.auc[s, block, w], tables.precision[s, block, w])
                )
        share = min(
            [keep for start, keep in pruning if block / (blocks - 1) >= start - 1e-9],
            default=1.0,
        )
        while len(alive) > int(np.ceil(share * num_settings)):
            ranked = []
            for w in alive:
                means = [
                    reached(s, w, tolerance)
                    for s in range(num_seeds)
                    for tolerance in TOLERANCES
                ]
                auc = np.mean(tables.auc[:, block, w])
                ranked.append((np.mean(means), -1 if np.isnan(auc) else auc, -w))
            alive.remove(-min(ranked)[2])  # of equal ones the later goes
    return ran, alive, candidates


@given(
    seed=st.integers(0, 10**6),
    num_seeds=st.integers(1, 3),
    num_settings=st.integers(1, 12),
    num_blocks=st.sampled_from([1, 2, 3, 5, 10]),
    with_start=st.booleans(),
    pruning=st.sampled_from([(), HALVING, ((0.5, 0.3),)]),
    nan=st.sampled_from([0.0, 0.3]),
)
def test_a_search_is_that_of_a_plain_simulation(
    seed, num_seeds, num_settings, num_blocks, with_start, pruning, nan
):
    tables = Tables(
        seed,
        num_seeds=num_seeds,
        num_blocks=num_blocks,
        num_settings=num_settings,
        nan=nan,
    )
    grid = Grid(tables, pruning=pruning, with_start=with_start)
    best, choices = grid.search()
    ran, alive, candidates = simulate(tables, pruning, with_start)
    assert grid.ran == ran
    for s, searched in enumerate(candidates):
        auc, precision = (np.array([c[i] for c in searched]) for i in (2, 3))
        for t, tolerance in enumerate(TOLERANCES):
            wanted = training.select(
                auc, precision, reference_auc=REFERENCE, tolerance=tolerance
            )
            choice = choices[s][t]
            assert choice["num_admissible"] == wanted.num_admissible
            assert choice["settings_tried"] == num_settings
            assert choice["settings_left"] == len(alive)
            assert choice["fallback"] == (wanted.index is None)
            params = {name: int(leaf[s, t]) for name, leaf in best.items()}
            if wanted.index is None:
                assert choice["valid_auc"] == REFERENCE
                assert choice["valid_precision"] is None
                assert params == {"seed": s, "setting": 0, "epochs": 0}
                continue
            block, setting, *_ = searched[wanted.index]
            assert choice["valid_auc"] == wanted.auc
            assert choice["valid_precision"] == wanted.precision
            assert choice["epoch"] == block * BLOCK_EPOCHS
            weights = {"first": float(setting), "second": 10.0 * setting}
            assert choice["weights"] == (weights if block else {})
            epochs = block * BLOCK_EPOCHS
            assert params == {"seed": s, "setting": setting, "epochs": epochs}


def test_only_what_may_be_chosen_is_attacked():
    tables = Tables(0, num_seeds=2, num_blocks=5, num_settings=8, nan=0.1)
    grid = Grid(tables, pruning=())
    grid.search()
    within = tables.auc >= REFERENCE - max(TOLERANCES)
    wanted = within[:, 1:].sum() + within[:, 0, 0].sum()
    assert grid.candidates.num_precisions == wanted


def test_a_setting_that_diverged_goes_first():
    tables = Tables(0, num_seeds=1, num_blocks=5, num_settings=4)
    tables.auc[:] = 0.1  # none is admissible: the AUC decides
    tables.auc[0, 1:] = [0.3, np.nan, 0.2, np.nan]
    grid = Grid(tables)
    grid.search()
    assert grid.ran == [[0, 1, 2, 3], [0, 2], [0], [0], [0]]


def test_without_an_admissible_candidate_it_falls_back():
    tables = Tables(0, num_seeds=2, num_blocks=3, num_settings=4)
    tables.auc[1] = 0.7
    tables.auc[0, 2, 3], tables.precision[0, 2, 3] = 0.8, 1.0
    _, choices = Grid(tables, pruning=()).search()
    for choice in choices[1]:
        assert choice["fallback"] and choice["num_admissible"] == 0
        assert choice["weights"] == {} and choice["epoch"] == 0
    for choice in choices[0]:
        assert not choice["fallback"] and choice["valid_precision"] == 1.0
        assert choice["weights"] == {"first": 3.0, "second": 30.0}


@pytest.mark.parametrize("with_start", [True, False])
def test_the_start_is_a_candidate_where_the_plan_says_so(with_start):
    tables = Tables(0, num_seeds=1, num_blocks=2, num_settings=3)
    tables.auc[:] = 0.8
    tables.precision[:, 0], tables.precision[:, 1:] = 0.9, 0.4
    best, choices = Grid(tables, with_start=with_start).search()
    assert choices[0][0]["epoch"] == (0 if with_start else BLOCK_EPOCHS)
    assert choices[0][0]["valid_precision"] == (0.9 if with_start else 0.4)
    assert best["epochs"].tolist() == [[0, 0] if with_start else [BLOCK_EPOCHS] * 2]


class Killed(Exception):
    pass


@pytest.mark.parametrize("allowed", range(5))
def test_a_search_goes_on_where_it_was_killed(tmp_path, allowed):
    """Killed in block `allowed`; settings are pruned after blocks 1 and 2 of 5."""
    tables = Tables(7, num_seeds=2, num_blocks=5, num_settings=8)
    whole = Grid(tables)
    best, choices = whole.search()
    config = {"grid": 8}
    first = Grid(tables)

    def killed(states, weights, x, y):
        if len(first.ran) == allowed:
            raise Killed
        return first.run(states, weights, x, y)

    first.plan = first.plan._replace(run=killed)
    with pytest.raises(Killed):
        first.search(training.Checkpoints(tmp_path, config=config))
    second = Grid(tables)
    checkpoints = training.Checkpoints(tmp_path, config=config)
    again, chosen = second.search(checkpoints)
    assert first.ran + second.ran == whole.ran
    assert [len(settings) for settings in whole.ran] == [8, 4, 2, 2, 2]
    assert params_sha256(again) == params_sha256(best)
    for row, other in zip(chosen, choices, strict=True):
        for choice, wanted in zip(row, other, strict=True):
            assert {**choice, "train_seconds": 0} == {**wanted, "train_seconds": 0}
    # The end is a checkpoint too: a third search only reports.
    third = Grid(tables)
    again, _ = third.search(checkpoints)
    assert not third.ran
    assert params_sha256(again) == params_sha256(best)


def test_one_of_two_that_want_a_model_trains_it(tmp_path):
    """The other one waits and finds it."""
    calls, together = [], threading.Barrier(2)
    folder = tmp_path / "adult" / "r2et-1"

    def fit():
        calls.append(None)
        time.sleep(0.2)
        params = {"w": np.full(2, float(len(calls)))}
        save_model(folder, params, {"config": 1})
        return params, {"config": 1}

    def want(_):
        together.wait()
        return kept.kept_or_fitted(folder, fit, 1)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        searched = list(pool.map(want, range(2)))
    assert len(calls) == 1
    for params, description in searched:
        np.testing.assert_array_equal(params["w"], [1.0, 1.0])
        assert description["config"] == 1


def test_it_stops_after_some_blocks_without_another_choice(tmp_path):
    tables = Tables(5, num_seeds=2, num_blocks=6, num_settings=3)
    tables.precision[:] = 0.4
    tables.auc[:] = REFERENCE
    tables.precision[1, 2, 1] = 0.8  # of the second seed alone, after two blocks
    config = {"of": "this test"}

    def stopped(checkpoints):
        grid = Grid(tables, pruning=())
        grid.plan = grid.plan._replace(patience=2)
        return grid.ran, grid.search(checkpoints)

    ran, (best, choices) = stopped(training.Checkpoints(tmp_path, config=config))
    assert len(ran) == 4  # two blocks after the last one that was better
    assert choices[1][0]["epoch"] == 2 * BLOCK_EPOCHS and choices[0][0]["epoch"] == 0
    # Started again, it has nothing left to do.
    ran, (again, same) = stopped(training.Checkpoints(tmp_path, config=config))
    assert ran == [] and same == choices
    jax.tree.map(np.testing.assert_array_equal, again, best)
