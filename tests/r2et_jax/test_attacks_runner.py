"""The runner against a re-run in Python and P@k by NumPy, float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.models import MLP
from r2et_jax.subject import Form
from r2et_jax.threat import contains, threat_model

N, K, M, STEPS, EVERY = 8, 3, 20, 40, 5


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def net(params, x, /):
    first, bias, second = params
    return second @ jnp.tanh(first @ x + bias)


def parameters(seed=0, num_outputs=1, n=N):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(10, n))),
        jnp.asarray(0.5 * rng.normal(size=10)),
        jnp.asarray(rng.normal(size=(num_outputs, 10))),
    )


def logits_by_hand(params, x):
    first, bias, second = map(np.asarray, params)
    return np.tanh(np.asarray(x) @ first.T + bias) @ second.T


def maps_by_hand(params, x):
    first, bias, second = map(np.asarray, params)
    slope = 1 - np.tanh(np.asarray(x) @ first.T + bias) ** 2
    return np.abs((slope * second[0]) @ first)


def precision_by_hand(clean, moved, k=K):
    """P@k of maps [m, n], by sorting."""
    top, new = (np.argsort(-maps, axis=1)[:, :k] for maps in (clean, moved))
    pairs = zip(top, new, strict=True)
    return np.array([len({*a} & {*b}) / k for a, b in pairs])


def inputs(m=M, n=N, seed=1):
    # Inside the box of `run`.
    return jnp.asarray(np.random.default_rng(seed).normal(size=(m, n)).clip(-2.5, 2.5))


def descent(k=K, step_size=0.04, **keywords):
    return attacks.gradient_attack(
        net,
        saliency.gradient(score.log_odds(net)),
        attacks.goals.mean_gap(),
        k=k,
        optimizer=attacks.optimizers.steepest(step_size),
        **keywords,
    )


@functools.cache
def compiled_default(**keywords):
    return attacks.compile_attack(descent(random_start=0.3), **keywords)


def run(attack=None, *, m=M, n=N, rule="same_class", key=0, epsilon=0.8, **keywords):
    budget = threat_model("l2", epsilon, lower=-2.5, upper=2.5, prediction=rule)
    keywords = {"num_steps": STEPS, "track_every": EVERY, **keywords}
    if attack is None:
        compiled = compiled_default(**keywords)
    else:
        compiled = attacks.compile_attack(attack, **keywords)
    result = compiled(parameters(n=n), inputs(n=n)[:m], budget, key=jax.random.key(key))
    return jax.tree.map(np.asarray, result)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), a, b)


@pytest.fixture(scope="module")
def result():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        return run()


def test_shapes_and_the_clean_explanation(result):
    assert (
        result.details.precision.shape
        == result.details.objective.shape
        == (M, STEPS // EVERY)
    )
    maps = maps_by_hand(parameters(), inputs())
    expected = maps / maps.sum(1, keepdims=True)
    np.testing.assert_allclose(result.clean_map, expected, rtol=1e-9)
    expected = logits_by_hand(parameters(), inputs())
    np.testing.assert_allclose(result.clean_logits, expected, rtol=1e-9, atol=1e-12)
    assert not result.details.tied.any() and not result.details.num_nonfinite.any()


@pytest.mark.parametrize("which", ["best", "best_same_class", "last"])
def test_precision_is_that_of_the_returned_input(result, which):
    last = which == "last"
    returned = getattr(result.details if last else result, which)
    precision = result.details.last_precision if last else returned.precision
    moved = maps_by_hand(parameters(), returned if last else returned.perturbed)
    clean = maps_by_hand(parameters(), inputs())
    np.testing.assert_allclose(precision, precision_by_hand(clean, moved), rtol=1e-9)
    assert 0 < precision.mean() < 0.95


def test_best_is_the_first_lowest_tracked_input_that_is_valid(result):
    close(result.best, result.best_same_class)  # the rule is same_class
    before, after = (
        logits_by_hand(parameters(), x)[:, 0] > 0
        for x in (inputs(), result.best_same_class.perturbed)
    )
    np.testing.assert_array_equal(before, after)
    assert (result.best.precision >= result.details.precision.min(1)).all()
    assert not result.class_changed.any()

    free = run(rule="free")
    lowest = free.details.precision.min(1).clip(0, 1)
    np.testing.assert_array_equal(free.best.precision, lowest)
    assert (free.best.precision <= free.details.last_precision).all()
    whole = np.concatenate([np.ones((M, 1)), free.details.precision], axis=1)
    np.testing.assert_array_equal(free.best.step, EVERY * whole.argmin(1))
    assert (free.best.precision <= free.best_same_class.precision).all()
    # The same steps, judged otherwise; where a class changes it costs something.
    np.testing.assert_array_equal(free.details.last, result.details.last)
    changed = free.class_changed
    assert changed.any()
    np.testing.assert_array_equal(
        result.best.precision[~changed], free.best.precision[~changed]
    )
    p = [
        1 / (1 + np.exp(-logits_by_hand(parameters(), x)[:, 0]))
        for x in (inputs(), free.best.perturbed)
    ]
    np.testing.assert_allclose(free.prediction_change, abs(p[0] - p[1]), atol=1e-12)
    np.testing.assert_array_equal(changed, (p[0] > 0.5) != (p[1] > 0.5))
    last = logits_by_hand(parameters(), free.details.last)[:, 0]
    np.testing.assert_array_equal(
        free.details.last_class_changed, (p[0] > 0.5) != (last > 0)
    )


def test_the_trace_and_the_manipulation_epoch_are_those_of_a_run_in_python(result):
    attack = descent(random_start=0.3)
    params, x = parameters(), inputs()
    budget = threat_model("l2", 0.8, lower=-2.5, upper=2.5, prediction="same_class")
    targets = (logits_by_hand(params, x)[:, 0] > 0).astype(np.int32)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(0), i) for i in range(M)])
    init = jax.jit(
        jax.vmap(lambda x, t, key: attack.init(params, x, t, budget, key=key))
    )
    contexts, states = init(x, targets, keys)
    step = jax.jit(jax.vmap(lambda c, s: attack.step(params, c, s)))
    clean = maps_by_hand(params, x)
    epoch, objective, precision = np.zeros(M, int), [], []
    for number in range(1, STEPS + 1):
        states = step(contexts, states)
        if number % EVERY == 0:
            moved = maps_by_hand(params, states.perturbed)
            precision.append(precision_by_hand(clean, moved))
            objective.append(np.asarray(states.objective))
            epoch[(epoch == 0) & (precision[-1] < 1)] = number
    np.testing.assert_allclose(result.details.last, states.perturbed, rtol=1e-9)
    np.testing.assert_allclose(result.details.precision.T, precision, rtol=1e-9)
    np.testing.assert_allclose(
        result.details.objective.T, objective, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_array_equal(result.manipulated_at, epoch)
    assert len(set(epoch)) >= 3 and (result.vanished == 0).all()


def test_tracking_does_not_change_the_steps(result):
    often = run(track_every=1)
    np.testing.assert_allclose(often.details.last, result.details.last, rtol=1e-9)
    np.testing.assert_array_equal(often.details.precision[:, EVERY - 1 :: EVERY],
                                  result.details.precision)  # fmt: skip
    assert (often.best.precision <= result.best.precision).all()


def test_neither_chunks_nor_neighbours_nor_a_second_run_change_an_example(result):
    close(run(batch_size=7), result)
    close(run(m=1), jax.tree.map(lambda leaf: leaf[:1], result))
    again = run()
    jax.tree.map(np.testing.assert_array_equal, again, result)
    assert np.abs(run(key=1).details.last - result.details.last).min(1).max() > 1e-6


@pytest.mark.parametrize(("n", "k"), [(2, 1), (8, 7)])
def test_the_smallest_and_the_largest_top_sets(n, k):
    attacked = run(descent(k=k), n=n)
    clean = maps_by_hand(parameters(n=n), inputs(n=n))
    moved = maps_by_hand(parameters(n=n), attacked.best.perturbed)
    expected = precision_by_hand(clean, moved, k)
    np.testing.assert_allclose(attacked.best.precision, expected, rtol=1e-9)
    lowest = max(0, 2 * k - n) / k
    assert lowest <= attacked.best.precision.min() < 1


def test_frozen_features_and_a_simplex_stay_admissible():
    threat = threat_model(
        "l2",
        0.8,
        frozen=[0, 5],
        num_features=N,
        groups=[[1, 2, 4]],
        group_rule="simplex",
    )
    x = jnp.clip(inputs(), -1, 1).at[:, jnp.array([1, 2, 4])].set(0).at[:, 2].set(1)
    compiled = attacks.compile_attack(
        descent(random_start=0.3), num_steps=STEPS, track_every=EVERY
    )
    attacked = compiled(parameters(), x, threat, key=jax.random.key(0))
    for moved in (
        attacked.best.perturbed,
        attacked.best_same_class.perturbed,
        attacked.details.last,
    ):
        assert jax.vmap(contains, (None, 0, 0))(threat, x, moved).all()
    assert attacked.best.precision.mean() < 1
    moved = np.abs(attacked.details.last - x).max(axis=0)
    assert (moved[[0, 5]] == 0).all() and (np.delete(moved, [0, 5]) > 0).all()


def test_a_net_of_pieces_hides_its_normalised_gradient_but_not_its_surrogate():
    model = MLP(hidden=(12,))
    exact = saliency.gradient(score.log_odds(model.apply))
    masked = attacks.gradient_attack(
        model.apply,
        exact,
        attacks.goals.mean_gap(),
        k=K,
        optimizer=attacks.optimizers.steepest(0.02),
    )
    form = Form(model.apply, lambda rho: model.surrogate(rho=rho).apply)
    seen = attacks.protocol("er_surrogate", form, k=K).attack
    x = inputs()
    params = model.init(jax.random.key(0), jnp.zeros(N, jnp.float32))
    params = jax.tree.map(lambda leaf: 2 * leaf.astype(float), params)
    attacked = [
        attacks.compile_attack(attack, num_steps=100)(
            params, x, threat_model(), key=jax.random.key(0)
        )
        for attack in (masked, seen)
    ]
    np.testing.assert_array_equal(attacked[0].vanished, 1)
    np.testing.assert_array_equal(attacked[0].details.last, x)
    np.testing.assert_array_equal(attacked[0].best.precision, 1)
    np.testing.assert_array_equal(attacked[1].vanished, 0)
    assert attacked[1].best.precision.mean() < 0.8


def test_maps_that_are_not_finite_are_counted_and_never_best():
    explain = saliency.gradient(score.log_odds(net))

    def broken(params, x, target, /):
        values = explain(params, x, target)
        return jnp.where(jnp.sum(x) > 1, jnp.nan, values)

    base = attacks.random_search(net, broken, k=K)
    kept = []
    x = inputs() - (jnp.sum(inputs(), axis=1, keepdims=True) - 0.9) / N  # sums of .9
    compiled = attacks.compile_attack(base, num_steps=30, track_every=1)
    attacked = compiled(parameters(), x, threat_model(), key=jax.random.key(0))
    np.testing.assert_array_equal(
        attacked.details.num_nonfinite, np.isnan(attacked.details.precision).sum(axis=1)
    )
    assert (
        0 < attacked.details.num_nonfinite.min()
        and attacked.details.num_nonfinite.max() < 30
    )
    assert (np.sum(attacked.best.perturbed, axis=1) <= 1).all()
    kept = np.nanmin(attacked.details.precision, axis=1)
    np.testing.assert_array_equal(attacked.best.precision, np.minimum(kept, 1))
    assert np.isfinite(attacked.best_map).all()


def test_a_clean_map_of_zeros_has_no_precision():
    params = jax.tree.map(jnp.zeros_like, parameters())
    compiled = attacks.compile_attack(descent(), num_steps=10)
    attacked = compiled(params, inputs(2), threat_model(), key=jax.random.key(0))
    assert np.isnan(attacked.precision).all()
    assert np.isnan(attacked.details.precision).all()
    assert (attacked.manipulated_at == 0).all() and (attacked.vanished == 1).all()
    assert (
        attacked.details.tied.all()
        and (attacked.best.perturbed == attacked.details.last).all()
    )


def test_a_penalty_keeps_predictions():
    compiled = attacks.compile_attack(descent(), num_steps=STEPS)
    free, paid = (
        compiled(
            parameters(),
            inputs(),
            threat_model("l2", 0.8, prediction="penalized", penalty=penalty),
            key=jax.random.key(0),
        )
        for penalty in (0.0, 3.0)
    )
    before = logits_by_hand(parameters(), inputs())
    change = [
        np.abs(logits_by_hand(parameters(), r.details.last) - before)
        for r in (free, paid)
    ]
    assert change[1].mean() < 0.5 * change[0].mean()
    assert paid.prediction_change.mean() < free.prediction_change.mean()
    assert paid.details.last_precision.mean() < 1


def test_several_classes_are_attacked_at_the_predicted_one():
    params = parameters(num_outputs=3)
    compiled = attacks.compile_attack(descent(), num_steps=10)
    attacked = compiled(
        params, inputs(), threat_model("l2", 0.5), key=jax.random.key(0)
    )
    logits = logits_by_hand(params, inputs())
    moved = logits_by_hand(params, attacked.best.perturbed)
    np.testing.assert_array_equal(
        attacked.class_changed, logits.argmax(1) != moved.argmax(1)
    )

    def soft(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    expected = np.abs(soft(moved) - soft(logits)).sum(1) / 2
    np.testing.assert_allclose(attacked.prediction_change, expected, atol=1e-12)

    # The map is |∇ₓ log p_c/(1 − p_c)| of the predicted class, by differences.
    def odds(x):
        p = soft(logits_by_hand(params, x))[np.arange(M), logits.argmax(1)]
        return np.log(p / (1 - p))

    step = 1e-6
    slope = np.stack(
        [
            (odds(inputs() + e) - odds(inputs() - e)) / (2 * step)
            for e in step * np.eye(N)
        ],
        axis=1,
    )
    expected = np.abs(slope) / np.abs(slope).sum(1, keepdims=True)
    np.testing.assert_allclose(attacked.clean_map, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_steps": 25}, "num_steps must be a multiple of track_every = 10, got 25"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1, got 0"),
        ({"num_steps": 10, "track_every": 0}, "track_every must be an integer"),
        ({"num_steps": 10, "batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_counts_out_of_range_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        compiled = attacks.compile_attack(descent(), **keywords)
        compiled(parameters(), inputs(2), threat_model(), key=jax.random.key(0))


def test_the_manipulation_epoch_of_a_share_is_the_first_below_it():
    precision = np.array([[1, 0.9, 0.8, 0.7], [1, 0.9, 1, 0.9], [0.1, 1, 1, np.nan]])
    for share, expected in ((1, [2, 2, 1]), (0.8, [4, 0, 1]), (0.1, [0, 0, 0])):
        epochs = attacks.manipulation_epoch(precision, share=share)
        np.testing.assert_array_equal(epochs, expected)
    epochs = attacks.manipulation_epoch(precision, track_every=5)
    np.testing.assert_array_equal(epochs, [10, 10, 5])
    for wrong in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
            attacks.manipulation_epoch(precision, share=wrong)
    with pytest.raises(ValueError, match="track_every"):
        attacks.manipulation_epoch(precision, track_every=0)
