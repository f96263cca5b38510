"""Networks trained on intervals of their explanations, and what certifies them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.console import cli
from experiments.evidence import experiment as evidence
from experiments.evidence import gradcert, interval_nets
from experiments.problems import presets
from r2et_jax import certificates, models, threat
from r2et_jax.datasets.images import FORMAT_VERSION

N, CLASSES = 6, 3


def small(activation, seed=0, scale=2.0, hidden=8):
    model = models.MLP((hidden,), CLASSES, activation=activation)
    key, x_key = jax.random.split(jax.random.key(seed))
    x = jax.random.uniform(x_key, (N,))
    params = jax.tree.map(lambda leaf: scale * leaf, model.init(key, x))
    return model, params, x


def explanations(model, label):
    """Of the loss and of the score, by automatic differentiation of nothing else."""

    def score(params, x):
        return model.apply(params, x)[label]

    def own_part(params, x):
        p = jax.nn.softmax(model.apply(params, x))[label]
        return (1 - p) * jax.grad(score, argnums=1)(params, x)

    return {"score": jax.grad(score, argnums=1), "loss": own_part}


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("explanation", gradcert.EXPLANATIONS)
def test_intervals_hold_all_of_the_ball(activation, explanation):
    model, params, x = small(activation)
    epsilon, rng = 0.2, np.random.default_rng(0)
    moves = rng.uniform(-1, 1, (4000, N))
    moves[2000:] = np.sign(moves[2000:])
    # Each unit as far as it goes.
    weight = np.asarray(params["params"]["Dense_0"]["kernel"])
    moves = np.concatenate([moves, np.sign(weight.T), -np.sign(weight.T)])
    points = (np.asarray(x) + epsilon * moves).astype(np.float32)
    for label in range(CLASSES):
        explain = explanations(model, label)[explanation]
        bounded = gradcert.EXPLANATIONS[explanation](
            model, params, x, jnp.asarray(label), epsilon
        )
        np.testing.assert_allclose(
            bounded.value, explain(params, x), rtol=1e-4, atol=1e-6
        )
        seen = np.asarray(jax.vmap(lambda p, e=explain: e(params, p))(points))
        assert np.all(seen >= bounded.lower - 1e-5)
        assert np.all(seen <= bounded.upper + 1e-5)
        # They do not hold half of it only.
        width = np.asarray(bounded.upper - bounded.lower)
        assert np.any(np.ptp(seen, axis=0) > 0.25 * width)


def test_of_one_unit_both_intervals_are_reached():
    """φ′ is monotone, and all scores move with the one unit."""
    model, params, x = small("softplus", hidden=1)
    weight = np.asarray(params["params"]["Dense_0"]["kernel"])[:, 0]
    ends = [np.asarray(x) + 0.3 * side * np.sign(weight) for side in (-1, 1)]
    label = jnp.asarray(1)
    explain = explanations(model, 1)["score"]
    reached = np.stack([explain(params, jnp.asarray(end)) for end in ends])
    score = interval_nets.bounded_score(model, params, x, label, 0.3)
    np.testing.assert_allclose(score.lower, reached.min(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(score.upper, reached.max(axis=0), rtol=1e-4, atol=1e-6)
    out = np.asarray(params["params"]["Dense_1"]["kernel"])[0]
    bias = np.asarray(params["params"]["Dense_1"]["bias"])
    unit = [float(model.clone(num_outputs=1).apply(_alone(params), end)[0])
            for end in ends]  # fmt: skip
    least = np.minimum(out * unit[0], out * unit[1]) + bias
    most = np.maximum(out * unit[0], out * unit[1]) + bias
    is_label = np.arange(CLASSES) == 1
    worst, best = (
        1 - jax.nn.softmax(np.where(is_label, own_end, other_end))[1]
        for own_end, other_end in ((least, most), (most, least))
    )
    products = np.stack(
        [share * end for share in (worst, best) for end in (score.lower, score.upper)]
    )
    loss = interval_nets.bounded_loss(model, params, x, label, 0.3)
    np.testing.assert_allclose(loss.lower, products.min(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss.upper, products.max(axis=0), rtol=1e-4, atol=1e-6)


def _alone(params):
    """The hidden unit itself as the one output."""
    out = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    return {"params": {"Dense_0": params["params"]["Dense_0"], "Dense_1": out}}


def test_the_farther_end_counts_in_the_length_of_the_explanation():
    value = jnp.array([3.0, 0.0, -4.0])
    below, above = jnp.array([1.0, 0.0, 2.0]), jnp.array([3.0, 0.0, 1.0])
    bounded = interval_nets.Bounded(jnp.zeros(2), value, value - below, value + above)
    expected = np.hypot(3, 2) / 5
    assert float(interval_nets.change(bounded)) == pytest.approx(expected)
    # Also of explanations whose squares underflow.
    tiny = jax.tree.map(lambda leaf: leaf * 1e-30, bounded)
    assert float(interval_nets.change(tiny)) == pytest.approx(expected, rel=1e-4)


def test_gaps_are_bounded_across_the_border():
    """Of the top set and the rest by hand, from φ′ that all pairs share."""
    model, params, x = small("softplus", seed=4)
    label, epsilon, k = jnp.asarray(2), 0.15, 2
    weight = np.asarray(params["params"]["Dense_0"]["kernel"], float)
    bias = np.asarray(params["params"]["Dense_0"]["bias"], float)
    out = np.asarray(params["params"]["Dense_1"]["kernel"], float)[:, 2]
    reach = epsilon * np.abs(weight).sum(axis=0)
    center = np.asarray(x, float) @ weight + bias
    low, mid, high = (
        jax.nn.sigmoid(model.rho * (center + s * reach)) for s in (-1, 0, 1)
    )
    g = weight @ (out * mid)
    order = np.argsort(-np.abs(g))
    hinges = []
    for i in order[:k]:
        # All but k features are outside of it, those next to it first.
        for j in order[k : 2 * k]:
            rows = [np.sign(g[i]) * weight[i] - t * weight[j] for t in (1, -1)]
            gap = min(
                np.sum(np.minimum(out * row * low, out * row * high)) for row in rows
            )
            hinges.append(max(interval_nets._GAP - gap / np.abs(g).mean(), 0))
    hinge = interval_nets.gap_hinge(model, params, x, label, epsilon, k=k)
    assert float(hinge) == pytest.approx(np.mean(hinges), rel=1e-3)
    assert min(hinges) < max(hinges)


def candidate(weight, accuracy, change):
    return gradcert.Candidate(weight, None, accuracy, change)


def test_the_least_change_of_those_that_are_accurate_enough():
    error = presets.GRADCERT_ERROR
    three = [
        candidate(1.0, 0.95 + 2 * error, 0.5),
        candidate(2.0, 0.95 + error / 2, 0.1),
        candidate(3.0, 0.99, 0.7),
    ]
    assert gradcert.chosen(three, 0.95).weight == 1.0
    assert gradcert.chosen(three, 0.9).weight == 2.0
    assert gradcert.chosen(three, 0.999).weight == 3.0


def numbers(**changes):
    made = {
        "weight": 1.0, "accuracy": 0.96, "k": 50, "certified": 0.5, "seconds": 1.0,
        "loss_median": 1.0, "loss_within_2": 0.9, "loss_within_1": 0.4,
        "score_median": 0.3, "score_within_2": 1.0, "score_within_1": 0.8,
    }  # fmt: skip
    return {**made, **changes}


@pytest.mark.parametrize(
    ("worse", "value"),
    [
        ("certified", 0.49),
        ("loss_median", 1.01),
        ("score_median", 0.31),
        ("loss_within_2", 0.89),
        ("loss_within_1", 0.39),
        ("score_within_2", 0.99),
        ("score_within_1", 0.79),
        ("accuracy", 0.949),
    ],
)
def test_ours_is_behind_nowhere(worse, value):
    rival = numbers(accuracy=0.87)
    assert gradcert.finding("ours", numbers(), 0.95, rival, rival).holds
    behind = gradcert.finding("ours", numbers(**{worse: value}), 0.95, rival, rival)
    assert not behind.holds
    assert behind.numbers[worse] == value
    assert behind.numbers["theirs_accuracy"] == 0.87
    # Of theirs nothing is asked but its accuracy.
    alone = gradcert.finding("theirs", numbers(**{worse: value}), 0.95)
    assert alone.holds == (worse != "accuracy")


def test_certified_top_sets_are_those_of_the_predicted_score():
    model, params, _ = small("softplus", seed=3)
    x = np.random.default_rng(1).uniform(size=(5, N)).astype(np.float32)
    epsilon, k = 0.03, 2
    certified = gradcert.certified_precision(model, params, x, epsilon=epsilon, k=k)
    assert 0 < certified.mean() < 1

    def of_label(row, label):
        def score(params, x):
            return jnp.take(model.apply(params, x), label)[None]

        ball = threat.threat_model("linf", epsilon, lower=0.0, upper=1.0)
        prove = certificates.program_certificate(score, k=k)
        return prove(params, row, ball).precision

    labels = jnp.argmax(model.apply(params, x), axis=1)
    proved = jax.jit(jax.vmap(of_label))(x, labels)
    np.testing.assert_array_equal(certified, proved)
    moves = np.random.default_rng(2).choice([-1, 1, 0.3], (300, N)) * epsilon
    for row, share in zip(x, certified, strict=True):
        label = int(jnp.argmax(model.apply(params, row)))
        explain = jax.vmap(
            lambda p, c=label: explanations(model, c)["score"](params, p)
        )
        points = np.clip(row + moves, 0, 1).astype(np.float32)
        maps = np.abs(explain(np.concatenate([row[None], points])))
        top = np.argsort(-maps, axis=1)[:, :k]
        kept = [len(set(top[0]) & set(other)) / k for other in top[1:]]
        assert share <= min(kept)
    far = gradcert.certified_precision(model, params, x, epsilon=0.8, k=k)
    assert far.mean() < certified.mean()


@pytest.mark.parametrize(("name", "weight"), [("GradCert", 0.03), ("ours", 1.0)])
def test_training_narrows_what_it_penalises(name, weight):
    method = interval_nets.METHODS[name]._replace(weights=(0.0, weight))
    rng = np.random.default_rng(0)
    y = np.arange(400) % CLASSES
    x = 0.3 * rng.uniform(size=(400, N)) + 0.6 * np.eye(N)[y]
    x = x.astype(np.float32)
    model = interval_nets.network(method, (8,), CLASSES)
    options = {"epsilon": 0.1, "num_epochs": 200, "k": 2, "seed": 0}
    plain, narrow = interval_nets.train(method, model, x, y, **options)

    def penalty(params):
        def of_image(x, y):
            bounded = interval_nets.bounded_loss(model, params, x, y, 0.1)
            return method.penalty(bounded)

        return float(jnp.mean(jax.vmap(of_image)(x, y)))

    assert penalty(narrow) < 0.8 * penalty(plain)
    for params in (plain, narrow):
        predicted = np.argmax(model.apply(params, x), axis=1)
        assert np.mean(predicted == y) > 0.8


@pytest.fixture
def digits(tmp_path):
    """Scikit-learn's digits as if they were MNIST's."""
    raw = load_digits()
    images = np.rint(raw.images * 255 / 16).astype(np.uint8)
    rows = np.arange(len(images))
    meta = {"name": "mnist_digits", "format_version": FORMAT_VERSION}
    np.savez(
        tmp_path / "mnist_digits.npz",
        images=images,
        y=raw.target,
        train=rows[:1200],
        valid=rows[1200:1500],
        test=rows[1500:],
        meta=np.array(json.dumps(meta)),
    )
    return tmp_path


def test_the_claim_runs(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.GRADCERT, "smoke", (600, 60, 40, 3))
    monkeypatch.setattr(presets, "GRADCERT_GOALS", {0.01: (0.1, 0.2)})
    monkeypatch.setattr(presets, "GRADCERT_HIDDEN", (16,))
    with pytest.raises(SystemExit) as stopped:
        cli.call(
            evidence,
            "--claim=gradcert",
            "--preset=smoke",
            "--noprogress",
            f"--data_dir={digits}",
            f"--output_dir={tmp_path}",
        )
    findings = json.loads((tmp_path / "gradcert" / "findings.json").read_text())
    theirs, ours = findings["findings"]
    assert theirs["subject"] == "mnist_digits, ε = 0.01, GradCert"
    assert theirs["numbers"]["weight"] == 1.0
    assert ours["numbers"]["weight"] in interval_nets.METHODS["ours"].weights
    assert ours["numbers"]["images"] == 40 and ours["numbers"]["ranked"] == 3
    assert ours["numbers"]["accuracy"] > 0.3
    held = theirs["holds"] and ours["holds"]
    assert stopped.value.code == (0 if held else 2)
