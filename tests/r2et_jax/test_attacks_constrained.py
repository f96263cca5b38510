"""Weighting rules against hand-made steps, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks import constrained
from r2et_jax.attacks.constrained import boundary_divergence, constrained_attack
from r2et_jax.attacks.descent import prediction_divergence
from r2et_jax.threat import threat_model

N, K = 5, 2
_RNG = np.random.default_rng(3)
W1, B1 = 0.9 * _RNG.normal(size=(N, 7)), 0.3 * _RNG.normal(size=7)
W2 = _RNG.normal(size=7)
X = 0.5 * _RNG.normal(size=(12, N))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def parameters(dtype=None):
    return tuple(jnp.asarray(v, dtype or float) for v in (W1, B1, W2))


def network(params, x, /):
    w1, b1, w2 = params
    return (jnp.tanh(x @ w1 + b1) @ w2)[None]


def halves(params, x, /):
    """A second prediction, with two logits, of the same input."""
    w1, b1, _ = params
    h = jnp.tanh(x @ w1 + b1)
    return jnp.stack([h[:3].sum(), h[3:].sum()])


def build(weighting, *, goal=None, step=0.1, **keywords):
    return constrained_attack(
        network,
        saliency.gradient(score.log_odds(network)),
        attacks.goals.mean_gap() if goal is None else goal,
        k=K,
        weighting=weighting,
        optimizer=attacks.optimizers.steepest(step),
        **keywords,
    )


def start(attack, x=X[0], **threat):
    params = parameters()
    context, state = attack.init(
        params,
        jnp.asarray(x, float),
        score.predicted_class(network(params, jnp.asarray(x, float))),
        threat_model("l2", 0.8, **threat),
        key=jax.random.key(1),
    )
    return params, context, state


# Scales.


@given(
    logits=arrays(np.float64, 4, elements=st.floats(-4, 4)),
    shift=arrays(np.float64, 4, elements=st.floats(-3, 3)),
)
def test_a_divergence_below_the_boundary_keeps_the_class(logits, shift):
    with jax.enable_x64(True):
        clean, moved = jnp.asarray(logits), jnp.asarray(logits + shift)
        bound = float(boundary_divergence(clean))
        divergence = float(prediction_divergence(clean, moved))
    if logits.argmax() != (logits + shift).argmax():
        assert divergence >= bound - 1e-12


@pytest.mark.usefixtures("float64")
def test_the_boundary_divergence_is_attained_at_the_tie():
    p = np.array([0.1, 0.5, 0.3, 0.1])
    tie = np.array([0.1, 0.4, 0.4, 0.1])
    bound = float(boundary_divergence(jnp.log(p)))
    np.testing.assert_allclose(bound, np.sum(p * np.log(p / tie)), rtol=1e-12)
    binary = boundary_divergence(jnp.array([1.3]))
    np.testing.assert_allclose(binary, boundary_divergence(jnp.array([0.0, 1.3])))
    assert boundary_divergence(jnp.array([0.0])) == 0


def test_the_boundary_divergence_of_a_saturated_prediction_is_finite():
    np.testing.assert_allclose(
        boundary_divergence(jnp.float32([-300.0])), np.log(2), rtol=1e-6
    )


# The rules, step by step.


def reference_parts(params, context, perturbed, models=(network,)):
    """Scaled objectives and gradients by other means than the attack's."""
    g = jax.grad(lambda x: network(params, x)[0])
    target = int(context.target)
    sign = 1 if target == 1 else -1
    mask = np.asarray(context.top_mask)

    def gap(x):
        values = jnp.abs(sign * g(x))
        values = values / values.sum()
        return values[mask].mean() - values[~mask].mean()

    def probabilities(model, x):
        logits = model(params, x)
        logits = jnp.concatenate([jnp.zeros(1), logits]) if logits.size == 1 else logits
        return jnp.exp(logits) / jnp.exp(logits).sum()

    def divergence(model, x):
        p, q = probabilities(model, context.clean), probabilities(model, x)
        return jnp.sum(p * jnp.log(p / q))

    values, gradients, scales = [], [], []
    first = np.asarray(context.reference.scales)[0]
    for fn, scale in [(gap, first), *((m, None) for m in models)]:
        if scale is None:
            p = np.sort(np.asarray(probabilities(fn, context.clean)))[::-1]
            mean = (p[0] + p[1]) / 2
            scale = p[0] * np.log(p[0] / mean) + p[1] * np.log(p[1] / mean)
            scale, model = max(scale, 1e-3), fn

            def fn(x, model=model):
                return divergence(model, x)

        values.append(float(fn(perturbed)) / scale)
        gradients.append(np.asarray(jax.grad(fn)(perturbed)) / scale)
        scales.append(scale)
    np.testing.assert_allclose(context.reference.scales, scales, rtol=1e-9)
    return np.array(values), np.array(gradients)


def project_simplex(y):
    """By sorting (Held et al.), not by halving."""
    u = np.sort(y)[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, len(y) + 1)
    return np.maximum(y - excess[np.flatnonzero(u > excess)[-1]], 0)


def next_weights(weighting, weights, values, gradients, rate):
    if weighting == "unconstrained":
        return np.eye(len(weights))[0]
    if weighting == "gda":
        return project_simplex(weights + rate * values)
    if weighting == "hedge":
        raised = weights * np.exp(rate * values)
        return raised / raised.sum()
    if weighting == "qp":
        fine = np.linspace(0, 1, 200_001)
        square, cross, other = (
            gradients[0] @ gradients[0],
            gradients[0] @ gradients[1],
            gradients[1] @ gradients[1],
        )
        lengths = fine**2 * square + 2 * fine * (1 - fine) * cross
        share = fine[np.argmin(lengths + (1 - fine) ** 2 * other)]
        return np.array([share, 1 - share])
    return weights


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weighting", constrained.WEIGHTINGS)
def test_steps_are_those_of_the_rule(weighting):
    given_weights = (0.6, 0.4)
    attack = build(weighting, learning_rate=0.7, weights=given_weights)
    params, context, state = start(attack)
    weights = np.array(given_weights)
    for _ in range(3):
        perturbed = np.asarray(state.perturbed)
        values, gradients = reference_parts(params, context, state.perturbed)
        weights = next_weights(weighting, weights, values, gradients, 0.7)
        state = attack.step(params, context, state)
        np.testing.assert_allclose(state.objectives, values, rtol=1e-7)
        np.testing.assert_allclose(state.weights, weights, atol=1e-5)
        mixture = np.asarray(state.weights) @ gradients
        moved = perturbed - 0.8 * 0.1 * mixture / np.linalg.norm(mixture)
        np.testing.assert_allclose(state.perturbed, moved, rtol=1e-7)
    assert state.num_vanished == 0


@pytest.mark.usefixtures("float64")
def test_several_predictions_are_several_objectives():
    attack = build("qp", predictions=(network, halves, network))
    params, context, state = start(attack)
    values, gradients = reference_parts(
        params, context, state.perturbed, (network, halves, network)
    )
    state = attack.step(params, context, state)
    assert state.weights.shape == state.objectives.shape == (4,)
    np.testing.assert_allclose(state.objectives, values, rtol=1e-7)
    point = np.asarray(state.weights) @ gradients
    # Only the shortest point of the hull has this.
    assert (gradients @ point).min() >= (1 - 1e-9) * (point @ point)


@pytest.mark.parametrize("weighting", ["fixed", "gda", "hedge", "qp"])
def test_a_vanished_gradient_is_left_out(weighting):
    # At x itself ∇KL is zero: all the weight on it must not stop the attack.
    attack = build(weighting, random_start=0.0, weights=(0.0, 1.0), learning_rate=1e-9)
    plain = build("unconstrained", random_start=0.0)
    params, context, state = start(attack)
    np.testing.assert_array_equal(state.perturbed, context.clean)
    moved = attack.step(params, context, state)
    expected = plain.step(*start(plain))
    assert moved.num_vanished == 0
    np.testing.assert_allclose(moved.perturbed, expected.perturbed, atol=1e-6)
    assert np.all(np.isfinite(moved.weights))


def test_hedge_survives_an_underflowed_weight():
    attack = build("hedge", learning_rate=200.0)
    params, context, state = start(attack)
    state = attack.step(params, context, state)
    np.testing.assert_allclose(state.weights, [1.0, 0.0], atol=1e-6)
    # Far away the divergence is larger, and its weight comes back from zero.
    far = state._replace(perturbed=context.clean + 5.0)
    for _ in range(3):
        far = attack.step(params, context, far._replace(perturbed=far.perturbed + 5.0))
    assert np.all(np.isfinite(far.weights))
    rule = constrained._RULES["hedge"]
    back = rule(jnp.float32([1, 0]), jnp.float32([0, 9]), None, None, 50.0)
    assert back[1] > 0.99


# Under the runner.


def run_attack(attack, budget, num_steps=40, x=X):
    run = attacks.compile_attack(attack, num_steps=num_steps, track_every=5)
    return run(parameters(), jnp.asarray(x, float), budget, key=jax.random.key(0))


@pytest.fixture(scope="module")
def results():
    """Rules on the same inputs, from the same random starts; each is compiled."""
    budget = threat_model("l2", 1.2)
    schedule = optax.cosine_decay_schedule(0.1, 40)
    return {
        name: run_attack(build(name, step=schedule), budget)
        for name in ("unconstrained", "gda", "hedge", "qp")
    }


@pytest.mark.parametrize("weighting", ["gda", "hedge", "qp"])
def test_a_constrained_attack_keeps_predictions_and_still_lowers_the_overlap(
    results, weighting
):
    free, kept = results["unconstrained"], results[weighting]
    moved = np.linalg.norm(np.asarray(kept.details.last - free.details.last), axis=1)
    assert moved.mean() > 0.05

    def divergence(result):
        pairs = zip(result.clean_logits, result.details.last_logits, strict=True)
        return np.mean([float(prediction_divergence(*p)) for p in pairs])

    assert divergence(kept) < 0.7 * divergence(free)
    assert (
        kept.details.last_class_changed.mean() <= free.details.last_class_changed.mean()
    )
    assert kept.best.precision.mean() < 0.9
    assert kept.details.num_nonfinite.sum() == 0


@pytest.mark.standard_promotion  # Adam
def test_any_explanation_and_flat_goals_are_served():
    explain = saliency.integrated_gradients(score.log_odds(network), num_points=8)
    attack = constrained_attack(
        network,
        explain,
        attacks.goals.mse(),
        k=K,
        weighting="hedge",
        optimizer=attacks.optimizers.adam(0.05),
        attack_saliency=saliency.gradient(score.log_odds(network)),
    )
    result = run_attack(attack, threat_model("l2", 0.8), num_steps=10, x=X[:3])
    assert np.isfinite(result.details.last).all()
    assert (np.linalg.norm(result.details.last - X[:3], axis=1) > 0.1).all()


def test_the_learning_rate_and_the_weights_may_be_traced():
    def last(rate, weights):
        attack = build("gda", learning_rate=rate, weights=weights)
        params, context, state = start(attack)
        return attack.step(params, context, state).weights

    traced = jax.jit(last)(jnp.float32(0.3), jnp.float32([3.0, 1.0]))
    np.testing.assert_allclose(traced, last(0.3, (0.75, 0.25)), atol=1e-5)


def test_float32_and_float64_agree():
    attack = build("gda")
    params, context, state = start(attack)
    for _ in range(3):
        state = attack.step(params, context, state)
    begin = np.asarray(start(attack)[2].perturbed, np.float64)
    with jax.enable_x64(True):
        double = build("gda", random_start=0.0)
        clean = jnp.asarray(X[0])
        # The draws differ between the float types: begin where float32 began.
        context, other = double.init(
            parameters(),
            clean,
            context.target,
            threat_model("l2", 0.8),
            key=jax.random.key(1),
            start=jnp.asarray(begin),
        )
        for _ in range(3):
            other = double.step(parameters(), context, other)
        np.testing.assert_allclose(state.perturbed, other.perturbed, atol=2e-5)
        np.testing.assert_allclose(state.weights, other.weights, atol=2e-5)


# Mistakes.


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"weighting": "adam"}, "unknown weighting 'adam'; known: fixed, gda"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"random_start": -1.0}, "random_start must be nonnegative"),
        ({"scale_floor": 0.0}, "scale_floor must be positive"),
        ({"weights": (0.5, 0.3, 0.2)}, r"2 in all, got shape \(3,\)"),
        ({"weights": (0.5, -0.3)}, "weights must be nonnegative"),
        ({"weights": (0.0, 0.0)}, "weights must be nonnegative and not all zero"),
        ({"predictions": ()}, "predictions must be 1…5 models, got 0"),
    ],
)
def test_mistakes_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        build(**{"weighting": "gda", **keywords})


def test_a_penalised_prediction_is_refused():
    with pytest.raises(ValueError, match="got penalized"):
        start(build("gda"), prediction="penalized")
