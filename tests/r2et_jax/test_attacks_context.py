"""Attacks on models of pairs against loops over examples with the partner closed in."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, models, saliency, score
from r2et_jax.attacks import constrained, goals, optimizers
from r2et_jax.attacks.ensemble import Member
from r2et_jax.attacks.runner import attack_batch, attack_example
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.context import without_context
from r2et_jax.models.siamese import class_apply
from r2et_jax.threat import contains, threat_model

N, K, M = 6, 2, 7
MODEL = models.Siamese(
    models.MLP(hidden=(8,), num_outputs=4, activation="tanh"), num_outputs=3
)
PAIR, SINGLE = models.pair_apply(MODEL), class_apply(MODEL)
STEPS, EVERY = 12, 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def parameters():
    params = MODEL.init(jax.random.key(0), jnp.zeros((2, N), jnp.float32))
    # An encoder and a classifier whose outputs are not all alike.
    return jax.tree.map(lambda leaf: 1.5 * leaf.astype(float), params)


def pairs(m=M, seed=1):
    both = np.random.default_rng(seed).normal(size=(2, m, N))
    return both[0], both[1]


def embedding(x):
    layers = jax.tree.map(np.asarray, parameters()["params"]["encoder"])
    first, second = layers["Dense_0"], layers["Dense_1"]
    hidden = jnp.tanh(x @ first["kernel"] + first["bias"])
    return hidden @ second["kernel"] + second["bias"]


def logit_by_hand(x, partner):
    head, e, f = parameters()["params"], embedding(x), embedding(partner)
    cosine = e @ f / jnp.sqrt((e @ e) * (f @ f))
    return (head["scale"] * cosine + head["bias"])[0]


def classes_by_hand(x):
    linear = parameters()["params"]["classifier"]
    logits = embedding(x) @ linear["kernel"] + linear["bias"]
    return jnp.exp(logits) / jnp.exp(logits).sum(axis=-1, keepdims=True)


maps_by_hand = jax.jit(jax.vmap(lambda x, p: jnp.abs(jax.grad(logit_by_hand)(x, p))))
logits_by_hand = jax.jit(jax.vmap(logit_by_hand))


def precision_by_hand(x, moved, partner):
    top, new = (
        np.argsort(-maps_by_hand(v, partner), axis=1)[:, :K] for v in (x, moved)
    )
    return np.array([len({*a} & {*b}) / K for a, b in zip(top, new, strict=True)])


def descent(apply=PAIR, temperature=0.5):
    return attacks.gradient_attack(
        apply,
        saliency.gradient(score.log_odds(apply)),
        goals.smooth_precision(temperature=temperature),
        k=K,
        optimizer=optimizers.steepest(0.2),
        random_start=0.5,
    )


THREAT = {"norm": "l2", "epsilon": 0.8, "prediction": "same_class"}


@functools.cache
def compiled(batch_size=1024):
    return attacks.compile_attack(
        descent(), num_steps=STEPS, track_every=EVERY, batch_size=batch_size
    )


def run(m=M, batch_size=1024, shift=0):
    x, partner = pairs()
    return compiled(batch_size)(
        parameters(),
        x[:m],
        threat_model(**THREAT),
        key=jax.random.key(0),
        context=np.roll(partner, shift, axis=0)[:m],
    )


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8), a, b)


def test_docstring_examples_run():
    result = doctest.testmod(constrained)
    assert result.attempted > 0 and result.failed == 0


def test_a_batch_of_pairs_is_a_loop_over_models_of_one_input():
    @jax.jit
    def alone(params, x, partner, key):
        def apply(params, x, /):
            return PAIR((params, partner), x)

        target = score.predicted_class(apply(params, x))
        return attack_example(
            descent(apply),
            params,
            x,
            target,
            threat_model(**THREAT),
            key=key,
            num_steps=STEPS,
            track_every=EVERY,
        )

    x, partner = pairs()
    each = [
        alone(parameters(), x[i], partner[i], jax.random.fold_in(jax.random.key(0), i))
        for i in range(M)
    ]
    result = run()
    close(result, jax.tree.map(lambda *leaves: np.stack(leaves), *each))
    batch = attack_batch(descent(), num_steps=STEPS, track_every=EVERY, batch_size=3)
    attacked = jax.jit(batch)(
        parameters(),
        jnp.asarray(x),
        threat_model(**THREAT),
        key=jax.random.key(0),
        context=jnp.asarray(partner),
    )
    close(attacked, result)


def test_the_result_is_about_the_pair():
    result, (x, partner) = run(), pairs()
    moved = result.best.perturbed
    expected = precision_by_hand(x, moved, partner)
    np.testing.assert_allclose(result.best.precision, expected)
    assert expected.mean() < 1
    np.testing.assert_allclose(result.clean_logits[:, 0], logits_by_hand(x, partner))
    np.testing.assert_allclose(result.best_logits[:, 0], logits_by_hand(moved, partner))
    maps = maps_by_hand(x, partner)
    expected = maps / maps.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.clean_map, expected, rtol=1e-8)
    kept = (result.clean_logits > 0) == (result.best_logits > 0)
    assert kept.all() and 0 < (result.clean_logits > 0).sum() < M
    assert np.abs(run(shift=1).clean_logits - result.clean_logits).min() > 1e-3


def test_neither_chunks_nor_neighbours_change_a_pair():
    result = run()
    close(run(batch_size=1), result)
    close(run(m=2, batch_size=1), jax.tree.map(lambda leaf: leaf[:2], result))


def test_a_context_that_is_ignored_changes_nothing_and_costs_no_compilation():
    traces = []

    def single(params, x, /):
        traces.append(None)
        return SINGLE(params, x)

    x, partner = pairs()
    settings = {"num_steps": STEPS, "track_every": EVERY}
    plain = attacks.compile_attack(descent(SINGLE), **settings)
    budget, key = threat_model(**THREAT), jax.random.key(0)
    expected = plain(parameters(), x, budget, key=key)
    other = attacks.compile_attack(descent(without_context(single)), **settings)
    context = {"partner": partner, "number": np.arange(M)}
    result = other(parameters(), x, budget, key=key, context=context)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    before = len(traces)
    context = {"partner": partner + 1, "number": np.arange(M) + 1}
    other(parameters(), x, budget, key=jax.random.key(2), context=context)
    assert len(traces) == before > 0


def test_contexts_of_another_length_are_refused():
    x, partner = pairs()
    with pytest.raises(ValueError, match=r"share one leading axis .* got \[6, 7\]"):
        compiled()(
            parameters(), x, threat_model(), key=jax.random.key(0), context=partner[:6]
        )


def random(apply=PAIR):
    explain = saliency.gradient(score.log_odds(apply))
    return attacks.random_search(apply, explain, k=K)


def test_the_ensemble_keeps_every_input_with_its_partner():
    members = (
        Member("descent", lambda t: descent(PAIR, t), (0.5,), 6, 3, 2, False),
        Member("random", random, (), 8, 1, 1, False),
    )
    x, partner = pairs(12)
    threat = threat_model("l2", 0.4)
    ensemble = compile_strongest(members, evaluations=60, batch_size=5)
    attacked = ensemble(parameters(), x, threat, key=jax.random.key(0), context=partner)
    # Some inputs have dropped out, so that later rounds saw others' rows.
    left = (attacked.details.curve > 0).sum(axis=1)
    assert left.tolist() == sorted(left, reverse=True)
    assert 0 < left[-1] and left[1] < 12 and len(left) == 7
    for best in (attacked.best, attacked.best_same_class):
        expected = precision_by_hand(x, best.perturbed, partner)
        np.testing.assert_allclose(best.precision, expected)
        inside = jax.vmap(contains, (None, 0, 0))(threat, x, best.perturbed)
        assert inside.all()
    kept = attacked.best_same_class.perturbed
    np.testing.assert_array_equal(
        logits_by_hand(x, partner) > 0, logits_by_hand(kept, partner) > 0
    )
    np.testing.assert_allclose(attacked.clean_logits[:, 0], logits_by_hand(x, partner))
    np.testing.assert_allclose(
        attacked.best_logits[:, 0], logits_by_hand(attacked.best.perturbed, partner)
    )


PREDICTIONS = (
    PAIR,
    without_context(SINGLE),
    lambda both, x: SINGLE(*both),  # of the second input, constant in x
)


def constrain(weighting, predictions=PREDICTIONS, **keywords):
    return attacks.constrained_attack(
        PAIR,
        saliency.gradient(score.log_odds(PAIR)),
        goals.mean_gap(),
        k=K,
        weighting=weighting,
        optimizer=optimizers.steepest(0.1),
        predictions=predictions,
        random_start=0.4,
        **keywords,
    )


def divergence(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def test_a_pair_has_three_divergences_of_which_the_partners_is_zero():
    x, partner = (jnp.asarray(part[2]) for part in pairs())
    attack, both = constrain("gda", learning_rate=0.3), (parameters(), partner)

    @jax.jit
    def single(both, x):
        target = score.predicted_class(PAIR(both, x))
        threat = threat_model("l2", 0.8)
        context, first = attack.init(both, x, target, threat, key=jax.random.key(5))
        return context, first, attack.step(both, context, first)

    context, first, state = single(both, x)
    moved = first.perturbed

    def pair(x):
        p = 1 / (1 + np.exp(-logit_by_hand(x, partner)))
        return np.array([1 - p, p])

    expected = [
        divergence(pair(x), pair(moved)),
        divergence(classes_by_hand(x), classes_by_hand(moved)),
        0.0,
    ]
    divergences = np.asarray(state.objectives * context.reference.scales)[1:]
    np.testing.assert_allclose(divergences, expected, rtol=1e-7, atol=1e-15)
    assert divergences[0] > 1e-5 and divergences[1] > 1e-5 and divergences[2] == 0
    # Gradient ascent of the weights by hand: uniform ones, projected on the simplex.
    y = 0.25 + 0.3 * np.asarray(state.objectives)
    u = np.sort(y)[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, 5)
    expected = np.maximum(y - excess[np.flatnonzero(u > excess)[-1]], 0)
    np.testing.assert_allclose(state.weights, expected, atol=1e-12)


def test_a_prediction_that_is_paid_for_stays_and_a_constant_one_has_no_part():
    x, partner = map(jnp.asarray, pairs())

    @jax.jit
    def last(weights):
        attack = constrain("fixed", weights=weights)
        run = attack_batch(attack, num_steps=STEPS, track_every=EVERY)
        budget, key = threat_model("l2", 0.8), jax.random.key(0)
        return run(parameters(), x, budget, key=key, context=partner).details.last

    free, paid, same = (
        last(jnp.array(weights))
        for weights in ([1.0, 0, 0, 0], [0.02, 0, 0.49, 0.49], [0.02, 0, 0.49, 0])
    )
    np.testing.assert_allclose(paid, same, rtol=1e-8)
    clean = classes_by_hand(x)
    changes = [divergence(clean, classes_by_hand(moved)) for moved in (free, paid)]
    assert changes[1].mean() < 0.5 * changes[0].mean()
