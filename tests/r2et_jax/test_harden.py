"""A model trained further until its top features hold, chosen on validation data."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters, metrics
from r2et_jax.audit import examples
from r2et_jax.training import weights

# Adam and Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

K, N = 1, 5
RNG = np.random.default_rng(0)


def part(m, seed):
    x = np.random.default_rng(seed).normal(size=(m, N)).astype(np.float32)
    return x, (x[:, 0] ** 2 + x[:, 1] > 1).astype(int)


DATA = {"train": part(64, 0), "valid": part(24, 1), "test": part(12, 2)}
# It predicts without a fault: to bend less, it has to give up accuracy.
START = {
    "linear": jnp.array([0.0, 1.0, 0.04, 0.02, 0.01]),
    "square": jnp.array([1.0, 0.0, 0.03, 0.03, 0.03]),
    "bias": jnp.array(-1.0),
}


def bent(params, x):
    terms = params["linear"] * x + params["square"] * x**2
    return (terms.sum() + params["bias"])[None]


def kinked(params, x):
    terms = params["linear"] * x + params["square"] * jnp.abs(x)
    return (terms.sum() + params["bias"])[None]


OPTIONS = {
    "k": K,
    "method": "logit_h",
    "weights": {"logit_curvature": (0.1, 3.0)},
    "batch_size": 8,
    "num_epochs": 3,
    "eval_every": 1,
    "learning_rate": 0.1,
    "evaluations": 1000,
    "threat": r2.threat_model("l2", 0.5),
}


def ask(data=DATA, params=START, **options):
    return r2.harden(bent, params, data, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def told():
    """What the progress of `hardened` was."""
    return []


@pytest.fixture(scope="module")
def hardened(told):
    return ask(tolerance=0.05, progress=lambda *now: told.append(now))


@pytest.mark.parametrize(
    ("method", "norm", "warns"),
    [
        ("rat", "linf", True),
        ("at_mixed", "linf", True),
        ("rat", "l2", False),
        ("r2et", "linf", False),
    ],
)
def test_a_ball_of_another_norm_than_penalties_have_is_said(method, norm, warns):
    # It is said before the weights are looked at, which are wrong here.
    def call():
        with pytest.raises(ValueError, match="weights"):
            ask(method=method, threat=r2.threat_model(norm, 0.5), weights={"no": (1,)})

    if warns:
        with pytest.warns(UserWarning, match=f"{method} trains within l2 balls of ε"):
            call()
    else:
        call()


def test_progress_counts_each_stage_once(hardened, told):
    # Three blocks of training, and five stages of either audit.
    assert [done for done, _, _ in told] == list(range(14))
    assert {total for _, total, _ in told} == {13}
    assert [what for *_, what in told].index("done") == 13


def batches(x, y, order=None, size=7):
    order = np.arange(len(y)) if order is None else order
    for start in range(0, len(y), size):
        rows = order[start : start + size]
        yield x[rows], y[rows]


class Indexed:
    """As Keras's PyDataset: a length and batches by number, which need not end."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]


X, Y = DATA["train"]
SHUFFLED = np.random.default_rng(3).permutation(len(Y))


@pytest.mark.parametrize(
    "loader",
    [
        batches(X, Y),
        lambda: batches(X, Y, SHUFFLED),
        list(batches(X, Y, size=len(Y) // 2)),  # two pairs, and no pair
        Indexed(),
    ],
    ids=["generator", "shuffled", "list", "indexed"],
)
def test_batches_are_gathered_in_an_order_of_their_own(loader):
    made = examples.examples(loader, "auto")
    expected = examples.examples([(X, Y)], "auto")
    assert [part.sha256 for part in made[:3]] == [part.sha256 for part in expected[:3]]
    assert [len(part.y) for part in made[:3]] == [44, 10, 10]
    table = {row.tobytes(): label for row, label in zip(X, Y, strict=True)}
    for part in made[:3]:
        assert [table[row.tobytes()] for row in part.given] == part.y.tolist()


def test_a_part_that_is_not_there_is_taken_from_the_training_examples():
    given = {"train": lambda: batches(X, Y), "test": batches(*DATA["test"])}
    made = examples.examples(given, "auto")
    assert [len(part.y) for part in made[:3]] == [54, 10, 12]
    tested = [row.tobytes() for row in made.test.x]
    assert set(tested) == {row.tobytes() for row in DATA["test"][0]}
    assert tested != sorted(tested)  # the first ones stand for all
    rows = {row.tobytes() for part in made[:2] for row in part.x}
    assert rows == {row.tobytes() for row in X}


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (itertools.repeat((X, Y)), "data must end and fit into memory, got 11 batches"),
        ([(X, Y), (X[:, :2], Y)], r"data, batch 1 must hold inputs as .*got \(\(2,"),
        ([(X, Y), (X, Y[:3])], "data, batch 1: y must be 64 class indices"),
        ([(X, Y), (X * np.nan, Y)], r"data, batch 1: x\[0, 0\] is nan"),
        ([(X, Y, Y)], r"data, batch 0 must be a pair \(x, y\), got a tuple of 3"),
        ([{"x": X, "y": Y}], r"data, batch 0 must be a pair \(x, y\), got a dict"),
        (zip(X, Y, strict=True), "got one label: of single examples make batches"),
        (iter([]), "got none: an iterator that was used up"),
        (lambda name: name, "a function of no arguments"),
        ({"train": 3}, "data must be .*got train = a int"),
    ],
)
def test_batches_that_are_none_are_named(loader, message, monkeypatch):
    monkeypatch.setattr(examples, "_MOST_BATCHES", 10)
    with pytest.raises(ValueError, match=message):
        examples.examples(loader, "auto")


def test_batches_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(examples, "_MOST_BYTES", 5 * X.nbytes)
    with pytest.raises(ValueError, match="fit into memory, got 3 batches, .* GiB"):
        examples.examples([(X, Y)] * 4, "auto")


def same_trees(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def by_hand(params):
    """Accuracy and P@k of parameters on the validation part, from the plain parts."""
    x, y = DATA["valid"]
    logits = jax.vmap(bent, (None, 0))(params, x)
    attack = r2.attack("er_surrogate", k=K)
    subject = r2.subject(bent, params)
    precision = attack(subject, x, OPTIONS["threat"], key=jax.random.key(0)).precision
    return float(metrics.accuracy(y, logits)), float(np.mean(precision))


def test_the_chosen_checkpoint_is_the_best_one_that_keeps_the_accuracy(hardened):
    history, chosen = hardened.history, hardened.chosen
    assert [trial.epoch for trial in history] == [0, 1, 1, 2, 3]  # half, then a quarter
    assert history[0].weights == {} and history[0].admissible
    floor = history[0].quality - 0.05
    assert [trial.admissible for trial in history] == [
        trial.quality >= floor for trial in history
    ]
    kept = [trial for trial in history if trial.admissible]
    assert chosen.precision == max(trial.precision for trial in kept)
    assert chosen.precision > history[0].precision  # there is something to win
    assert all(np.isnan(trial.precision) for trial in history if not trial.admissible)
    # What is said of it is so of the parameters that are handed over.
    measured = by_hand(hardened.params)
    assert measured == pytest.approx((chosen.quality, chosen.precision), abs=1e-6)


def test_the_audits_are_of_the_test_part_before_and_after(hardened):
    np.testing.assert_array_equal(hardened.before.x, DATA["test"][0])
    x, y = DATA["test"]
    logits = jax.vmap(bent, (None, 0))(hardened.params, x)
    np.testing.assert_allclose(hardened.after.outputs, logits, atol=1e-5)
    assert hardened.test_after.accuracy == pytest.approx(
        float(metrics.accuracy(y, logits))
    )
    assert hardened.test_after.auc == pytest.approx(metrics.roc_auc(y, logits[:, 0]))
    text = str(hardened)
    difference = hardened.difference.estimate.mean
    expected = hardened.after.precision.mean() - hardened.before.precision.mean()
    assert difference == pytest.approx(expected)
    assert f"({difference:+.3f}" in text and "logit_h with logit_curvature" in text


def test_a_run_that_was_killed_ends_as_one_that_was_not(hardened, tmp_path):
    whole = ask(num_test=0)

    class Killed(Exception):
        pass

    seen = []

    def kill(done, total, what):
        seen.append((done, total, what))
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        ask(num_test=0, folder=tmp_path, progress=kill)
    assert seen[0] == (0, 3, "training, epoch 0 of 3")
    seen.clear()
    again = ask(num_test=0, folder=tmp_path, progress=lambda *told: seen.append(told))
    assert [done for done, *_ in seen] == [2, 3]  # what was done is not done again
    assert [str(trial) for trial in again.history] == [
        str(trial) for trial in whole.history
    ]
    same_trees(again.params, whole.params)
    # Once more: nothing is left to do, and the result is the same.
    last = ask(num_test=0, folder=tmp_path)
    same_trees(last.params, whole.params)
    with pytest.raises(ValueError, match="tolerance: saved 0.01, given 0.5"):
        ask(num_test=0, folder=tmp_path, tolerance=0.5)
    # The same parameters of another model.
    options = {**OPTIONS, "method": "est_h", "weights": {"curvature": (0.1,)}}
    with pytest.raises(ValueError, match="model: saved"):
        r2.harden(kinked, START, DATA, **options, num_test=0, folder=tmp_path)


def test_the_accuracy_is_kept_though_another_holds_better(hardened):
    free = ask(num_test=0, tolerance=1.0)
    assert free.chosen.precision > hardened.chosen.precision
    assert free.chosen.quality < hardened.history[0].quality - 0.05
    assert hardened.chosen.quality >= hardened.history[0].quality - 0.05
    # The same training, another choice of it.
    assert len(free.history) == len(hardened.history)
    assert free.chosen.weights["logit_curvature"] == 3.0


def test_the_test_part_has_no_say(hardened):
    x, y = DATA["test"]
    poisoned = {**DATA, "test": (x[::-1] * 3 + 1, 1 - y)}
    other = ask(poisoned, tolerance=0.05)
    assert [str(trial) for trial in other.history] == [
        str(trial) for trial in hardened.history
    ]
    same_trees(other.params, hardened.params)
    assert other.test_after != hardened.test_after
    assert not np.array_equal(other.after.precision, hardened.after.precision)


def test_nothing_better_leaves_the_model_as_it_is(hardened):
    kept_model = ask(
        num_test=0,
        tolerance=0,
        quality="auc",
        weights={"logit_curvature": (1e3,)},
        learning_rate=1.0,
        patience=1,
    )
    assert [trial.epoch for trial in kept_model.history] == [
        0,
        1,
    ]  # and no more is tried
    assert kept_model.chosen is kept_model.history[0]
    same_trees(kept_model.params, START)
    assert "the model is the one that was given" in str(kept_model)
    with pytest.raises(ValueError, match="no audits to save"):
        kept_model.save("nowhere")


def test_it_says_when_one_ranking_serves_all_inputs(hardened):
    before = hardened.before
    m = len(before.precision)
    # All of the top set is held, and one map is that of all inputs.
    alike = dataclasses.replace(
        before,
        precision=np.ones(m),
        curve=np.ones_like(before.curve),
        same=0.95,
        maps=np.tile(before.maps[:1], (m, 1)),
    )
    rigged = dataclasses.replace(hardened, after=alike)
    assert rigged.one_ranking and "one ranking for all inputs" in str(rigged)
    # The same gain, and the inputs differ as before: it is earned.
    earned = dataclasses.replace(alike, same=before.same, maps=before.maps)
    rigged = dataclasses.replace(hardened, after=earned)
    assert not rigged.one_ranking and "one ranking" not in str(rigged)


def test_images_and_arrays_that_are_split_here():
    x = RNG.normal(size=(60, 2, 2, 2)).astype(np.float32)
    y = (x[:, 0, 0].sum(-1) > 0).astype(int)

    def apply(params, image):
        hidden = jax.nn.softplus(jnp.einsum("hwc,hwcd->d", image, params["first"]))
        return hidden @ params["second"]

    first, second = RNG.normal(size=(2, 2, 2, 3)), RNG.normal(size=(3, 1))
    params = {"first": np.float32(first), "second": np.float32(second)}
    # Of four pixels: k counts them, not the eight numbers.
    options = {"weights": {"gap": (1.0,)}, "num_epochs": 1, "eval_every": 1}
    with pytest.raises(ValueError, match="k must lie in 1…n−1 = 1…3"):
        r2.harden(apply, params, (x, y), k=4, method="r2et_nh", **options)
    hardened_images = r2.harden(
        apply, params, (x, y), k=1, method="r2et_nh", num_test=0, **options
    )  # fmt: skip
    assert hardened_images.params["first"].shape == (2, 2, 2, 3)
    assert [trial.epoch for trial in hardened_images.history] == [0, 1]


def test_weights_of_gaps_grow_with_the_features_of_images():
    grid = {"gap": (1.0, 3.0), "curvature": (0.1,)}
    factors = weights.scaled(grid, 8 * weights.TABULAR_FEATURES)
    assert factors == {"gap": (8.0, 24.0), "curvature": (0.1,)}
    for terms in (("gap",), ("gap", "curvature")):  # the same effort for all
        assert len(weights.settings(terms)) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": DATA["train"][0]}, "data must be a datasets.Dataset"),
        ({"data": {"valid": DATA["train"]}}, "a mapping of \\['valid'\\]"),
        ({"data": {**DATA, "valid": (DATA["valid"][0], DATA["test"][1])}},
         "valid: y must be 24 class indices"),
        ({"data": {**DATA, "test": (DATA["test"][0][:, :2], DATA["test"][1])}},
         "test must hold inputs as train does"),
        ({"method": "r2"}, "unknown method 'r2'"),
        ({"weights": {"gap": (1.0,)}}, "of each of the penalties"),
        ({"weights": {"logit_curvature": ()}}, "sequence of weights to try"),
        ({"tolerance": -0.1}, "tolerance must be"),
        ({"quality": "f1"}, "unknown quality 'f1'"),
        ({"eval_every": 2}, "multiple of eval_every = 2"),
        ({"k": N}, "k must"),
        ({"num_test": -1}, "num_test must be"),
        ({"progress": 3, "num_test": 0}, "progress must be True.*or a function"),
        ({"params": {**START, "bias": jnp.array(-1)}}, r"int32 at params\['bias'\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ask(**change)


def test_models_that_cannot_be_trained_are_refused():
    x, y = DATA["train"]
    box = adapters.black_box(lambda rows: rows[:, :1], x, output="regression")
    with pytest.raises(ValueError, match="a black box has no gradients"):
        r2.harden(box, DATA, **OPTIONS)
    value = r2.subject(bent, START, output="regression")
    with pytest.raises(ValueError, match="no regression"):
        r2.harden(value, DATA, **OPTIONS)
    with pytest.raises(ValueError, match="2 arguments after a Subject"):
        r2.harden(r2.subject(bent, START), START, DATA, **OPTIONS)
    with pytest.raises(ValueError, match="got no data"):
        r2.harden(bent, **OPTIONS)
