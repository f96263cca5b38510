"""Single steps against hand-derived ones, and a model with a known critical radius."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks.descent import prediction_divergence
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

# s(x) = ½ xᵀAx + bᵀx with gradient Ax + b and Hessian A.
A = np.array(
    [[1.0, 0.3, -0.2, 0.5], [0.3, -0.8, 0.4, 0.1], [-0.2, 0.4, 0.6, -0.7],
     [0.5, 0.1, -0.7, 0.2]]
)  # fmt: skip
B = np.array([1.5, -1.1, 0.4, 0.2])
X = np.array([0.1, -0.2, 0.3, 0.05])
K, STEP, EPSILON = 2, 0.1, 0.7


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def quadratic(params, x, /):
    matrix, vector = params
    return (0.5 * x @ matrix @ x + vector @ x)[None]


def one_step(attack, x=X, *, num_steps=1, norm="l2", **threat):
    params = jnp.asarray(A), jnp.asarray(B)
    budget = threat_model(norm, EPSILON, **threat)

    @jax.jit
    def compute(x):
        key = jax.random.key(0)
        context, state = attack.init(params, x, jnp.int32(1), budget, key=key)
        start = state.perturbed
        for _ in range(num_steps):
            state = attack.step(params, context, state)
        return start, state._replace(key=0)

    return jax.tree.map(np.asarray, compute(jnp.asarray(x)))


def gap_weights(g):
    top = np.argsort(-np.abs(g))[:K]
    c = np.full(len(g), -1 / (len(g) - K))
    c[top] = 1 / K
    return c


def mean_gap_attack(normalize, **keywords):
    return attacks.gradient_attack(
        quadratic,
        saliency.gradient(score.log_odds(quadratic), normalize=normalize),
        attacks.goals.mean_gap(),
        k=K,
        optimizer=attacks.optimizers.steepest(STEP),
        **keywords,
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("normalize", [False, True])
def test_one_step_is_the_hessian_times_the_signed_weights(normalize):
    g = A @ X + B
    c = gap_weights(g)
    value = c @ np.abs(g)
    v = c * np.sign(g)
    if normalize:
        total = np.abs(g).sum()
        value /= total
        v = (c - value) * np.sign(g) / total
    expected = X - EPSILON * STEP * (A @ v) / np.linalg.norm(A @ v)
    start, state = one_step(mean_gap_attack(normalize))
    np.testing.assert_array_equal(start, X)
    np.testing.assert_allclose(state.perturbed, expected, rtol=1e-12)
    np.testing.assert_allclose(state.objective, value, rtol=1e-12)
    assert state.num_vanished == 0


@pytest.mark.usefixtures("float64")
def test_steps_are_steepest_in_the_norm_of_the_threat_model():
    g = A @ X + B
    slope = A @ (gap_weights(g) * np.sign(g))
    _, state = one_step(mean_gap_attack(False), norm="linf")
    expected = X - EPSILON * STEP * np.sign(slope)
    np.testing.assert_allclose(state.perturbed, expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_published_attack_sees_the_unnormalised_map_of_the_probability():
    # I = σ′(z)|g|, so ∇ Σ cᵢIᵢ = σ″(z)(Σ cᵢ|gᵢ|)g + σ′(z)·A(c ⊙ sign g).
    z, g = 0.5 * X @ A @ X + B @ X, A @ X + B
    c = gap_weights(g)
    p = 1 / (1 + np.exp(-z))
    first, second = p * (1 - p), p * (1 - p) * (1 - 2 * p)
    gradient = second * (c @ np.abs(g)) * g + first * A @ (c * np.sign(g))
    expected = X - EPSILON * 1e-3 * gradient / np.linalg.norm(gradient)
    _, state = one_step(attacks.protocol("er", Form(quadratic), k=K).attack)
    np.testing.assert_allclose(state.perturbed, expected, rtol=1e-12)
    np.testing.assert_allclose(state.objective, first * (c @ np.abs(g)), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_segment_goal_is_the_mean_over_its_points():
    attack = mean_gap_attack(False, segment_points=5)
    start, first = one_step(attack)
    _, second = one_step(attack, num_steps=2)
    c = gap_weights(A @ X + B)

    def at(perturbed):
        points = [X + t / 5 * (perturbed - X) for t in range(1, 6)]
        signs = [np.sign(A @ point + B) for point in points]
        values = [c @ np.abs(A @ point + B) for point in points]
        slopes = [t / 5 * A @ (c * s) for t, s in zip(range(1, 6), signs, strict=True)]
        return np.mean(values), np.mean(slopes, axis=0)

    _, slope = at(X)
    expected = X - EPSILON * STEP * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(first.perturbed, expected, rtol=1e-12)
    value, slope = at(expected)
    np.testing.assert_allclose(second.objective, value, rtol=1e-12)
    expected -= EPSILON * STEP * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(second.perturbed, expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_an_annealed_attack_sees_what_it_is_given_at_each_step():
    """First Σ cᵢ|gᵢ|, then Σ cᵢ(1 + gᵢ²), as another goal of another explanation."""
    explain = saliency.gradient(score.log_odds(quadratic), normalize=False)

    def at(step):
        def seen(params, x, target):
            return explain(params, x, target) ** (1.0 + step.astype(float))

        def value(values, weights):
            return weights @ (step.astype(float) + values)

        return attacks.goals.mean_gap()._replace(value=value), seen

    _, state = one_step(mean_gap_attack(False, anneal=at), num_steps=2)
    g = A @ X + B
    c = gap_weights(g)
    slope = A @ (c * np.sign(g))
    moved = X - EPSILON * STEP * slope / np.linalg.norm(slope)
    g = A @ moved + B
    slope = A @ (c * g)
    expected = moved - EPSILON * STEP * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(state.perturbed, expected, rtol=1e-12)
    np.testing.assert_allclose(state.objective, c @ (1 + g**2), rtol=1e-12)
    assert state.num_steps == 2


@pytest.mark.usefixtures("float64")
def test_a_flat_goal_starts_at_a_tenth_of_the_budget():
    def mse(random_start):
        return attacks.gradient_attack(
            quadratic,
            saliency.gradient(score.log_odds(quadratic)),
            attacks.goals.mse(),
            k=K,
            optimizer=attacks.optimizers.steepest(STEP),
            random_start=random_start,
        )

    for asked, expected in [(0.0, 0.1), (0.01, 0.1), (0.5, 0.5)]:
        start, state = one_step(mse(asked))
        np.testing.assert_allclose(
            np.linalg.norm(start - X), expected * EPSILON, rtol=1e-9
        )
        assert state.num_vanished == 0 and state.objective < 0


@pytest.mark.usefixtures("float64")
def test_the_penalised_objective_pays_for_the_divergence():
    attack = mean_gap_attack(False)
    free, paid = (
        one_step(attack, num_steps=4, prediction=rule, penalty=3.0)[1]
        for rule in ("free", "penalized")
    )

    def divergence(perturbed):
        clean, moved = (
            1 / (1 + np.exp(-(0.5 * x @ A @ x + B @ x))) for x in (X, perturbed)
        )
        return clean * np.log(clean / moved) + (1 - clean) * np.log(
            (1 - clean) / (1 - moved)
        )

    logits = [jnp.array([0.5 * x @ A @ x + B @ x]) for x in (X, free.perturbed)]
    np.testing.assert_allclose(
        prediction_divergence(*logits), divergence(free.perturbed), rtol=1e-9
    )
    assert divergence(paid.perturbed) < divergence(free.perturbed)


def test_divergence_of_one_logit_is_that_of_two_and_survives_saturation():
    binary = prediction_divergence(jnp.array([-1.5]), jnp.array([0.5]))
    two = prediction_divergence(jnp.array([0.0, -1.5]), jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(binary, two, rtol=1e-6)
    far = prediction_divergence(jnp.array([200.0]), jnp.array([-300.0]))
    np.testing.assert_allclose(far, 300.0, rtol=1e-6)
    slope = jax.grad(prediction_divergence, 1)(jnp.array([2.0]), jnp.array([2.0]))
    assert abs(float(slope[0])) < 1e-6


# z = ½(a₁x₁² + a₂x₂²) + b·x with all aᵢ, bᵢ > 0. At x = 0 the gap |g₁| − |g₂| falls
# fastest along (−a₁, a₂)/‖a‖ and closes at the distance (b₁ − b₂)/‖a‖.
DIAGONAL, SLOPE = np.array([1.0, 0.5]), np.array([2.0, 1.5])
CRITICAL = (SLOPE[0] - SLOPE[1]) / np.linalg.norm(DIAGONAL)


# The MSE attack may settle on the other side, where the gap grows.
@pytest.mark.parametrize("name", ["er", "er_segment", "er_surrogate", "random"])
def test_the_flip_is_found_just_beyond_the_critical_radius(name):
    named = attacks.protocol(name, Form(quadratic), k=1)
    run = attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )
    params = jnp.diag(jnp.float32(DIAGONAL)), jnp.float32(SLOPE)
    below, above = (
        run(
            params,
            jnp.zeros((1, 2)),
            threat_model("l2", share * CRITICAL),
            key=jax.random.key(0),
        )
        for share in (0.98, 1.02)
    )
    assert below.best.precision == 1 and below.manipulated_at == 0
    assert above.best.precision == 0
    assert above.manipulated_at == above.best.step > 0
    g = DIAGONAL * np.asarray(above.best.perturbed[0]) + SLOPE
    assert 0 < g[0] < g[1]
    if name in ("er", "er_segment"):
        # The published step goes straight, so the flip comes at 1/1.02 of the way.
        share = above.manipulated_at[0] / named.num_steps
        assert 0.97 < share <= 1.0
        direction = np.array([-1, 1]) * DIAGONAL / np.linalg.norm(DIAGONAL)
        if name == "er_segment":
            np.testing.assert_allclose(
                above.details.last[0] / (1.02 * CRITICAL), direction, atol=0.05
            )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"random_start": -0.1}, "random_start must be nonnegative"),
        ({"segment_points": 0}, "segment_points must be an integer of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        mean_gap_attack(True, **keywords)


@pytest.mark.parametrize("k", [0, 4, 1.5, True])
def test_k_out_of_range_is_refused(k):
    explain = saliency.gradient(score.log_odds(quadratic))
    run = attacks.compile_attack(
        attacks.random_search(quadratic, explain, k=k), num_steps=10
    )
    with pytest.raises(ValueError, match="k must"):
        run(
            (jnp.float32(A), jnp.float32(B)),
            jnp.float32(X)[None],
            threat_model(),
            key=jax.random.key(0),
        )
